"""A learned affinity: what belongs together, from labels that are trusted, and the walk with it.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018 (PSA); SC-CAM and the CLIMS paper refine their maps so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.affinity import random_walk, transition_matrix
from wsss_kit.affinity_net.neighbours import (
    PAIR_KINDS,
    balanced_pair_loss,
    dense,
    feature_affinity,
    half_plane,
    inner_pairs,
    pair_kinds,
    windowed_walk,
)
from wsss_kit.affinity_net.pairs import PairNetwork, translated
from wsss_kit.backbones import warn_of_random_weights
from wsss_kit.cam import upsample
from wsss_kit.checkpoints import load_all, read_state
from wsss_kit.checks import (
    check_count,
    check_images,
    check_positive,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.engine import batch_norms
from wsss_kit.masks import confident_seeds, labels_on_grid
from wsss_kit.methods.base import Recipe
from wsss_kit.views import MaskedImages, mean_colour

_MOST_DENSE = 1024
"""Cells up to which squaring the whole matrix is faster than walking step by step."""


class AffinityNet(PairNetwork):
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
            with ``levels``, see `affinity_net.pairs`. The finest of them is the grid.
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
        if self.pools and (cell := self.cell) and scores.shape[2:] == images.shape[2:]:
            H, W = images.shape[2:]
            padded = F.pad(scores_there, (0, -W % cell, 0, -H % cell))  # with 0, as PSA
            sized = F.avg_pool2d(padded, cell)
        else:
            sized = upsample(scores_there, grid)
        if self.kind == "boundary":
            sized = sized * (1 - seen.sigmoid())
        if grid.numel() <= _MOST_DENSE:
            whole = dense(between, self.offsets)
            walked = random_walk(sized, transition_matrix(whole, power=power, squarings=squarings))
        else:
            walked = windowed_walk(sized, between, self.offsets, power=power, steps=2**squarings)
        return walked.to(scores.device)

    # -- training ---------------------------------------------------------------------------

    def fit(  # pyrefly: ignore[bad-override]  # labels of pixels too
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
        view = {"crop": recipe["crop"], "fill": mean_colour(self.trunk)}
        return MaskedImages(samples, recipe["masks"], "seed", view)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return all weights, or those of the convolutions alone."""
        learning = self if self.numbers["train_backbone"] else self.project
        return [{"params": list(learning.parameters())}]

    def fixed(self) -> list[nn.Module]:
        """Return the backbone where it does not learn, and batch normalisation that is kept."""
        recipe = self.numbers
        trunk = [] if recipe["train_backbone"] else [self.trunk]
        return trunk + (batch_norms(self) if recipe["fixes_norms"] else [])

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute PSA's balanced loss over pairs of neighbours.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, H, W) int64 of `confident_labels`.
        """
        recipe = self.numbers
        with torch.set_grad_enabled(recipe["train_backbone"]):
            levels = self.backbone_levels(images)
        between = self.compare(self.project(levels))
        h, w = between.shape[2:]
        if self.kind == "boundary" and recipe["nearest_labels"]:
            cells = F.interpolate(labels[:, None].float(), size=(h, w), mode="nearest-exact")
            cells = cells[:, 0].long()
        else:
            classes = labels[labels != IGNORE_INDEX]
            cells = labels_on_grid(labels, (h, w), int(classes.max()) if len(classes) else 0)
        kinds = pair_kinds(cells, self.offsets)
        if recipe["inner_pairs"]:
            kinds = inner_pairs(kinds, self.offsets, none=-1)
        return {"total": balanced_pair_loss(between, kinds)}

    # -- files ------------------------------------------------------------------------------

    @classmethod
    def _upgraded(
        cls, tensors: dict[str, Tensor], card: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return tensors, {"preset": "clean", **card}  # files from before 0.3 have all pairs

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
