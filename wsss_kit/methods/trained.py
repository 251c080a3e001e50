"""What CAM, SC-CAM and CLIMS share: a backbone with a linear head that is trained and saved."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wsss_kit.checkpoints import load_checkpoint, run_of, save_checkpoint
from wsss_kit.checks import check_count, check_device, check_scales
from wsss_kit.classes import Sample
from wsss_kit.classifier.backbones import build_classifier, classifier_tensors, restore_classifier
from wsss_kit.classifier.train import CLASSIFIER, check_recipe, sgd, train_classifier
from wsss_kit.files import check_card, check_classes, load_model, save_model
from wsss_kit.methods.base import CAMMethod, MethodOutput, preset_values, read_out

Backbone = str | nn.Module | CAMMethod
"""A name, a module, or a fitted CAM, whose backbone and head are copied."""
_CARD_VERSION = 2


class TrainedCAM(CAMMethod):
    """A classifier whose class activation maps are read out.

    A subclass names itself, its presets and its options, and has a ``fit``.

    The constructor takes the arguments of `CAM`.
    """

    METHOD: ClassVar[str]
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]]
    OPTIONS: ClassVar[tuple[str, ...]] = ("scales", "flip")
    """Constructor arguments that a preset has values for."""
    SAVED: ClassVar[tuple[str, ...]] = ()
    """Further keys of the card."""
    FREE: ClassVar[tuple[str, ...]] = ("epochs",)
    """Numbers of a training that may differ when it is resumed."""
    SHIPPED: ClassVar[Path | None] = None
    """Weights for the embedded world in the package."""

    def __init__(
        self,
        backbone: Backbone = "resnet50",
        *,
        weights: str | Path | None = None,
        stride: int | None = None,
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        preset: str = "reference",
        device: str = "auto",
    ) -> None:
        preset_values(self.PRESETS, preset, {})
        if stride is not None:
            check_count("stride", stride)
        if scales is not None:
            check_scales(scales)
        check_device(device)
        self.backbone, self.weights, self.stride = backbone, weights, stride
        self.scales, self.flip, self.preset, self.device = scales, flip, preset, device

    def _values(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The values of the preset with the constructor's and the given arguments over them."""
        options = {name: getattr(self, name) for name in self.OPTIONS}
        return preset_values(self.PRESETS, self.preset, {**options, **(given or {})})

    def _begin(self, classes: Sequence[str], seed: int) -> None:
        """Build a backbone and a head, or copy those of a fitted CAM."""
        self.backbone_, self.head_ = begin(
            self.backbone,
            classes,
            stride=self.stride,
            weights=self.weights,
            seed=seed,
            device=self.device,
        )
        self.classes_ = tuple(classes)
        self.losses_: list[Any] = []

    # -- maps -------------------------------------------------------------------------------

    def __call__(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Maps of the classes present, summed over scales and mirror images.

        They are the ReLU of the logits' maps, as the papers read them out.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.

        Returns:
            cams (B, C, ceil(H / 4), ceil(W / 4)), each divided by its maximum; no affinity.

        Raises:
            RuntimeError: if `fit` or `load` was not called.
            ValueError: if shapes do not fit.
        """
        self._check_fitted()
        values = self._values()
        options = {"scales": values["scales"], "flip": values["flip"]}
        head, children = self._shown_head(values)
        return read_out(self.backbone_, head, images, labels, children=children, **options)

    def _shown_head(self, values: Mapping[str, Any]) -> tuple[Tensor, int]:
        """The head whose maps are read out, and how many rows each class has in it."""
        return self.head_, 1

    def _check_fitted(self) -> None:
        if not hasattr(self, "head_"):
            name = type(self).__name__
            raise RuntimeError(
                f"this {name} has no classifier yet; call fit(samples) or {name}.load(path)"
            )

    # -- files ------------------------------------------------------------------------------

    def _card(self) -> dict[str, Any]:
        return {
            "method": self.METHOD,
            "version": _CARD_VERSION,
            **{name: getattr(self, name) for name in self.OPTIONS},
            **described(self.backbone, self.weights, self.stride),
            "preset": self.preset,
            "classes": list(self.classes_),
            "losses": self.losses_,
        }

    def _tensors(self) -> dict[str, Tensor]:
        return classifier_tensors(self.backbone_, self.head_)

    def _take(self, tensors: Mapping[str, Tensor], card: Mapping[str, Any], path: Any) -> None:
        """Put back what `_tensors` and the card have of a training."""
        restore_classifier(self.backbone_, self.head_, tensors, path)
        self.losses_ = list(card["losses"])

    def save(self, path: str | Path) -> Path:
        """Write ``NAME.safetensors`` and ``NAME.json``; return the first."""
        if not hasattr(self, "head_"):
            raise RuntimeError("nothing to save yet; call fit(samples) first")
        return save_model(path, self._tensors(), self._card())

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backbone: nn.Module | None = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> TrainedCAM:
        """Load a trained method from its files.

        Args:
            path: as given to `save`; ``"paper"`` for the weights of the embedded world that come
                with the package, if the method has some (``python -m wsss_kit train paper-clims``
                and ``paper-sc-cam`` make them again).
            backbone: the module, where the backbone was your own.
            classes: refuse a file of another class list than this.
            **options: arguments of the constructor instead of what was saved, such as ``scales``,
                ``flip``, ``device``, or ``clip`` of CLIMS, which is not in the file and needed
                only to train.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method or version, of other classes, or
                of another backbone.
        """
        if path == "paper" and cls.SHIPPED is not None:
            path = cls.SHIPPED
        tensors, card = load_model(path)
        arguments = (*cls.OPTIONS, "stride", "preset")
        keys = ("backbone", "weights", *arguments, *cls.SAVED, "classes", "losses")
        check_card(card, path, method=cls.METHOD, version=_CARD_VERSION, keys=keys)
        if classes is not None:
            check_classes(card, classes, path)
        saved = {name: card[name] for name in arguments}
        saved["scales"] = None if saved["scales"] is None else tuple(saved["scales"])
        if backbone is not None:
            saved["stride"] = None  # a module has its stride already
        named = card["backbone"] if backbone is None else backbone
        method = cls(backbone=named, **{**saved, **cls._more_arguments(card), **options})
        method._begin_as(card)
        method._take(tensors, card, path)
        method.weights = card["weights"]  # a new fit begins with these
        method.backbone_.eval()
        return method

    @classmethod
    def _more_arguments(cls, card: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor that the card has in another form."""
        return {}

    def _begin_as(self, card: Mapping[str, Any]) -> None:
        """Build the networks that a card describes."""
        self._begin(card["classes"], 0)

    # -- checkpoints ------------------------------------------------------------------------

    def _run(self, samples: Sequence[Sample], recipe: Mapping[str, Any]) -> dict[str, Any]:
        """What has to agree for a checkpoint to be one of this run."""
        return {
            **run_of(samples, self._card(), recipe, free=(*self.FREE, "baseline", "pretrained")),
            **started_from(self.backbone, recipe.get("baseline")),
        }

    def _resume(
        self, path: str | Path | None, run: Mapping[str, Any], epochs: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """A checkpoint of this run, its weights taken; None where there is none."""
        if path is None:
            return None
        keys = ("backbone", "weights", *self.OPTIONS, "stride", "preset", *self.SAVED)
        kind = {"method": self.METHOD, "version": _CARD_VERSION, "keys": (*keys, "losses")}
        found = load_checkpoint(path, **kind, classes=self.classes_, run=run, epochs=epochs)
        if found is not None:
            self._take(*found, path)
        return found

    def _save_state(
        self,
        path: str | Path | None,
        optimiser: torch.optim.Optimizer,
        epoch: int,
        run: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint after ``epoch`` epochs, if there is a path."""
        if path is not None:
            save_checkpoint(path, self._state(), optimiser, self._card(), epoch=epoch, run=run)

    def _state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint."""
        return self._tensors()


def baseline_recipe(
    start: Backbone,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    preset: str,
    weights: str | Path | None,
) -> dict[str, Any] | None:
    """How the classifier is trained first; None where a fitted one is there.

    Args:
        start: what the method was given.
        values: of the method's own training: ``crop``, ``long_side``, ``seed`` and ``shown`` are
            shared.
        given: ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones.
        preset: ``"clean"``, or any other for the released recipe.
        weights: of a named backbone.

    Raises:
        ValueError: if something else is given, or anything beside a fitted CAM.
    """
    if isinstance(start, CAMMethod):
        if given:
            raise ValueError(
                f"baseline is {dict(given)} and backbone a fitted CAM; give one of the two"
            )
        return None
    unknown = set(given) - {"epochs", "batch_size", "learning_rate"}
    if unknown:
        raise ValueError(
            f"baseline names {', '.join(sorted(unknown))}, expected epochs, batch_size or "
            "learning_rate"
        )
    shared = ("crop", "long_side", "seed", "shown")
    usual = CLASSIFIER["clean" if preset == "clean" else "reference"]
    recipe = {**usual, **{key: values[key] for key in shared}, **given}
    check_recipe(recipe)
    pretrained = weights is not None or isinstance(start, nn.Module)
    return {**recipe, "pretrained": pretrained}


def begin(
    start: Backbone,
    classes: Sequence[str],
    *,
    stride: int | None,
    weights: str | Path | None,
    seed: int,
    device: str,
) -> tuple[nn.Module, Tensor]:
    """A backbone and a head (C, D) to train on: copies of a fitted CAM's, or new ones.

    Raises:
        RuntimeError: if the CAM is not fitted.
        ValueError: if it knows other classes.
    """
    if not isinstance(start, CAMMethod):
        options = {"stride": stride, "weights": weights, "seed": seed, "device": device}
        return build_classifier(start, len(classes), **options)
    if not hasattr(start, "head_"):
        raise RuntimeError("the CAM to start from is not fitted; call its fit(samples)")
    if tuple(start.classes_) != tuple(classes):
        raise ValueError(
            f"the CAM to start from knows {', '.join(start.classes_[:4])}, … and what is to be "
            f"learned is {', '.join(classes[:4])}, …; expected the same classes"
        )
    return copy.deepcopy(start.backbone_), start.head_.detach().clone().requires_grad_()


def train_baseline(
    backbone: nn.Module, head: Tensor, samples: Sequence[Sample], recipe: Mapping[str, Any]
) -> None:
    """Train the classifier by `baseline_recipe`, in place."""
    train_classifier(
        backbone,
        head,
        samples,
        recipe,
        optimiser=sgd(head, recipe, backbone),
        first_epoch=0,
        after_epoch=lambda epoch, loss: None,
    )


def started_from(start: Backbone, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """What tells one beginning from another, for a checkpoint: ``start`` and ``baseline``.

    Args:
        start: what the method was given; a fitted CAM is known by its head.
        recipe: from `baseline_recipe`.
    """
    fitted = None
    if isinstance(start, CAMMethod):
        head = start.head_.detach().float().cpu().contiguous()
        fitted = hashlib.sha256(head.numpy().tobytes()).hexdigest()[:16]
    trained = None if recipe is None else {k: v for k, v in recipe.items() if k != "shown"}
    return {"start": fitted, "baseline": trained}


def described(start: Backbone, weights: Any, stride: int | None) -> dict[str, Any]:
    """What a card says of the backbone: ``backbone``, ``weights`` and ``stride``."""
    if isinstance(start, CAMMethod):
        start, weights, stride = start.backbone, start.weights, start.stride
    return {
        "backbone": start if isinstance(start, str) else type(start).__name__,
        "weights": None if weights is None else str(weights),
        "stride": stride,
    }
