"""AffinityNet: a backbone whose features say which neighbours belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.affinity import random_walk, transition_matrix
from wsss_kit.affinity_net.confident import labels_on_grid
from wsss_kit.affinity_net.levels import KINDS, Projection, channels_of, translated
from wsss_kit.affinity_net.neighbours import (
    balanced_pair_loss,
    boundary_affinity,
    dense,
    feature_affinity,
    half_plane,
    inner_pairs,
    pair_kinds,
    windowed_walk,
)
from wsss_kit.cam import upsample
from wsss_kit.checks import (
    check_count,
    check_counts,
    check_given,
    check_images,
    check_positive,
    check_word,
    chosen_device,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.classifier.backbones import build_backbone, warn_of_random_weights
from wsss_kit.classifier.pretrained import load_all, read_state
from wsss_kit.engine import batch_norms, columns, device_of
from wsss_kit.methods.base import Learner, Recipe
from wsss_kit.views import MaskedImages

_MOST_DENSE = 1024
"""Cells up to which squaring the whole matrix is faster than walking step by step."""

PRESETS = columns(
    ("reference", "clean"),
    {
        "epochs": (6, 6),
        "batch_size": (16, 16),
        "accumulate": (1, 1),
        "learning_rate": (1e-3, 1e-3),
        "weight_decay": (0.01, 0.01),
        "optimiser": ("adamw", "adamw"),
        "crop": (None, None),
        "long_side": (None, None),
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


class AffinityNet(Learner):
    """Ahn and Kwak's AffinityNet (CVPR 2018) on any backbone, or the boundary variant of IRN.

    Features pass a 1x1 convolution and an ELU; two cells nearer than ``radius`` belong together as
    far as their features are alike, see `feature_affinity`. The variant makes one number a cell,
    the boundary, and looks for it between the two, see `boundary_affinity`. The papers compare
    several levels of the backbone at once: ``AffinityNet("resnet38", levels=3, channels=(64, 128,
    256))`` is PSA's, ``AffinityNet("resnet50", kind="boundary", levels=5, channels=32)`` IRN's.

    Args:
        backbone: a name or a module, see `build_backbone`, which is put into evaluation mode; None
            for the embedded world's backbone with its weights.
        radius: neighbours are nearer than so many cells (PSA: 5; IRN: 10 in training, 5 in the
            walk).
        kind: one of ``KINDS``.
        levels: how many of the backbone's last levels are compared; more than one needs a backbone
            with ``levels``, see `affinity_net.levels`. The finest of them is the grid.
        channels: of the features that are compared; where there are several levels, of each,
            as one number or one for each.
        stride: of a named backbone; PSA's is 8.
        weights: of a named backbone.
        pad_to: images with a shorter side are continued to the right and below to this many
            pixels, in the backbone's mean colour, and what was added is cut away (IRN: 512, which
            counts because it normalises in groups over the whole).
        preset: ``"reference"`` or ``"clean"``, see ``PRESETS``.
        seed: of the convolutions' first weights.
        device: of a named backbone; ``"auto"`` for CUDA where there is one.

    Raises:
        ValueError: for an unknown backbone, one without as many levels, or a number that is no
            count.

    Example:
        >>> net = AffinityNet(device="cpu")
        >>> affinity = net(torch.rand(1, 3, 96, 96))
        >>> tuple(affinity.shape), affinity.diagonal(dim1=1, dim2=2).unique().tolist()
        ((1, 144, 144), [1.0])
    """

    METHOD, PRESETS = "AffinityNet", PRESETS
    SAVED = ("backbone", "radius", "kind", "levels", "channels", "stride", "pad_to")

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

    @torch.no_grad()
    def walk(
        self, scores: Tensor, images: Tensor, *, power: float = 8, squarings: int = 8
    ) -> Tensor:
        """Let maps walk with the images' affinity, by whichever way is faster.

        Of the boundary variant the maps are first multiplied by one minus the boundary, as in IRN:
        what lies on a boundary belongs to nobody.

        Args:
            scores: (B, K, h, w) of any grid; brought to the affinity's.
            images: (B, 3, H, W) RGB in [0, 1].
            power: exponent on the affinity (PSA: 8, IRN: 10).
            squarings: of the transition, so 2^squarings steps (PSA and IRN: 8).

        Returns:
            (B, K, h', w') on the affinity's grid and the device of ``scores``.

        Raises:
            ValueError: if shapes do not fit or a number is out of its range.
        """
        check_images(images)
        check_positive("power", power)
        check_count("squarings", squarings, least=0)
        seen = self._seen(images)
        between = self.compare(seen)
        grid = between.shape[2:]
        scores_there = scores.to(between.device)
        if self.pools and scores.shape[2:] == images.shape[2:]:
            H, W = images.shape[2:]
            padded = F.pad(scores_there, (0, -W % self.cell, 0, -H % self.cell))  # with 0, as PSA
            sized = F.avg_pool2d(padded, self.cell)
        else:
            sized = upsample(scores_there, tuple(grid))
        if self.kind == "boundary":
            sized = sized * (1 - seen.sigmoid())
        if grid.numel() <= _MOST_DENSE:
            whole = dense(between, self.offsets)
            walked = random_walk(sized, transition_matrix(whole, power=power, squarings=squarings))
        else:
            walked = windowed_walk(sized, between, self.offsets, power=power, steps=2**squarings)
        return walked.to(scores.device)

    # -- training ---------------------------------------------------------------------------

    def fit(
        self,
        samples: Sequence[Sample],
        seeds: Mapping[str, Tensor],
        *,
        weight_decay: float | None = None,
        train_backbone: bool = True,
        fixes_norms: bool = False,
        **training: Any,
    ) -> AffinityNet:
        """Learn from confident labels by AdamW with polynomial decay.

        Args:
            samples: images, of one size unless they are cropped.
            seeds: image name to (H, W) int64 of `confident_labels`, neutral pixels 255. No ground
                truth.
            weight_decay: of AdamW; None for 0.01.
            train_backbone: whether the backbone learns too (PSA), or the convolutions alone (IRN).
            fixes_norms: whether batch normalisation keeps its statistics while the backbone learns,
                as in PSA; it should where a step has few images.
            **training: arguments of `Learner.fit`; photographs need a ``crop`` (PSA: 448, IRN:
                512).

        Returns:
            Itself, with ``losses_``, the mean of every epoch.

        Raises:
            ValueError: if an image has no seed, the images differ in size, a number is out of
                its range, or the checkpoint is of another run.
        """
        own = {"weight_decay": weight_decay, "train_backbone": train_backbone}
        return super().fit(samples, masks=seeds, fixes_norms=fixes_norms, **own, **training)

    def begin(self, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
        """Forget the losses of an earlier training."""
        self.losses_ = []
        warn_of_random_weights("AffinityNet", self.backbone, self.weights)

    def data(self, samples: Sequence[Sample], recipe: Recipe) -> MaskedImages:
        """Return random views of the images with their confident labels."""
        fill = getattr(self.trunk, "mean", None)
        view = {"crop": recipe["crop"], "fill": None if fill is None else fill.cpu()}
        return MaskedImages(samples, recipe["masks"], "seed", view)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return all weights, or those of the convolutions alone."""
        learning = self if (self.recipe or self.values())["train_backbone"] else self.project
        return [{"params": list(learning.parameters())}]

    def fixed(self) -> list[nn.Module]:
        """Return the backbone where it does not learn, and batch normalisation that is kept."""
        recipe = self.recipe or self.values()
        trunk = [] if recipe["train_backbone"] else [self.trunk]
        return trunk + (batch_norms(self) if recipe["fixes_norms"] else [])

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute PSA's balanced loss over pairs of neighbours.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, H, W) int64 of `confident_labels`.
        """
        recipe = self.recipe or self.values()
        with torch.set_grad_enabled(recipe["train_backbone"]):
            levels = self.backbone_levels(images)
        between = self.compare(self.project(levels))
        size = tuple(between.shape[2:])
        if self.kind == "boundary" and recipe["nearest_labels"]:
            cells = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")
            cells = cells[:, 0].long()
        else:
            classes = labels[labels != IGNORE_INDEX]
            cells = labels_on_grid(labels, size, int(classes.max()) if len(classes) else 0)
        kinds = pair_kinds(cells, self.offsets)
        if recipe["inner_pairs"]:
            kinds = inner_pairs(kinds, self.offsets, none=-1)
        return {"total": balanced_pair_loss(between, kinds)}

    # -- files ------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backbone: nn.Module | None = None,
        device: str = "auto",
        **options: Any,
    ) -> AffinityNet:
        """Load a trained AffinityNet from its file, or from a file that PSA or IRN released.

        Args:
            path: as given to `save`; or ``res38_aff.pth`` of PSA, which SC-CAM's authors refine
                with, or ``res50_irn.pth`` as IRN's and CLIMS' code write it.
            backbone: the module, where the backbone was your own.
            device: of a named backbone.
            **options: arguments of the constructor instead of what was saved, such as
                ``pad_to=None``: CLIMS's copy of IRN does not pad images to 512 pixels.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method, version or backbone.
        """
        if Path(path).suffix == ".pth":
            saved, state = translated(read_state(Path(path)), path)
            net = cls(**{**saved, **options}, device=device)
            load_all(net, state, path, what=f"the AffinityNet of {saved['backbone']}")
            net.losses_ = []  # of its training nothing is known; it can be saved as our own
            return net
        if backbone is not None:
            options |= {"backbone": backbone, "stride": None}
        return super().load(path, device=device, **options)
