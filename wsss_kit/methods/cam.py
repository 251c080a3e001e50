"""Plain CAM: a classifier trained on image-level labels, read out as maps.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, with the
training and inference recipe that WSSS papers share (IRN's classifier, CLIMS's baseline).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checkpoints import restore_optimiser
from wsss_kit.checks import check_images, check_samples
from wsss_kit.classes import Sample
from wsss_kit.classifier.train import (
    CLASSIFIER,
    HEAD_ALONE,
    check_recipe,
    pool_features,
    train_head,
)
from wsss_kit.methods.trained import TrainedCAM
from wsss_kit.training import classes_of, labels_of

PRESETS: dict[str, dict[str, Any]] = {
    name: {"scales": (1.0, 0.5, 1.5, 2.0), "flip": True, **training}
    for name, training in CLASSIFIER.items()
}
"""The papers' scales and mirror image with the training of `classifier.train`."""


class CAM(TrainedCAM):
    """Class activation maps of a classifier.

    Args:
        backbone: a name (``"paper"``, ``"resnet18"``, ``"resnet34"``, ``"resnet50"``,
            ``"resnet38"``), any ``nn.Module`` from (B, 3, H, W) RGB in [0, 1] to (B, D, h, w) with
            ``out_channels``, or a fitted CAM to start from.
        weights: None for random ones; ``"imagenet"`` or a local file for a ResNet; ``"web"`` for
            ``"paper"``, the weights in the package. See `build_backbone`.
        stride: of a named backbone: 16 or 8 (``"paper"``: 16, 8 or 4).
        scales: factors on the sides of the image whose maps are summed.
        flip: whether maps of mirror images join the sum.
        preset: one of ``PRESETS``; an argument that is None takes its value.
        device: where a named backbone goes; a module that you bring stays where it is.

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

    METHOD, PRESETS = "CAM", PRESETS

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
        """Train backbone and head on image-level labels with a multi-label soft-margin loss.

        Args:
            samples: M images with labels; ``samples.classes`` names the classes if it is there.
            epochs: passes over the samples.
            batch_size: images a step.
            learning_rate: of SGD at its start, with polynomial decay (power 0.9).
            crop: side of random square crops, needed where images differ in size (512 in the
                papers); None trains on whole images.
            long_side: range of the longer side before cropping (320 to 640 in the papers).
            train_backbone: False keeps the backbone as it is and trains the head alone, by
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
            ValueError: if there are no samples, an image, label or number is not what it should
                be, or the checkpoint is of other data or another recipe.
            Diverged: if the loss runs away.
        """
        check_samples(samples)
        if checkpoint is not None and not train_backbone:
            raise ValueError("a checkpoint needs train_backbone=True; a head alone takes seconds")
        if pooled is not None and train_backbone:
            raise ValueError("pooled features need train_backbone=False; a learning backbone moves")
        given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        usual = {} if train_backbone else HEAD_ALONE
        values = self._values(**{**usual, **{k: v for k, v in given.items() if v is not None}})
        values.update(crop=crop, long_side=long_side, seed=seed, shown=progress)
        check_recipe(values)
        self._begin(classes_of(samples), seed)
        if train_backbone:
            optimiser = self._classifier_optimiser(values)
            place = self._place(checkpoint, samples, values)
            stored, done = self._resume(place, values["epochs"])
            restore_optimiser(optimiser, stored)
            options = {"done": done, "after_epoch": self._after_epoch(place, optimiser)}
            self._train_classifier(samples, values, optimiser, **options)
        else:
            pooled = self.pool(samples, progress=progress) if pooled is None else pooled
            expected = (len(samples), 2, self.head_.shape[1])
            if pooled.shape != expected:
                raise ValueError(
                    f"pooled has shape {tuple(pooled.shape)}, expected {expected} as pool(samples) "
                    "returns for these samples and this backbone"
                )
            self.losses_ += train_head(self.head_, pooled, labels_of(samples), values)
        self.backbone_.eval()
        return self

    def pool(self, samples: Sequence[Sample], *, progress: bool = True) -> Tensor:
        """Compute pooled features of every image and of its mirror image: (M, 2, D) float32.

        Raises:
            RuntimeError: if there is no backbone yet; `fit` builds it, a module of your own is one.
        """
        backbone = getattr(self, "backbone_", self.backbone)
        if not isinstance(backbone, nn.Module):
            raise RuntimeError("the backbone is not built yet; call fit(samples) first")
        return pool_features(backbone, samples, shown=progress)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Compute the classifier's own logits: (B, 3, H, W) RGB in [0, 1] -> (B, C)."""
        self._check_fitted()
        check_images(images)
        pooled = self.backbone_(images.to(self.head_.device)).mean((2, 3))
        return (pooled @ self.head_.T).float().to(images.device)
