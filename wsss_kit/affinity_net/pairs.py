"""What AffinityNet compares: a backbone's levels, brought to features or boundaries of cells.

PSA compares three levels of ResNet-38, IRN five of ResNet-50. A backbone with levels has
``levels(images)``, a list of features from fine to coarse, and ``level_channels``, how many
channels each of them has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.affinity_net.neighbours import (
    boundary_affinity,
    dense,
    feature_affinity,
    half_plane,
    inner_pairs,
)
from wsss_kit.backbones import build_backbone, from_released
from wsss_kit.checks import (
    check_count,
    check_counts,
    check_given,
    check_images,
    check_seed,
    check_word,
    chosen_device,
)
from wsss_kit.engine import columns, for_weights_of
from wsss_kit.methods.base import COMMON, Learner

KINDS = ("features", "boundary")
"""What two cells are compared by: PSA's similarity of features, or IRN's boundary between them."""
_GROUPS = 4  # of IRN's normalisation


class Projection(nn.Module):
    """One level: a 1x1 convolution. Several: one each, side by side, and another over all of them.

    Features end in an ELU, as in PSA. The boundary is one number before its sigmoid; several levels
    of it are normalised in groups before they come together, as in IRN.

    Args:
        ins: channels of each level.
        channels: that each level is brought to, where there are several; of the features that are
            compared, where there is one.
        kind: one of ``KINDS``.

    Raises:
        ValueError: if there are not as many ``channels`` as levels, or those of a boundary cannot
            be normalised in groups.
    """

    def __init__(self, ins: Sequence[int], channels: Sequence[int], kind: str) -> None:
        super().__init__()
        if len(ins) != len(channels):
            raise ValueError(
                f"channels are {tuple(channels)} and there are {len(ins)} levels, expected one "
                "number, or one for each level"
            )
        boundary, several = kind == "boundary", len(ins) > 1
        if boundary and several and any(after % _GROUPS for after in channels):
            raise ValueError(
                f"channels are {tuple(channels)}, expected multiples of {_GROUPS} for boundaries: "
                "each level is normalised in groups"
            )
        self.kind, self.each = kind, nn.ModuleList()
        for before, after in zip(ins, channels, strict=True) if several else ():
            layer: Any = nn.Conv2d(before, after, 1, bias=False)
            if boundary:
                layer = nn.Sequential(layer, nn.GroupNorm(_GROUPS, after))
            else:
                nn.init.kaiming_normal_(layer.weight)
            self.each.append(layer)
        total = sum(channels)
        joined = total if several else ins[0]
        self.joined = nn.Conv2d(joined, 1 if boundary else total, 1, bias=boundary or not several)
        if several and not boundary:
            nn.init.xavier_uniform_(self.joined.weight, gain=4)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Project (B, D, h, w) of every level to (B, channels, h, w) on the grid of the first."""
        size = levels[0].shape[2:]
        active = F.elu if self.kind == "features" else F.relu
        x = levels[0]
        if len(self.each):
            pairs = zip(self.each, levels, strict=True)
            x = torch.cat([active(enlarged(layer(level), size)) for layer, level in pairs], 1)
        x = self.joined(x)
        return F.elu(x) if self.kind == "features" else x


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge maps of a coarser level to a finer grid: by a whole factor, cut at the border.

    A backbone's cell covers as many pixels at the border as elsewhere, so 47 cells of 16 pixels are
    94 of 8, of which an image of 745 pixels has 93. Grids that do not fit so are resized.

    Args:
        maps: (B, C, h, w).
        size: (H, W), as large or larger.

    Returns:
        (B, C, H, W).

    Example:
        >>> enlarged(torch.tensor([[[[0.0, 1.0]]]]), (1, 3)).flatten().tolist()
        [0.0, 0.25, 0.75]
    """
    factor = max(round(size[0] / maps.shape[2]), round(size[1] / maps.shape[3]))
    if factor == 1 and maps.shape[2:] == tuple(size):
        return maps
    options = {"mode": "bilinear", "align_corners": False}
    if all(-(-full // factor) == part for full, part in zip(size, maps.shape[2:], strict=True)):
        return F.interpolate(maps, scale_factor=factor, **options)[:, :, : size[0], : size[1]]
    return F.interpolate(maps, size=tuple(size), **options)


PSA = {"backbone": "resnet38", "radius": 5, "levels": 3, "channels": (64, 128, 256)}
IRN = {"backbone": "resnet50", "radius": 5, "kind": "boundary", "levels": 5, "channels": 32}
IRN["pad_to"] = 512
"""Arguments of `AffinityNet` for the two networks, as they walk: IRN learns with radius 10."""


def translated(state: Mapping[str, Tensor], path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Find out which network a released file is of; rename its weights to those of `AffinityNet`.

    Args:
        state: as the ``.pth`` holds it. Of IRN's network the displacement branch is left out: it
            tells instances apart and changes no semantic mask.
        path: of the file, for the message.
        path: of the file, for the message.

    Returns:
        (``PSA`` or ``IRN``, weights).

    Raises:
        ValueError: for any other file.
    """
    if "f9.weight" in state:
        heads = {f"f8_{n + 3}.weight": f"project.each.{n}.weight" for n in range(3)}
        heads["f9.weight"] = "project.joined.weight"
        backbone = from_released({key: value for key, value in state.items() if key not in heads})
        weights = {f"trunk.{key}": value for key, value in backbone.items()}
        return PSA, weights | {new: state[old] for old, new in heads.items() if old in state}
    if "fc_edge6.weight" in state:
        parts = {"resnet50.conv1.": "trunk.stem.0.", "resnet50.bn1.": "trunk.stem.1."}
        parts |= {"resnet50.": "trunk.", "fc_edge6.": "project.joined."}
        parts |= {f"fc_edge{n + 1}.": f"project.each.{n}." for n in range(5)}
        weights = {}
        for key, value in state.items():
            old = next((part for part in parts if key.startswith(part)), None)
            if old is not None and not key.startswith("resnet50.fc."):
                weights[parts[old] + key.removeprefix(old)] = value
        return IRN, weights
    raise ValueError(
        f"{path} is neither PSA's affinity (f9.weight) nor IRN's (fc_edge6.weight); give one of "
        "these, or what AffinityNet.save wrote"
    )


def channels_of(backbone: Any, levels: int) -> Sequence[int]:
    """Return the channels of the last levels of a backbone."""
    if levels == 1:
        return [int(backbone.out_channels)]
    known = getattr(backbone, "level_channels", ())
    if levels > len(known):
        raise ValueError(
            f"levels is {levels} and {type(backbone).__name__} has {len(known) or 'no'} levels, "
            "expected at most as many; give a backbone of your own levels(images), a list of "
            "features from fine to coarse, and level_channels"
        )
    return known[-levels:]


# PSA averages the CRF's scores over a cell and takes the best; labels on disk have no scores, so
# cells of PSA's kind take what most of their pixels are in both presets.
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
        # whether pairs near the border are left out, see the function; IRN's walk has them all
        "inner_pairs": (True, False),
        # whether scores at the image's size are averaged over a cell for the walk, the image
        # continued to whole cells (PSA), or resized
        "pooled_scores": (True, False),
        # whether a cell of the boundary variant takes the label of the pixel at its centre (IRN),
        # or of most of its pixels
        "nearest_labels": (True, False),
        "sound": (math.log(2), math.log(2)),
    },
)


class PairNetwork(Learner):
    """The network of `AffinityNet`, whose arguments it has."""

    METHOD, PRESETS = "AffinityNet", PRESETS
    SAVED = ("backbone", "radius", "kind", "levels", "channels", "stride", "pad_to", "preset")
    trunk: Any  # a backbone

    def __init__(
        self,
        backbone: str | nn.Module | None = None,
        *,
        radius: int = 5,
        kind: str = "features",
        levels: int = 1,
        channels: int | list[int] | tuple[int, ...] = 64,
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
            channels = [int(channels)] * levels
        check_seed(seed)
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
        images = for_weights_of(self, images)
        if self.levels == 1:
            return [self.trunk(images)]
        return self.trunk.levels(images)[-self.levels :]

    def features(self, images: Tensor) -> Tensor:
        """Compute what is compared: (B, 3, H, W) RGB in [0, 1] -> (B, channels, h, w).

        Of the boundary variant one channel, before the sigmoid. On the network's own device.
        """
        H, W = images.shape[2:]
        down, right = (max(0, (self.pad_to or 0) - side) for side in (H, W))
        if self.pools and (cell := self.cell):  # to whole cells
            down, right = (down or -H % cell, right or -W % cell)
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
