"""Plain CAM: a classifier trained on image-level labels, read out as maps.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, with the
training and inference recipe that WSSS papers share (IRN's classifier, CLIMS's baseline).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checks import check_image, check_images
from wsss_kit.classes import Sample, labels_of
from wsss_kit.engine import Data, columns, for_weights_of
from wsss_kit.methods.base import COMMON, CAMMethod, Recipe
from wsss_kit.methods.trained import TrainedCAM, soft_margin_loss
from wsss_kit.processes import each
from wsss_kit.processes import progress as progress_bar
from wsss_kit.views import Chance

PRESETS = columns(
    ("reference", "clean"),
    {
        **COMMON,
        "scales": ((1.0, 0.5, 1.5, 2.0), (1.0, 0.5, 1.5, 2.0)),
        "flip": (True, True),
        "epochs": (5, 12),
        "batch_size": (16, 32),
        "learning_rate": (0.1, 0.05),
        "head_factor": (10.0, 2.0),
        # the released trainers hand weight decay to SGD's momentum: the real momentum is 1e-4
        "momentum": (1e-4, 0.9),
        "weight_decay": (1e-4, 5e-4),
        "fixed_batch_norm": (True, False),  # whether its statistics stay
        "trains_stem": (False, True),  # whether the first convolution learns
        "drop_last": (True, False),  # whether a pass's last, partial batch is left out
        "train_backbone": (True, True),
        "pooled": (None, None),
        "sound": (math.log(2), math.log(2)),
    },
)
HEAD_ALONE = {"epochs": 60, "batch_size": 32, "learning_rate": 1.0, "head_factor": 1.0}
HEAD_ALONE |= {"momentum": 0.9, "weight_decay": 1e-4, "drop_last": False}
"""Training of a head on a fixed backbone, in every preset."""


class CAM(TrainedCAM):
    """Class activation maps of a classifier.

    Args:
        backbone: a name (``"paper"``, ``"resnet18"``, ``"resnet34"``, ``"resnet50"``,
            ``"resnet38"``), any ``nn.Module`` from (B, 3, H, W) RGB in [0, 1] to (B, D, h, w) with
            ``out_channels``, or a fitted CAM to start from. A module may have ``stride``, pixels a
            cell (16 if not), and ``mean``, the (3, 1, 1) colour that it subtracts (ImageNet's if
            not), which fills what crops have beyond an image.
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
        >>> cam = CAM("paper", weights="web", preset="clean")
        >>> cam = cam.fit(world, epochs=1, batch_size=2, progress=False)
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
        train_backbone: bool = True,
        pooled: Tensor | None = None,
        **training: Any,
    ) -> CAM:
        """Train backbone and head on image-level labels with a multi-label soft-margin loss.

        Args:
            samples: M images with labels; ``samples.classes`` names the classes if it is there.
            train_backbone: False keeps the backbone as it is and trains the head alone, by
                ``HEAD_ALONE`` on features computed once: seconds on a laptop.
            pooled: what `pool` returned for these samples, to share it between several heads;
                only with ``train_backbone=False``.
            **training: arguments of `Learner.fit`. Photographs need a ``crop`` (512 in the papers,
                with ``long_side`` 320 to 640).

        Returns:
            Itself, with ``backbone_``, ``head_`` (C, D), ``classes_`` and ``losses_``.

        Raises:
            ValueError: as `Learner.fit`.
            Diverged: if the loss runs away.
        """
        if pooled is not None and train_backbone:
            raise ValueError("pooled features need train_backbone=False; a learning backbone moves")
        mode: dict[str, Any] = {"train_backbone": train_backbone, "pooled": pooled}
        for name, value in ({} if train_backbone else HEAD_ALONE).items():
            mode[name] = value if training.get(name) is None else training[name]
        return super().fit(samples, **{**training, **mode})

    def begin(self, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
        """Build the network; the learning rate rises where it was not trained before."""
        super().begin(samples, recipe)
        if recipe["train_backbone"] and not recipe["pretrained"]:
            recipe["warmup"] = min(30, -(-len(samples) // recipe["batch_size"]))

    def data(self, samples: Sequence[Sample], recipe: Recipe) -> Data:
        """Return random views of the images, or pooled features of all of them."""
        if recipe["train_backbone"]:
            return super().data(samples, recipe)
        pooled = recipe["pooled"]
        if pooled is None:
            pooled = self.pool(samples, progress=recipe["shown"])
        expected = (len(samples), 2, self.head_.shape[1])
        if pooled.shape != expected:
            raise ValueError(
                f"pooled has shape {tuple(pooled.shape)}, expected {expected} as pool(samples) "
                "returns for these samples and this backbone"
            )
        return _Pooled(pooled, labels_of(samples))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return backbone and head, or the head alone."""
        groups = super().parameter_groups()
        return groups if self.numbers["train_backbone"] else groups[1:]

    def fixed(self) -> list[nn.Module]:
        """Return what stays in evaluation mode: batch normalisation, or the whole backbone."""
        if not self.numbers["train_backbone"]:
            return [self.backbone_]
        return super().fixed() if self.numbers["pretrained"] else []

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the soft-margin loss of images (B, 3, H, W), or pooled ones (B, D)."""
        logits = images @ self.head_.T if images.ndim == 2 else self.logits(images)
        return {"total": soft_margin_loss(logits, labels)}

    @torch.no_grad()
    def pool(self, samples: Sequence[Sample], *, progress: bool = True) -> Tensor:
        """Compute pooled features of every image and of its mirror image: (M, 2, D) float32.

        The backbone goes to evaluation mode: its batch statistics do not change.

        Raises:
            RuntimeError: if there is no backbone yet; `fit` builds it, a module of your own is one.
            ValueError: if an image is not (3, H, W) RGB in [0, 1].
        """
        backbone = getattr(self, "backbone_", self.backbone)
        if not isinstance(backbone, nn.Module):
            raise RuntimeError("the backbone is not built yet; call fit(samples) first")
        backbone.eval()

        def pooled(sample: Sample) -> Tensor:  # (2, D)
            check_image(sample.image, f"image {sample.name!r}")
            views = torch.stack([sample.image, sample.image.flip(-1)])
            views = for_weights_of(backbone, views)
            return backbone(views).mean((2, 3)).float()

        return each(samples, pooled, bar=partial(progress_bar, what="features", shown=progress))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Compute the classifier's own logits: (B, 3, H, W) RGB in [0, 1] -> (B, C)."""
        self._check_fitted()
        check_images(images)
        return self.logits(images.to(self.head_)).float().to(images.device)


class _Pooled:
    """Pooled features and labels: of every image one of the two views at random."""

    def __init__(self, pooled: Tensor, labels: Tensor) -> None:
        self.pooled, self.labels = pooled.cpu(), labels  # batches are read on the CPU

    def __len__(self) -> int:
        return len(self.pooled)

    def batch(self, numbers: Sequence[int], chance: Chance) -> list[Tensor]:
        """Return features (B, D) and labels (B, C)."""
        views = torch.randint(2, (len(self),), generator=chance(0))[list(numbers)]
        return [self.pooled[list(numbers), views], self.labels[list(numbers)]]


def first_classifier(
    method: TrainedCAM,
    samples: Sequence[Sample],
    recipe: Recipe,
    given: Mapping[str, Any] | None,
    *,
    train_backbone: bool = True,
) -> CAMMethod:
    """Train the classifier that another method starts from, or take a fitted one.

    Args:
        method: whose ``backbone`` is a name, a module or a fitted CAM.
        samples: the images.
        recipe: of the method; view, seed, bar and checkpoint are shared.
        given: ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones.
        train_backbone: whether the backbone learns too, or a head alone.

    Raises:
        ValueError: if something else is given, or anything beside a fitted CAM.
    """
    given = given or {}
    if isinstance(method.backbone, CAMMethod):
        if given:
            raise ValueError(f"a fitted CAM and baseline {dict(given)}: give one of the two")
        return method.backbone
    unknown = set(given) - {"epochs", "batch_size", "learning_rate"}
    if unknown:
        raise ValueError(
            f"baseline names {', '.join(sorted(unknown))}, expected epochs, batch_size or "
            "learning_rate"
        )
    preset = "clean" if method.preset == "clean" else "reference"
    network = {"weights": method.weights, "stride": method.stride, "device": method.device}
    cam = CAM(method.backbone, **network, preset=preset)
    shared = {"seed": recipe["seed"], "progress": recipe["shown"], "workers": recipe["workers"]}
    if train_backbone:
        shared |= {"crop": recipe["crop"], "long_side": recipe["long_side"]}
    if recipe["checkpoint"] is not None:
        shared["checkpoint"] = f"{recipe['checkpoint']}-classifier"
    return cam.fit(samples, train_backbone=train_backbone, **shared, **given)
