"""Plain CAM: a classifier trained on image-level labels, read out as maps.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, with the
training and inference recipe that WSSS papers share (IRN's classifier, CLIMS's baseline).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checkpoints import (
    load_checkpoint,
    restore_optimiser,
    run_of,
    save_checkpoint,
)
from wsss_kit.checks import (
    check_count,
    check_device,
    check_images,
    check_samples,
    check_scales,
)
from wsss_kit.classes import Sample
from wsss_kit.classifier.network import (
    build_classifier,
    classifier_tensors,
    restore_classifier,
)
from wsss_kit.classifier.recipe import CLASSIFIER, HEAD_ALONE, check_recipe
from wsss_kit.classifier.train import pool_features, sgd, train_classifier, train_head
from wsss_kit.files import check_card, check_classes, load_model, save_model
from wsss_kit.methods.base import (
    CAMMethod,
    MethodOutput,
    preset_values,
    read_out,
)
from wsss_kit.training import classes_of, labels_of

PRESETS: dict[str, dict[str, Any]] = {
    name: {"scales": (1.0, 0.5, 1.5, 2.0), "flip": True, **training}
    for name, training in CLASSIFIER.items()
}
"""The papers' scales and mirror image with the training of `classifier.recipe`."""

_CARD_VERSION = 2
_CARD_KEYS = ("backbone", "weights", "stride", "scales", "flip", "preset", "classes", "losses")


class CAM(CAMMethod):
    """Class activation maps of a classifier.

    Args:
        backbone: a name (``"paper"``, ``"resnet18"``, ``"resnet34"``, ``"resnet50"``) or any
            ``nn.Module`` from (B, 3, H, W) RGB in [0, 1] to (B, D, h, w) with ``out_channels``.
        weights: None for random ones; ``"imagenet"`` or a local file for a ResNet; ``"web"`` for
            ``"paper"``, the weights in the package. See `build_backbone`.
        stride: of a named trunk: 16 or 8 (``"paper"``: 16, 8 or 4).
        scales: factors on the picture's sides whose maps are summed.
        flip: whether mirror images join the sum.
        preset: ``"reference"`` or ``"clean"``, see ``PRESETS``.
        device: where a named trunk goes; a module that you bring stays where it is.

    Raises:
        ValueError: if there is no such preset, or a number is out of its range.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(4, split="train")
        >>> cam = CAM("paper", preset="clean").fit(world, epochs=1, batch_size=2, progress=False)
        >>> cams, affinity = cam(world[0].image[None], world[0].labels[None])
        >>> tuple(cams.shape), affinity
        ((1, 8, 24, 24), None)
    """

    def __init__(
        self,
        backbone: str | nn.Module = "resnet50",
        *,
        weights: str | Path | None = None,
        stride: int | None = None,
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        preset: str = "reference",
        device: str = "auto",
    ) -> None:
        preset_values(PRESETS, preset, {})
        if stride is not None:
            check_count("stride", stride)
        if scales is not None:
            check_scales(scales)
        check_device(device)
        self.backbone, self.weights, self.stride = backbone, weights, stride
        self.scales, self.flip, self.preset, self.device = scales, flip, preset, device

    # -- training ---------------------------------------------------------------------------

    def fit(
        self,
        samples: Sequence[Sample],
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        crop: int | None = None,
        long_side: tuple[int, int] | None = None,
        train_backbone: bool = True,
        pooled: Tensor | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = True,
    ) -> CAM:
        """Train trunk and head on image-level labels with a multi-label soft-margin loss.

        Args:
            samples: M pictures with labels; ``samples.classes`` names the classes if it is there.
            epochs: passes over the samples.
            batch_size: pictures a step.
            learning_rate: of SGD at its start, with polynomial decay (power 0.9).
            crop: side of random square crops, needed where pictures differ in size (512 in the
                papers); None trains on whole pictures.
            long_side: range of the longer side before cropping (320 to 640 in the papers).
            train_backbone: False keeps the trunk as it is and trains the head alone, by
                ``HEAD_ALONE`` on features computed once: seconds on a laptop.
            pooled: what `pool` returned for these samples, to share it between several heads;
                only with ``train_backbone=False``.
            seed: of weights, order and crops. Equal seeds give equal weights on one machine.
            checkpoint: path that the state is written to after every epoch and resumed from. It
                has to be of the same data, seed and recipe; only ``epochs`` may be more, and then
                the learning rate falls later from there on than in a run of its own.
            progress: whether to show a bar.

        Returns:
            Itself, with ``backbone_``, ``head_`` (C, D), ``classes_`` and ``losses_``.

        Raises:
            ValueError: if there are no samples, a picture, label or number is not what it should
                be, or the checkpoint is of other data or another recipe.
            Diverged: if the loss runs away.
        """
        check_samples(samples)
        if checkpoint is not None and not train_backbone:
            raise ValueError("a checkpoint needs train_backbone=True; a head alone takes seconds")
        if pooled is not None and train_backbone:
            raise ValueError("pooled features need train_backbone=False; a trunk that learns moves")
        presets = PRESETS
        if not train_backbone:
            presets = {name: {**preset, **HEAD_ALONE} for name, preset in PRESETS.items()}
        given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        values = preset_values(presets, self.preset, given)
        values.update(crop=crop, long_side=long_side, seed=seed, shown=progress)
        check_recipe(values)
        classes = classes_of(samples)
        self._build(classes, seed)
        if train_backbone:
            self._train_all(samples, values, checkpoint)
        else:
            if pooled is None:
                pooled = self.pool(samples, progress=progress)
            expected = (len(samples), 2, self.head_.shape[1])
            if pooled.shape != expected:
                raise ValueError(
                    f"pooled has shape {tuple(pooled.shape)}, expected {expected} as pool(samples) "
                    "returns for these samples and this trunk"
                )
            self.losses_ += train_head(self.head_, pooled, labels_of(samples), values)
        self.backbone_.eval()
        return self

    def _build(self, classes: Sequence[str], seed: int) -> None:
        self.backbone_, self.head_ = build_classifier(
            self.backbone,
            len(classes),
            stride=self.stride,
            weights=self.weights,
            seed=seed,
            device=self.device,
        )
        self.classes_ = tuple(classes)
        self.losses_: list[float] = []

    def _train_all(
        self, samples: Sequence[Sample], recipe: dict[str, Any], checkpoint: str | Path | None
    ) -> None:
        optimiser, first = sgd(self.head_, recipe, self.backbone_), 0
        if checkpoint is not None:
            run = self._run(samples, recipe)
            first = self._resume(checkpoint, optimiser, run, recipe["epochs"])

        def after_epoch(epoch: int, loss: float) -> None:
            self.losses_.append(loss)
            if checkpoint is not None:
                tensors = classifier_tensors(self.backbone_, self.head_)
                place = {"epoch": epoch + 1, "run": run}
                save_checkpoint(checkpoint, tensors, optimiser, self._card(), **place)

        pretrained = self.weights is not None or isinstance(self.backbone, nn.Module)
        train_classifier(
            self.backbone_,
            self.head_,
            samples,
            {**recipe, "pretrained": pretrained},
            optimiser=optimiser,
            first_epoch=first,
            after_epoch=after_epoch,
        )

    def pool(self, samples: Sequence[Sample], *, progress: bool = True) -> Tensor:
        """Pooled features of every picture and of its mirror image: (M, 2, D) float32.

        Raises:
            RuntimeError: if there is no trunk yet; `fit` builds it, a module of your own is one.
        """
        trunk = getattr(self, "backbone_", self.backbone)
        if not isinstance(trunk, nn.Module):
            raise RuntimeError("the trunk is not built yet; call fit(samples) first")
        return pool_features(trunk, samples, shown=progress)

    # -- maps -------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Maps of the classes present, summed over scales and mirror images.

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
        values = preset_values(PRESETS, self.preset, {"scales": self.scales, "flip": self.flip})
        options = {"scales": values["scales"], "flip": values["flip"]}
        return read_out(self.backbone_, self.head_, images, labels, **options)

    def _check_fitted(self) -> None:
        if not hasattr(self, "head_"):
            raise RuntimeError(
                "this CAM has no classifier yet; call fit(samples) or CAM.load(path)"
            )

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits of the classifier itself: (B, 3, H, W) RGB in [0, 1] -> (B, C)."""
        self._check_fitted()
        check_images(images)
        pooled = self.backbone_(images.to(self.head_.device)).mean((2, 3))
        return (pooled @ self.head_.T).float().to(images.device)

    # -- files ------------------------------------------------------------------------------

    def _card(self) -> dict[str, Any]:
        named = isinstance(self.backbone, str)
        return {
            "method": "CAM",
            "version": _CARD_VERSION,
            "backbone": self.backbone if named else type(self.backbone).__name__,
            "weights": None if self.weights is None else str(self.weights),
            "stride": self.stride,
            "scales": None if self.scales is None else list(self.scales),
            "flip": self.flip,
            "preset": self.preset,
            "classes": list(self.classes_),
            "losses": self.losses_,
        }

    def save(self, path: str | Path) -> Path:
        """Write ``NAME.safetensors`` and ``NAME.json``; returns the first."""
        if not hasattr(self, "head_"):
            raise RuntimeError("nothing to save yet; call fit(samples) first")
        return save_model(path, classifier_tensors(self.backbone_, self.head_), self._card())

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backbone: nn.Module | None = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> CAM:
        """A trained CAM from its files.

        Args:
            path: as given to `save`.
            backbone: the module, where the trunk was your own.
            classes: refuse a file of another class list than this.
            **options: ``scales``, ``flip`` or ``device`` of the constructor, instead of what was
                saved.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method or version, of other classes, or
                of another trunk.
        """
        tensors, card = load_model(path)
        check_card(card, path, method="CAM", version=_CARD_VERSION, keys=_CARD_KEYS)
        if classes is not None:
            check_classes(card, classes, path)
        scales = None if card["scales"] is None else tuple(card["scales"])
        saved = {"scales": scales, "flip": card["flip"]}
        saved |= {"stride": card["stride"], "preset": card["preset"]}
        cam = cls(backbone if backbone is not None else card["backbone"], **{**saved, **options})
        cam._build(card["classes"], 0)
        restore_classifier(cam.backbone_, cam.head_, tensors, path)
        cam.weights = card["weights"]  # what a new fit would begin with; these are in the file
        cam.losses_ = list(card["losses"])
        cam.backbone_.eval()
        return cam

    def _run(self, samples: Sequence[Sample], recipe: Mapping[str, Any]) -> dict[str, Any]:
        """What has to agree for a checkpoint to be one of this run; epochs may be more."""
        return run_of(samples, self._card(), recipe, free=("epochs",))

    def _resume(
        self,
        path: str | Path,
        optimiser: torch.optim.Optimizer,
        run: Mapping[str, Any],
        epochs: int,
    ) -> int:
        """Take a checkpoint's weights and moments; returns the epochs it has done."""
        kind = {"method": "CAM", "version": _CARD_VERSION, "keys": _CARD_KEYS}
        found = load_checkpoint(path, **kind, classes=self.classes_, run=run, epochs=epochs)
        if found is None:
            return 0
        tensors, card = found
        restore_classifier(self.backbone_, self.head_, tensors, path)
        restore_optimiser(optimiser, tensors)
        self.losses_ = list(card["losses"])
        return card["epoch"]
