"""The chains of the papers as presets of `Pipeline`, one function each.

The differences are the papers: who supplies the affinity, which background rule, what is walked.
Every function takes images (B, 3, H, W) RGB in [0, 1] and labels (B, C) of 0 and 1. Maps have the
size of the image; in masks class c is value c + 1.
"""

from __future__ import annotations

from torch import Tensor

from wsss_kit.masks import BackgroundRule, MapsOf
from wsss_kit.methods.base import CAMMethod
from wsss_kit.pipeline import AffinityOf, Pipeline


def cam_maps(images: Tensor, labels: Tensor, *, method: CAMMethod) -> Tensor:
    """Maps of any method as they are: (B, 3, H, W), (B, C) -> (B, C, H, W) in [0, 1]."""
    return Pipeline(method, affinity=None).maps(images, labels)


def cam_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float = 0.15,
    affinity_net: AffinityOf | None = None,
    background_power: float = 16.0,
    walk_power: float | None = None,
    squarings: int = 8,
) -> Tensor:
    """Plain CAM: a constant background (IRN and CLIMS: 0.15), or PSA's walk: -> (B, H, W) int64.

    With an affinity the background is ``(1 - max)^background_power`` and walks with the maps, as
    in PSA; without, ``threshold`` counts. The arguments are those of `sc_cam_masks`.
    """
    return sc_cam_masks(
        images,
        labels,
        method=method,
        threshold=threshold,
        affinity_net=affinity_net,
        background_power=background_power,
        walk_power=walk_power,
        squarings=squarings,
    )


def sc_cam_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float = 0.15,
    affinity_net: AffinityOf | None = None,
    background_power: float = 16.0,
    walk_power: float | None = None,
    squarings: int = 8,
    crf: bool = False,
    min_confidence: float | None = None,
) -> Tensor:
    """SC-CAM: maps and a power background walk together; or maps alone: -> (B, H, W) int64.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `SCCAM`, whose ``read_out`` counts.
        threshold: the constant background of maps without a walk, 0.15 in the released evaluation.
        affinity_net: see `Pipeline`; None takes the maps as they are.
        background_power: of the background (1 - max)^background_power that walks with the maps.
        walk_power: exponent on the affinity; None takes the published one.
        squarings: the walk has 2^squarings steps.
        crf: whether background and the classes present go through `dense_crf`.
        min_confidence: in [0, 1]; None keeps every pixel.

    Raises:
        ValueError: if a number is out of its range; nothing is computed then.
    """
    walked, plain = BackgroundRule(power=background_power), BackgroundRule(threshold=threshold)
    return Pipeline(
        _maps_alone(method),
        background=plain if affinity_net is None else walked,
        affinity=affinity_net,
        crf=crf,
        min_confidence=min_confidence,
        walk_power=walk_power,
        squarings=squarings,
    )(images, labels)


def clims_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float | None = None,
    affinity_net: AffinityOf | None = None,
    walk_power: float | None = None,
    squarings: int = 8,
    crf: bool = False,
    min_confidence: float | None = None,
) -> Tensor:
    """CLIMS: maps, walked if there is an affinity, with a constant background: -> (B, H, W) int64.

    The maps walk alone and are divided by the maximum of the image before the background joins. The
    paper's 70.5 is of PSA's affinity, the released code's 74.1 of IRN's: an `AffinityNet` of kind
    ``"boundary"``, power 10 and 2^8 steps.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIMS`.
        threshold: the constant background; None for the released 0.15 of maps and 0.2 after a walk.
        affinity_net: see `Pipeline`; None takes the maps as they are.
        walk_power: exponent on the affinity; None takes the published one.
        squarings: the walk has 2^squarings steps.
        crf: whether background and the classes present go through `dense_crf`.
        min_confidence: in [0, 1]; None keeps every pixel.

    Raises:
        ValueError: if a number is out of its range; nothing is computed then.
    """
    if threshold is None:
        threshold = 0.15 if affinity_net is None else 0.2
    return Pipeline(
        _maps_alone(method),
        background=threshold,
        affinity=affinity_net,
        crf=crf,
        min_confidence=min_confidence,
        walk_power=walk_power,
        squarings=squarings,
    )(images, labels)


def clip_es_maps(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    box_threshold: float = 0.4,
    affinity_net: AffinityOf | None = None,
    walk_power: float | None = None,
    squarings: int = 8,
) -> Tensor:
    """CLIP-ES's maps after its class-aware attention affinity, or after a learned one.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIPES`, or another that brings an affinity; its ``walk_squarings`` is how
            often the transition is squared.
        box_threshold: 0.4 for VOC, 0.7 for COCO.
        affinity_net: see `Pipeline`; the maps walk with it instead of the attention, without boxes.
        walk_power: exponent on the learned affinity; None takes PSA's 8.
        squarings: the walk with it has 2^squarings steps.

    Returns:
        (B, C, H, W) in [0, 1].

    Raises:
        ValueError: if the method has no affinity, or a number is out of its range.
    """
    options = {"walk_power": walk_power, "squarings": squarings}
    return _clip_es(method, affinity_net, box_threshold=box_threshold, **options).maps(
        images, labels
    )


def clip_es_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    box_threshold: float = 0.4,
    power: float = 1.0,
    affinity_net: AffinityOf | None = None,
    walk_power: float | None = None,
    squarings: int = 8,
    min_confidence: float | None = 0.95,
) -> Tensor:
    """CLIP-ES's pseudo masks: affinity, power background, dense CRF, unsure pixels as 255.

    Reference: masks that train a segmenter have 255 where no score reaches 0.95; masks that are
    scored keep every pixel, so give ``min_confidence=None`` for these.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIPES`.
        box_threshold: 0.4 for VOC, 0.7 for COCO.
        power: of the background rule (1 - max)^power.
        affinity_net: see `clip_es_maps`; None walks with the attention, as published.
        walk_power: exponent on the learned affinity; None takes PSA's 8.
        squarings: the walk with it has 2^squarings steps.
        min_confidence: in [0, 1]; None keeps every pixel.

    Returns:
        (B, H, W) int64.

    Raises:
        ValueError: if a number is out of its range; nothing is computed then.
    """
    return _clip_es(
        method,
        affinity_net,
        background=BackgroundRule(power=power),
        crf=True,
        min_confidence=min_confidence,
        box_threshold=box_threshold,
        walk_power=walk_power,
        squarings=squarings,
    )(images, labels)


def _maps_alone(method: CAMMethod) -> MapsOf:
    """The maps of a method without the affinity that it may bring."""
    return lambda images, labels: method(images, labels).cams


def _clip_es(method: CAMMethod, affinity_net: AffinityOf | None, **options: object) -> Pipeline:
    """The chain of CLIP-ES, for methods that bring an affinity."""
    if not method.brings_affinity:
        raise ValueError(
            f"{type(method).__name__} has no affinity to refine its maps with; give a CLIPES, or "
            "take cam_maps for maps as they are"
        )
    return Pipeline(method, affinity=affinity_net or "own", **options)
