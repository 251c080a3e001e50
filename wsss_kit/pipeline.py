"""From the maps of any method to pseudo masks: affinity, background, CRF, confident pixels.

The methods differ in who supplies the affinity, which background rule holds and when the background
joins. `recipes` has the chains of the papers as presets of `Pipeline`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.affinity import balanced_walk, box_masks, random_walk, transition_matrix
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.affinity_net.pairs import enlarged
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.checks import (
    check_count,
    check_images,
    check_labels,
    check_positive,
    check_probability,
    check_range,
    checked,
)
from wsss_kit.clip import WALK_SQUARINGS
from wsss_kit.crf import crf_of_present, reference_crf_images
from wsss_kit.engine import device_of
from wsss_kit.masks import BackgroundRule, MapsOf, Refine, scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.clip_es.views import EPS, SINKHORN

AffinityOf = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) to an affinity (B, N, N): an `AffinityNet`, or any function."""


@dataclass
class Pipeline:
    """Turn images and image-level labels into pseudo masks with any method.

    The steps are ``maps`` (the method's maps after the affinity, at the size of the image),
    ``scores`` (with background, after the CRF) and the masks themselves. Every command, notebook
    and widget uses these steps.

    Args:
        method: a fitted method, or a function of images and labels that returns maps
            (B, C, h, w) in [0, 1] or a `MethodOutput`.
        background: a `BackgroundRule`, or a number for a constant background in [0, 1]. None takes
            the published rule of the method: (1 - max)^1 for CLIP-ES; 0.15 for the maps of the
            others; after a learned affinity 0.2 for CLIMS and (1 - max)^16 for CAM and SC-CAM.
        affinity: ``"own"`` refines maps with the affinity that the method brings (CLIP-ES's
            attention) and leaves those of other methods as they are; an `AffinityNet` or another
            function of images walks with a learned one; None takes the maps as they are.
        crf: whether scores go through the dense CRF, or another function of scores, images and
            labels, such as ``partial(crf_of_present, refine=pamr)``.
        min_confidence: pixels whose best score is below become 255; None keeps every pixel.
        box_threshold: of the boxes around CLIP-ES's maps: 0.4 for VOC, 0.7 for COCO.
        walk_power: exponent on a learned affinity. None takes the published one: 10 where a
            constant background joins after the walk (IRN, CLIMS), else 8 (PSA, SC-CAM).
        squarings: a walk with a learned affinity has 2^squarings steps.

    Raises:
        ValueError: if a number is out of its range or there is no such affinity.

    Example:
        >>> import torch
        >>> half = Pipeline(lambda images, labels: torch.full((1, 2, 1, 1), 0.5), background=0.3)
        >>> half(torch.zeros(1, 3, 2, 2), torch.tensor([[0.0, 1.0]])).tolist()
        [[[2, 2], [2, 2]]]
    """

    method: CAMMethod | MapsOf
    background: BackgroundRule | float | None = None
    affinity: AffinityOf | str | None = "own"
    crf: bool | Refine = False
    min_confidence: float | None = None
    box_threshold: float = 0.4
    walk_power: float | None = None
    squarings: int = 8

    def __post_init__(self) -> None:
        if not (self.background is None or isinstance(self.background, BackgroundRule)):
            self.background = BackgroundRule(threshold=self.background)
        if not (self.affinity in ("own", None) or callable(self.affinity)):
            expected = "'own', None, or an AffinityNet or another function of images"
            raise ValueError(f"affinity is {self.affinity!r}, expected {expected}")
        check_probability("box_threshold", self.box_threshold)
        check_count("squarings", self.squarings, least=0)
        if self.walk_power is not None:
            check_positive("walk_power", self.walk_power)
        if self.min_confidence is not None:
            check_probability("min_confidence", self.min_confidence)

    @property
    def rule(self) -> BackgroundRule:
        """The background rule that holds."""
        if isinstance(self.background, BackgroundRule):
            return self.background
        name = "walked_background" if callable(self.affinity) else "background"
        return getattr(self.method, name, getattr(CAMMethod, name))

    @property
    def cell(self) -> int:
        """Pixels of a side of the cells that the method resizes images to; 1 if it does not."""
        own = self._attending if self.affinity == "own" else None
        return getattr(getattr(own, "clip", None), "patch_size", 1)

    @property
    def device(self) -> torch.device:
        """Where the method computes; the CPU for a function."""
        part = getattr(self._attending, "clip", self.method)
        return device_of(part) if isinstance(part, nn.Module) else torch.device("cpu")

    @property
    def refinement(self) -> str:
        """What a protocol calls the steps after the maps."""
        own = self._attending if self.affinity == "own" else None
        steps = [getattr(own, "affinity_name", "own affinity")] if own else []
        if callable(self.affinity):
            by_irn = getattr(self.affinity, "kind", None) == "boundary"
            steps = ["random walk", "IRN's boundary" if by_irn else "PSA's affinity"]
        return ", ".join([*steps, *["dense CRF"] * bool(self.crf)]) or "none"

    @property
    def _attending(self) -> Any:
        """The method if it brings an affinity, else None."""
        return self.method if getattr(self.method, "brings_affinity", False) else None

    def fit(self, images: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) to whole cells, as the method does itself."""
        return self._attending.clip.fit_to_patches(images)

    def own_maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute maps (B, C, h, w) on the method's own grid, after the affinity that it brings."""
        output = self.method(images, labels)
        cams, affinity = (output, None) if isinstance(output, Tensor) else output
        if affinity is None or self.affinity != "own":
            return cams
        clamp = getattr(self.method, "clamp_boxes", False)
        boxes = box_masks(cams, threshold=self.box_threshold, clamp=clamp)
        squarings = getattr(self.method, "walk_squarings", WALK_SQUARINGS)
        cams = balanced_walk(cams * boxes, affinity, sinkhorn=SINKHORN, squarings=squarings)
        return normalize_cams(cams, subtract_min=True, eps=EPS)

    def maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute maps after the affinity, at the size of the images.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.

        Returns:
            (B, C, H, W) in [0, 1].
        """
        return self.maps_and_scores(images, labels)[0]

    def maps_and_scores(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute maps after the affinity (B, C, H, W), and scores (B, 1 + C, H, W) before the CRF.

        With a learned affinity, a power background walks with the maps (PSA, SC-CAM), and a
        constant joins after the walk and a division by the maximum of the image (IRN, CLIMS).
        """
        check_images(images)
        check_labels(labels)
        walks, size = callable(self.affinity), images.shape[-2:]
        with_background = walks and self.rule.power is not None and not self._attending
        # PSA averages scores of the image's size over its cells
        whole = getattr(self.affinity, "pools", False) if with_background else not walks
        with checked():
            cams = self.full_maps(images, labels) if whole else self.own_maps(images, labels)
        check_range("the maps", cams, "scale them first with cam.normalize_cams")
        with checked():
            if with_background:
                scores = self.walk(self.rule.scores(cams), images)
                return scores[:, 1:], scores
            if walks:
                own: Any = {"subtract_min": True, "eps": EPS}
                scale = own if self._attending else {"over": "image"}
                cams = normalize_cams(self.walk(cams, images), **scale)
            maps = upsample(cams, size) if cams.shape[-2:] != size else cams  # (B, C, H, W)
            return maps, self.rule.scores(maps)

    def full_maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute maps (B, C, H, W) at the size of the images, after the affinity of the method."""
        if hasattr(self.method, "full_maps") and not (self._attending and self.affinity == "own"):
            return self.method.full_maps(images, labels)
        return upsample(self.own_maps(images, labels), images.shape[-2:])

    def walk(self, scores: Tensor, images: Tensor) -> Tensor:
        """Walk scores or maps (B, K, h, w) with the learned affinity: -> (B, K, H, W).

        They are resized to the grid of an `AffinityNet`; another affinity has their own grid.
        """
        published = 8 if self._attending or self.rule.power is not None else 10
        power = published if self.walk_power is None else self.walk_power
        if isinstance(self.affinity, AffinityNet):
            scores = self.affinity.walk(scores, images, power=power, squarings=self.squarings)
        elif callable(self.affinity):
            affinity = self.affinity(images)  # (B, N, N)
            walk = transition_matrix(affinity, power=power, squarings=self.squarings)
            scores = random_walk(scores, walk)
        return enlarged(scores, images.shape[-2:])

    def refine(self, scores: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Refine scores (B, 1 + C, H, W) by the CRF; return them as they are without one.

        The ``reference`` preset of CLIP-ES shows the CRF the images of the released code, see
        `reference_crf_images`.
        """
        if not self.crf:
            return scores
        if callable(self.crf):
            return self.crf(scores, images, labels)
        if self._attending and self._attending.preset == "reference":
            images = reference_crf_images(images)
        return crf_of_present(scores, images, labels)

    def scores(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute scores (B, 1 + C, H, W), background first, after the CRF."""
        scores = self.maps_and_scores(images, labels)[1]
        with checked():
            return self.refine(scores, images, labels)

    def masks_of(self, scores: Tensor, images: Tensor | None, labels: Tensor) -> Tensor:
        """Turn scores (B, 1 + C, H, W) before the CRF into masks (B, H, W) int64.

        Only the CRF looks at the images, which may be None without one.
        """
        shown: Any = images
        scores = self.refine(scores, shown, labels)
        return scores_to_masks(scores, labels, min_confidence=self.min_confidence)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make masks (B, H, W) int64: 0 background, c + 1 for class c, 255 ignored.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.
        """
        scores = self.scores(images, labels)
        # the scores of a function of the caller enter here, those of the CRF are our own
        with nullcontext() if callable(self.crf) else checked():
            return scores_to_masks(scores, labels, min_confidence=self.min_confidence)
