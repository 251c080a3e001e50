"""What all methods promise, and how each of them is trained, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from wsss_kit import engine
from wsss_kit.cam import upsample
from wsss_kit.checkpoints import Checkpoint, fingerprint, fingerprint_masks, load_weights
from wsss_kit.checks import check_images, check_labels, check_recipe, check_samples, check_word
from wsss_kit.classes import Sample
from wsss_kit.clip import WALK_SQUARINGS
from wsss_kit.files import check_card, load_model, plain, save_model
from wsss_kit.masks import BackgroundRule

Recipe = Mapping[str, Any]
COMMON = {"accumulate": (1, 1), "crop": (None, None), "long_side": (None, None)}
"""Rows for `engine.columns` of every training, the same in all presets."""
Own = TypeVar("Own", bound="Learner")  # of a method: its own class


class MethodOutput(NamedTuple):
    """Maps of a batch and, where the method has one of its own, the affinity to refine them with.

    Args:
        cams: (B, C, h, w) in [0, 1], zero where labels is zero.
        affinity: (B, N, N) with N the cells of the method's own grid, or None.
    """

    cams: Tensor
    affinity: Tensor | None = None


class Learner(nn.Module):
    """A network that is trained on images: ``fit``, ``save`` and ``load`` of every method.

    A subclass has ``loss`` and, where not all weights learn alike, ``parameter_groups``.
    Constructor arguments are stored as given; what `fit` learns ends in an underscore. An argument
    that is None takes the preset's value.
    """

    METHOD: ClassVar[str]
    VERSION: ClassVar[int] = 1
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that a preset has values for; they are on the card."""
    SAVED: ClassVar[tuple[str, ...]] = ()
    """Further attributes that are on the card."""
    FREE: ClassVar[tuple[str, ...]] = ("epochs",)
    """Numbers of a training that may differ when it is resumed."""
    preset: str = "reference"
    recipe: dict[str, Any] | None = None
    """Numbers of the training that runs now."""
    losses_: list[Any]

    def keep(self, **given: Any) -> None:
        """Keep arguments as they are given; a module among them is no part of this network."""
        self.__dict__.update(given)

    @property
    def numbers(self) -> Recipe:
        """Numbers of the training that runs now; where none does, those of the preset."""
        return self.recipe or self.values()

    # -- what a method defines --------------------------------------------------------------

    def loss(self, *tensors: Any, **options: Any) -> dict[str, Tensor]:
        """Compute named losses of a batch; ``"total"`` is minimised.

        Raises:
            NotImplementedError: if the method is not trained.
        """
        raise NotImplementedError(f"{type(self).__name__} is not trained, it has no loss")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what learns: ``params``, and perhaps ``lr_scale`` and ``weight_decay`` of each."""
        return [{"params": list(self.parameters())}]

    def fixed(self) -> Iterable[nn.Module]:
        """Return the modules that stay in evaluation mode during training."""
        return ()

    def values(self, **given: Any) -> dict[str, Any]:
        """Return the preset's values, replaced by the constructor's and the given arguments."""
        options = {name: getattr(self, name) for name in self.OPTIONS}
        return preset_values(self.PRESETS, self.preset, {**options, **given})

    def begin(self, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
        """Build what is trained, and complete the recipe."""

    def start(self, samples: Sequence[Sample], recipe: Recipe) -> None:
        """Prepare what was built for the first step; a resumed training has done this."""

    def data(self, samples: Sequence[Sample], recipe: Recipe) -> engine.Data:
        """Return the images with what is learned from them."""
        raise NotImplementedError(f"{type(self).__name__} is not trained, it has no data")

    def identity(self) -> dict[str, Any]:
        """Return what else has to agree for a checkpoint to be one of the same run."""
        return {}

    def after_epoch(self, epoch: int, losses: dict[str, float]) -> None:
        """Look at the mean losses of an epoch."""

    # -- training ---------------------------------------------------------------------------

    def train(self: Own, mode: bool = True) -> Own:
        """Go to training mode, but for what is fixed."""
        super().train(mode)
        for module in self.fixed() if mode else ():
            module.eval()
        return self

    def fit(
        self: Own,
        samples: Sequence[Sample],
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        crop: int | None = None,
        long_side: tuple[int, int] | None = None,
        accumulate: int | None = None,
        workers: int | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_epoch: Callable[[int, Any], None] | None = None,
        progress: bool = True,
        **more: Any,
    ) -> Own:
        """Train by `engine.fit`.

        Args:
            samples: M images with labels; ``samples.classes`` names the classes if it is there.
            epochs: passes over the samples; this and the next arguments take the preset's value
                where they are None.
            batch_size: images a batch.
            learning_rate: of the backbone at its start.
            crop: side of random square crops, needed where images differ in size; None trains on
                whole images.
            long_side: range of the longer side before cropping.
            accumulate: batches whose gradients are averaged for a step, where memory is short.
            workers: processes that read images; None for none on a CPU and up to 8 beside a GPU.
            seed: of new weights, order and views. Equal seeds give equal weights on one machine.
            checkpoint: path that the state is written to, after every epoch and every few minutes,
                and resumed from. It has to be of the same data, seed and recipe; only ``epochs``
                may be more, and then the learning rate falls later from there on than in a run of
                its own.
            on_epoch: called with the number of epochs done and this method, after each.
            progress: whether to show a bar, with the losses.
            **more: other values of the preset.

        Returns:
            Itself, with ``losses_``, the mean losses of every epoch.

        Raises:
            ValueError: if there are no samples, an image, label or number is not what it should
                be, or the checkpoint is of other data or another recipe.
            Diverged: if the loss runs away.
        """
        check_samples(samples)
        given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        given |= {"crop": crop, "long_side": long_side, "accumulate": accumulate, **more}
        recipe = self.values(**{name: plain(value) for name, value in given.items()})
        recipe |= {"workers": workers, "seed": plain(seed), "shown": progress}
        recipe["checkpoint"] = checkpoint
        check_recipe(recipe)
        self.recipe = recipe
        try:
            self.begin(samples, recipe)
            if checkpoint is not None:
                recipe["run"] = self._run(samples, recipe)
            self.learn(samples, recipe, on_epoch=on_epoch)
        finally:
            self.__dict__.pop("recipe", None)
            self.eval()
        return self

    def learn(
        self,
        samples: Sequence[Sample],
        recipe: Recipe,
        *,
        part: int = 0,
        what: str | None = None,
        on_epoch: Callable[[int, Any], None] | None = None,
    ) -> None:
        """Run the loop and keep the mean losses; one number where there is none beside the total.

        Args:
            samples: the images.
            recipe: of `engine.fit`.
            part: number of the training, where a method has several.
            what: name of the bar; None for the method's.
            on_epoch: see `fit`.
        """

        def after_epoch(epoch: int, losses: dict[str, float]) -> None:
            self.after_epoch(epoch, losses)
            if on_epoch is not None:
                on_epoch(epoch + 1, self)

        place = self.place(recipe, part)
        if place is None or place.stored is None or place.stored_part < part:
            self.start(samples, recipe)
        else:
            self.losses_ = place.stored[1]["before"]
        options = {"what": what or self.METHOD, "checkpoint": place, "after_epoch": after_epoch}
        epochs = engine.fit(self, self.data(samples, recipe), recipe, **options)
        self.losses_ += [each if len(each) > 1 else each["total"] for each in epochs]

    def place(self, recipe: Recipe, part: int) -> Checkpoint | None:
        """Return the checkpoint of a part of the training, or None without one."""
        if recipe["checkpoint"] is None:
            return None
        return Checkpoint(recipe["checkpoint"], recipe["run"], part, list(self.losses_))

    def _run(self, samples: Sequence[Sample], recipe: Recipe) -> dict[str, Any]:
        """Return what has to agree for a checkpoint to be of this run."""
        free = ("shown", "workers", "checkpoint", "masks", "pooled", *self.FREE)
        run = {key: value for key, value in self.card().items() if key != "losses"}
        run |= {key: value for key, value in recipe.items() if key not in free}
        run |= {"pictures": len(samples), "data": fingerprint(samples), **self.identity()}
        if recipe.get("masks") is not None:
            run["masks"] = fingerprint_masks(recipe["masks"])
        return run

    # -- files ------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """Return the description that is saved with the weights."""
        saved = {name: getattr(self, name) for name in (*self.OPTIONS, *self.SAVED)}
        losses = getattr(self, "losses_", [])
        return {"method": self.METHOD, "version": self.VERSION, **saved, "losses": losses}

    def save(self, path: str | Path) -> Path:
        """Write ``NAME.safetensors`` with the card in its metadata.

        Args:
            path: with or without the ending.

        Raises:
            RuntimeError: if nothing was learned yet.
        """
        if not hasattr(self, "losses_"):
            raise RuntimeError("nothing to save yet; call fit first")
        return save_model(path, self.state_dict(), self.card())

    @classmethod
    def load(cls: type[Own], path: str | Path, **options: Any) -> Own:
        """Load what `save` wrote, or a pair of files of a version before 0.3.

        Args:
            path: as given to `save`.
            **options: arguments of the constructor instead of what was saved.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method or version, or of another network.
        """
        tensors, card = cls._upgraded(*load_model(path))
        keys = (*cls.OPTIONS, *cls.SAVED, "losses")
        check_card(card, path, method=cls.METHOD, version=cls.VERSION, keys=keys)
        method = cls._built(card, path, options)
        load_weights(method, tensors, path)
        method.losses_ = list(card["losses"])
        return method.eval()

    @classmethod
    def _upgraded(
        cls, tensors: dict[str, Tensor], card: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights and card as this version names them."""
        return tensors, card

    @classmethod
    def _built(cls: type[Own], card: Mapping[str, Any], path: Any, options: dict[str, Any]) -> Own:
        """Build the network that a card describes, with other options instead of some of its."""
        return cls(**{name: card[name] for name in (*cls.OPTIONS, *cls.SAVED)} | options)


class CAMMethod(Learner):
    """A weakly supervised method up to its maps."""

    background: ClassVar[BackgroundRule] = BackgroundRule(threshold=0.15)
    """The published background rule of the maps."""
    walked_background: ClassVar[BackgroundRule] = BackgroundRule(power=16)
    """The published background rule where maps walk with a learned affinity."""
    brings_affinity: ClassVar[bool] = False
    """Whether the output has an affinity to refine the maps with."""

    @property
    def walk_squarings(self) -> int:
        """How often the affinity's transition is squared: as published, or as the method knows."""
        return WALK_SQUARINGS

    @property
    def clamp_boxes(self) -> bool:
        """Whether CLIP-ES's boxes around this method's maps miss the last row and column."""
        return self.preset == "reference"

    def forward(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Compute maps of the classes present: (B, 3, H, W) and (B, C) -> `MethodOutput`.

        It is called without gradients; what differentiates opens ``torch.enable_grad()``.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward(images, labels)")

    @torch.no_grad()
    def full_maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute the maps at the size of the images: -> (B, C, H, W) in [0, 1]."""
        maps = self(images, labels)  # a method of one's own may return a tensor
        return upsample(getattr(maps, "cams", maps), images.shape[-2:])


def preset_values(
    presets: Mapping[str, Mapping[str, Any]], preset: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a preset's values, replaced by every given argument that is not None.

    Raises:
        ValueError: if there is no such preset.
        TypeError: if something is given that a preset has no value for.

    Example:
        >>> preset_values({"clean": {"k": 10, "rounds": 3}}, "clean", {"k": 4, "rounds": None})
        {'k': 4, 'rounds': 3}
    """
    check_word("preset", preset, presets)
    unknown = [name for name in given if name not in presets[preset]]
    if unknown:
        expected = ", ".join(presets[preset])
        raise TypeError(f"{unknown[0]!r} is no argument here, expected one of {expected}")
    return {**presets[preset], **{k: v for k, v in given.items() if v is not None}}


def check_batch(images: Tensor, labels: Tensor, n_classes: int) -> None:
    """Raise `ValueError` if images or labels are malformed or their sizes disagree."""
    check_images(images)
    check_labels(labels)
    if labels.shape != (len(images), n_classes):
        expected = f"({len(images)}, {n_classes}): one row an image, one column a class"
        problem = f"labels have shape {tuple(labels.shape)}, expected {expected}"
        raise ValueError(f"{problem}, background not among them")
