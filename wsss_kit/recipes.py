"""The chains of the papers as presets of `Pipeline`, one function each.

The differences are the papers: who supplies the affinity, which background rule, what is walked.
Every function takes images (B, 3, H, W) RGB in [0, 1] and labels (B, C) of 0 and 1. Maps have the
size of the image; in masks class c is value c + 1.
"""

from typing import Any

from torch import Tensor

from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.base import CAMMethod
from wsss_kit.pipeline import AffinityOf, Pipeline


def cam_maps(images: Tensor, labels: Tensor, *, method: CAMMethod) -> Tensor:
    """Compute maps of any method: (B, 3, H, W), (B, C) -> (B, C, H, W) in [0, 1]."""
    return Pipeline(method, affinity=None).maps(images, labels)


def cam_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float = 0.15,
    affinity_net: AffinityOf | None = None,
    background_power: float = 16.0,
    **options: Any,
) -> Tensor:
    """Make masks of plain CAM: a constant background (IRN, CLIMS: 0.15), or PSA's walk.

    With an affinity the background is ``(1 - max)^background_power`` and walks with the maps, as
    PSA and SC-CAM have it. Without one ``threshold`` counts.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: any fitted method; of an `SCCAM` its ``read_out`` counts.
        threshold: the constant background of maps without a walk, 0.15 in the released evaluation.
        affinity_net: see `Pipeline`; None takes the maps as they are.
        background_power: of the background (1 - max)^background_power that walks with the maps.
        **options: ``walk_power``, ``squarings``, ``crf`` and ``min_confidence`` of `Pipeline`.

    Returns:
        (B, H, W) int64.

    Raises:
        ValueError: if a number is out of its range; nothing is computed then.
    """
    walked, plain = BackgroundRule(power=background_power), BackgroundRule(threshold=threshold)
    background = plain if affinity_net is None else walked
    return Pipeline(_MapsAlone(method), background, affinity_net, **options)(images, labels)


sc_cam_masks = cam_masks
"""Masks of SC-CAM: its chain is that of `cam_masks`."""


def clims_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float | None = None,
    affinity_net: AffinityOf | None = None,
    **options: Any,
) -> Tensor:
    """Make masks of CLIMS: maps, walked if there is an affinity, with a constant background.

    The maps walk alone and are divided by the maximum of the image before the background joins. The
    paper's 70.5 is of PSA's affinity, the released code's 74.1 of IRN's: an `AffinityNet` of kind
    ``"boundary"``, power 10 and 2^8 steps.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIMS`.
        threshold: the constant background; None for the released 0.15 of maps and 0.2 after a walk.
        affinity_net: see `Pipeline`; None takes the maps as they are.
        **options: ``walk_power``, ``squarings``, ``crf`` and ``min_confidence`` of `Pipeline`.

    Returns:
        (B, H, W) int64.

    Raises:
        ValueError: if a number is out of its range; nothing is computed then.
    """
    if threshold is None:
        threshold = 0.15 if affinity_net is None else 0.2
    return Pipeline(_MapsAlone(method), threshold, affinity_net, **options)(images, labels)


def clip_es_maps(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    affinity_net: AffinityOf | None = None,
    **options: Any,
) -> Tensor:
    """Compute maps of CLIP-ES after its class-aware attention affinity, or a learned one.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIPES`, or another that brings an affinity; its ``walk_squarings`` is how
            often the transition is squared.
        affinity_net: see `Pipeline`; the maps walk with it instead of the attention, without boxes.
        **options: ``box_threshold`` (0.4 for VOC, 0.7 for COCO), ``walk_power`` and ``squarings``
            of `Pipeline`.

    Returns:
        (B, C, H, W) in [0, 1].

    Raises:
        ValueError: if the method has no affinity, or a number is out of its range.
    """
    return _clip_es(method, affinity_net, **options).maps(images, labels)


def clip_es_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    power: float = 1.0,
    affinity_net: AffinityOf | None = None,
    min_confidence: float | None = 0.95,
    **options: Any,
) -> Tensor:
    """Make pseudo masks of CLIP-ES: affinity, power background, CRF, unsure pixels as 255.

    Reference: masks that train a segmenter have 255 where no score reaches 0.95. Masks that are
    scored keep every pixel, so give ``min_confidence=None`` for these.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIPES`.
        power: of the background rule (1 - max)^power.
        affinity_net: see `clip_es_maps`; None walks with the attention, as published.
        min_confidence: in [0, 1]; None keeps every pixel.
        **options: ``box_threshold``, ``walk_power`` and ``squarings``, see `clip_es_maps`.

    Returns:
        (B, H, W) int64.

    Raises:
        ValueError: if a number is out of its range; nothing is computed then.
    """
    options |= {"background": BackgroundRule(power=power), "min_confidence": min_confidence}
    return _clip_es(method, affinity_net, crf=True, **options)(images, labels)


class _MapsAlone:
    """The maps of a method without the affinity that it may bring."""

    def __init__(self, method: CAMMethod) -> None:
        self.method, self.full_maps = method, method.full_maps

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.method(images, labels).cams


def _clip_es(method: CAMMethod, affinity_net: AffinityOf | None, **options: Any) -> Pipeline:
    """Build the chain of CLIP-ES, for methods that bring an affinity."""
    if not method.brings_affinity:
        problem = f"{type(method).__name__} has no affinity to refine its maps with"
        raise ValueError(f"{problem}; give a CLIPES, or take cam_maps for maps as they are")
    return Pipeline(method, affinity=affinity_net or "own", **options)
