"""What AffinityNet compares: a backbone's levels, brought to features or boundaries of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.affinity_net.levels import KINDS, Projection, channels_of
from wsss_kit.affinity_net.neighbours import (
    boundary_affinity,
    dense,
    feature_affinity,
    half_plane,
    inner_pairs,
)
from wsss_kit.checks import (
    check_count,
    check_counts,
    check_given,
    check_images,
    check_word,
    chosen_device,
)
from wsss_kit.classifier.backbones import build_backbone
from wsss_kit.engine import columns, device_of
from wsss_kit.methods.base import COMMON, Learner

PRESETS = columns(
    ("reference", "clean"),
    {
        **COMMON,
        "epochs": (6, 6),
        "batch_size": (16, 16),
        "learning_rate": (1e-3, 1e-3),
        "weight_decay": (0.01, 0.01),
        "optimiser": ("adamw", "adamw"),
        "train_backbone": (True, True),
        "fixes_norms": (False, False),
        "masks": (None, None),
        "inner_pairs": (True, False),
        "pooled_scores": (True, False),
        "nearest_labels": (True, False),
        "sound": (math.log(2), math.log(2)),
    },
)
"""Preset -> choice. ``inner_pairs``: whether pairs near the border are left out, see the function;
IRN's walk has them all. ``pooled_scores``: whether scores at the image's size are averaged over a
cell for the walk, the image continued to whole cells (PSA), or resized. ``nearest_labels``: whether
a cell of the boundary variant takes the label of the pixel at its centre (IRN), or of most of its
pixels. PSA averages the CRF's scores over a cell and takes the best; labels on disk have none, so
cells of PSA's kind take what most of their pixels are in both presets."""


class PairNetwork(Learner):
    """The network of `AffinityNet`, whose arguments it has."""

    METHOD, PRESETS = "AffinityNet", PRESETS
    SAVED = ("backbone", "radius", "kind", "levels", "channels", "stride", "pad_to", "preset")

    def __init__(
        self,
        backbone: str | nn.Module | None = None,
        *,
        radius: int = 5,
        kind: str = "features",
        levels: int = 1,
        channels: int | Sequence[int] = 64,
        stride: int | None = None,
        weights: str | Path | None = None,
        pad_to: int | None = None,
        preset: str = "reference",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        super().__init__()
        check_count("levels", levels)
        if isinstance(channels, (list, tuple)):
            check_counts("channels", channels, "channels, one for each level")
        else:
            check_count("channels", channels)
            channels = [channels] * levels
        check_count("seed", seed, least=0)
        check_word("kind", kind, KINDS)
        check_word("preset", preset, PRESETS)
        check_given(check_count, stride=stride, pad_to=pad_to)
        if backbone is None:
            backbone, weights = "paper", weights or "web"
        self.backbone = backbone if isinstance(backbone, str) else type(backbone).__name__
        self.weights, self.preset = weights, preset
        self.stride, self.pad_to, self.offsets = stride, pad_to, half_plane(radius)
        self.radius, self.kind, self.levels, self.channels = radius, kind, levels, list(channels)
        self.trunk = build_backbone(backbone, stride=stride, weights=weights, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project = Projection(channels_of(self.trunk, levels), channels, kind)
        if isinstance(backbone, str):
            self.to(chosen_device(device))
        self.eval()

    def backbone_levels(self, images: Tensor) -> list[Tensor]:
        """Compute the last ``levels`` of the backbone, from fine to coarse, on the own device.

        (B, 3, H, W) -> (B, D, h, w) of each.
        """
        images = images.to(device_of(self))
        if self.levels == 1:
            return [self.trunk(images)]
        return self.trunk.levels(images)[-self.levels :]

    def features(self, images: Tensor) -> Tensor:
        """Compute what is compared: (B, 3, H, W) RGB in [0, 1] -> (B, channels, h, w).

        Of the boundary variant one channel, before the sigmoid. On the network's own device.
        """
        H, W = images.shape[2:]
        down, right = (max(0, (self.pad_to or 0) - side) for side in (H, W))
        if self.pools:  # to whole cells
            down, right = (down or -H % self.cell, right or -W % self.cell)
        if down or right:
            mean = getattr(self.trunk, "mean", torch.zeros(3, 1, 1)).to(images)
            images = F.pad(images - mean, (0, right, 0, down)) + mean
        features = self.project(self.backbone_levels(images))
        sides = zip((H, W), images.shape[2:], features.shape[2:], strict=True)
        h, w = (-(-side // round(padded / cells)) for side, padded, cells in sides)
        return features[:, :, :h, :w] if down or right else features

    def compare(self, projected: Tensor) -> Tensor:
        """Compare neighbours by `features`: (B, channels, h, w) -> (B, P, h, w)."""
        if self.kind == "boundary":
            return boundary_affinity(projected.float().sigmoid(), self.offsets)
        between = feature_affinity(projected.float(), self.offsets)
        inner = PRESETS[self.preset]["inner_pairs"]
        return inner_pairs(between, self.offsets) if inner else between

    @property
    def cell(self) -> int | None:
        """Pixels of a side of a cell; None where the backbone does not say it."""
        if self.levels == 1:
            return getattr(self.trunk, "stride", None)
        strides = getattr(self.trunk, "level_strides", None)
        return strides[-self.levels] if strides else None

    @property
    def pools(self) -> bool:
        """Whether a walk averages scores of the image's size over cells, as PSA."""
        pooled = self.kind == "features" and PRESETS[self.preset]["pooled_scores"]
        return pooled and self.cell is not None

    def between(self, images: Tensor) -> Tensor:
        """Compare neighbours in images: (B, 3, H, W) RGB in [0, 1] -> (B, P, h, w)."""
        return self.compare(self._seen(images))

    def _seen(self, images: Tensor) -> Tensor:
        """Compute features; of the boundary, as in IRN, the mean of the image's and its flip's."""
        if self.kind == "features":
            return self.features(images)
        one, two = self.features(torch.cat([images, images.flip(-1)])).chunk(2)
        return (one + two.flip(-1)) / 2

    @torch.no_grad()
    def boundaries(self, images: Tensor) -> Tensor:
        """Compute the boundary variant's boundaries: (B, 3, H, W) -> (B, 1, h, w) in [0, 1].

        Raises:
            ValueError: if the features are compared instead.
        """
        if self.kind != "boundary":
            raise ValueError(f"kind is {self.kind!r}, expected 'boundary' to have boundaries")
        check_images(images)
        return self._seen(images).sigmoid().to(images.device)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute the whole affinity, ready for `transition_matrix`.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].

        Returns:
            (B, N, N) on the device of ``images``: symmetric, 1 on the diagonal, 0 for cells that
            are no neighbours. See `dense` for its size; `walk` does without it.
        """
        check_images(images)
        return dense(self.between(images), self.offsets).to(images.device)
