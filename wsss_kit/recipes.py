"""The methods end to end, on one page: the same verbs in the same order.

The differences are the papers: who supplies the affinity, which background rule, what is walked.
Maps leave here at the picture's size, masks with class c as value c + 1.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wsss_kit.affinity import balanced_walk, box_masks, random_walk, transition_matrix
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.checks import check_positive, check_probability
from wsss_kit.crf import crf_of_present, reference_crf_images
from wsss_kit.masks import add_background, scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.clip_es.presets import EPS

AffinityOf = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) to (B, N, N): an `AffinityNet`, or one's own."""


def cam_maps(images: Tensor, labels: Tensor, *, method: CAMMethod) -> Tensor:
    """Maps of any method, not refined: (B, 3, H, W), (B, C) -> (B, C, H, W) in [0, 1]."""
    cams, _ = method(images, labels)  # (B, C, h, w)
    return upsample(cams, images.shape[-2:])  # (B, C, H, W)


def clip_es_maps(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    box_threshold: float = 0.4,
    affinity_net: AffinityOf | None = None,
    walk_power: float = 8.0,
    squarings: int = 8,
) -> Tensor:
    """CLIP-ES's maps after its class-aware attention affinity, or after a learned one.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIPES`, or another whose output has an affinity; its
            ``walk_squarings`` is how often the transition is squared.
        box_threshold: 0.4 for VOC, 0.7 for COCO.
        affinity_net: see `walked`; the maps walk with it instead of the attention, without boxes.
        walk_power: exponent on the learned affinity.
        squarings: the walk with it has 2^squarings steps.

    Returns:
        (B, C, H, W) in [0, 1].

    Raises:
        ValueError: if the method has no affinity, or ``box_threshold`` leaves [0, 1].
    """
    if affinity_net is not None:
        check_probability("box_threshold", box_threshold)
        cams, _ = method(images, labels)  # (B, C, h, w)
        walk = {"affinity_net": affinity_net, "power": walk_power, "squarings": squarings}
        return normalize_cams(walked(cams, images, **walk), subtract_min=True, eps=EPS)
    cams = clip_es_cells(images, labels, method=method, box_threshold=box_threshold)
    return upsample(cams, images.shape[-2:])  # (B, C, H, W)


def clip_es_cells(
    images: Tensor, labels: Tensor, *, method: CAMMethod, box_threshold: float = 0.4
) -> Tensor:
    """CLIP-ES's refined maps on CLIP's own grid, one cell a patch, see `clip_es_maps`.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: as there.
        box_threshold: as there.

    Returns:
        (B, C, h, w) in [0, 1].

    Raises:
        ValueError: as there.
    """
    check_probability("box_threshold", box_threshold)
    cams, affinity = method(images, labels)  # (B, C, h, w), (B, N, N)
    if affinity is None:
        raise ValueError(
            f"{type(method).__name__} has no affinity to refine its maps with; give a CLIPES, or "
            "take cam_maps for maps as they are"
        )
    boxes = box_masks(cams, threshold=box_threshold, clamp=method.clamp_boxes)
    cams = balanced_walk(cams * boxes, affinity, sinkhorn=3, squarings=method.walk_squarings)
    return normalize_cams(cams, subtract_min=True, eps=EPS)


def clip_es_crf(scores: Tensor, images: Tensor, labels: Tensor, *, method: CAMMethod) -> Tensor:
    """CLIP-ES's dense CRF over background and the classes present.

    The ``reference`` preset shows it the released code's pictures, see `reference_crf_images`.

    Args:
        scores: (B, 1 + C, H, W) in [0, 1], background first.
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: whose preset counts.

    Returns:
        (B, 1 + C, H, W), sums to 1; zero for absent classes.
    """
    seen = reference_crf_images(images) if _as_released(method) else images
    return crf_of_present(scores, seen, labels)


def walked(
    scores: Tensor,
    images: Tensor,
    *,
    affinity_net: AffinityOf,
    power: float = 8.0,
    squarings: int = 8,
) -> Tensor:
    """Scores after a random walk with a learned affinity, back at the picture's size.

    With the boundary of IRN the scores are first multiplied by one minus the boundary, see
    `AffinityNet.walk`.

    Args:
        scores: (B, K, h, w).
        images: (B, 3, H, W) RGB in [0, 1].
        affinity_net: an `AffinityNet`, to whose grid the scores are resized, or any function from
            pictures to (B, N, N) on the scores' own grid.
        power: exponent on the affinity (PSA: 8).
        squarings: the walk has 2^squarings steps (PSA: 8).

    Returns:
        (B, K, H, W).
    """
    if isinstance(affinity_net, AffinityNet):
        scores = affinity_net.walk(scores, images, power=power, squarings=squarings)
    else:
        walk = transition_matrix(affinity_net(images), power=power, squarings=squarings)
        scores = random_walk(scores, walk)  # (B, K, h, w)
    return upsample(scores, images.shape[-2:])  # (B, K, H, W)


def cam_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float = 0.15,
    affinity_net: AffinityOf | None = None,
    background_power: float = 16.0,
    walk_power: float = 8.0,
    squarings: int = 8,
) -> Tensor:
    """Plain CAM: a constant background (IRN and CLIMS: 0.15), or PSA's walk: -> (B, H, W) int64.

    With an affinity the background is ``(1 - max)^background_power`` and walks with the maps, as
    PSA has it; without, ``threshold`` counts.
    """
    if affinity_net is not None:
        walk = {"affinity_net": affinity_net, "walk_power": walk_power, "squarings": squarings}
        return sc_cam_masks(
            images, labels, method=method, background_power=background_power, **walk
        )
    return _constant_masks(
        images, labels, method=method, threshold=threshold, crf=False, min_confidence=None
    )


def clims_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float | None = None,
    affinity_net: AffinityOf | None = None,
    walk_power: float = 10.0,
    squarings: int = 8,
    crf: bool = False,
    min_confidence: float | None = None,
) -> Tensor:
    """CLIMS: maps, walked if there is an affinity, with a constant background: -> (B, H, W) int64.

    The maps walk alone and are divided by the picture's maximum before the background joins. The
    paper's 70.5 is of PSA's affinity, the released code's 74.1 of IRN's: an `AffinityNet` of kind
    ``"boundary"``, power 10 and 2^8 steps.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIMS`.
        threshold: the constant background; None for the released 0.15 of maps and 0.2 after a walk.
        affinity_net: see `walked`; None scores the maps themselves.
        walk_power: exponent on the affinity.
        squarings: the walk has 2^squarings steps.
        crf: whether background and the classes present go through `dense_crf`.
        min_confidence: in [0, 1]; None keeps every pixel.
    """
    if affinity_net is None:
        options = {"threshold": 0.15 if threshold is None else threshold, "crf": crf}
        return _constant_masks(
            images, labels, method=method, min_confidence=min_confidence, **options
        )
    threshold = 0.2 if threshold is None else threshold
    check_probability("threshold", threshold)
    _check_confidence(min_confidence)
    cams, _ = method(images, labels)  # (B, C, h, w)
    cams = walked(cams, images, affinity_net=affinity_net, power=walk_power, squarings=squarings)
    cams = normalize_cams(cams, over="image")  # (B, C, H, W)
    scores = add_background(cams, threshold=threshold)  # (B, 1 + C, H, W)
    return _finished(scores, images, labels, crf=crf, min_confidence=min_confidence)


def sc_cam_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float = 0.15,
    affinity_net: AffinityOf | None = None,
    background_power: float = 16.0,
    walk_power: float = 8.0,
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
        affinity_net: see `walked`; None scores the maps themselves.
        background_power: of the background (1 - max)^background_power that walks with the maps.
        walk_power: exponent on the affinity.
        squarings: the walk has 2^squarings steps.
        crf: whether background and the classes present go through `dense_crf`.
        min_confidence: in [0, 1]; None keeps every pixel.
    """
    if affinity_net is None:
        options = {"threshold": threshold, "crf": crf, "min_confidence": min_confidence}
        return _constant_masks(images, labels, method=method, **options)
    check_positive("background_power", background_power)
    _check_confidence(min_confidence)
    cams, _ = method(images, labels)  # (B, C, h, w)
    scores = add_background(cams, power=background_power)  # (B, 1 + C, h, w)
    scores = walked(
        scores, images, affinity_net=affinity_net, power=walk_power, squarings=squarings
    )
    return _finished(scores, images, labels, crf=crf, min_confidence=min_confidence)


def _constant_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    threshold: float,
    crf: bool,
    min_confidence: float | None,
) -> Tensor:
    """Maps of the method with a constant background."""
    check_probability("threshold", threshold)
    _check_confidence(min_confidence)
    scores = add_background(cam_maps(images, labels, method=method), threshold=threshold)
    return _finished(scores, images, labels, crf=crf, min_confidence=min_confidence)


def _finished(
    scores: Tensor, images: Tensor, labels: Tensor, *, crf: bool, min_confidence: float | None
) -> Tensor:
    """Scores (B, 1 + C, H, W) to masks, through a dense CRF if asked for."""
    if crf:
        scores = crf_of_present(scores, images, labels)
    return scores_to_masks(scores, labels, min_confidence=min_confidence)  # (B, H, W)


def clip_es_masks(
    images: Tensor,
    labels: Tensor,
    *,
    method: CAMMethod,
    box_threshold: float = 0.4,
    power: float = 1.0,
    affinity_net: AffinityOf | None = None,
    walk_power: float = 8.0,
    squarings: int = 8,
    min_confidence: float | None = 0.95,
) -> Tensor:
    """CLIP-ES's pseudo masks: affinity, power background, dense CRF, doubt as 255.

    Reference: masks that train a segmenter have 255 where no score reaches 0.95; masks that are
    scored keep every pixel, so give ``min_confidence=None`` for these.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIPES`.
        box_threshold: 0.4 for VOC, 0.7 for COCO.
        power: of the background rule (1 - max)^power.
        affinity_net: see `clip_es_maps`; None walks with the attention, as published.
        walk_power: exponent on the learned affinity.
        squarings: the walk with it has 2^squarings steps.
        min_confidence: in [0, 1]; None keeps every pixel.

    Returns:
        (B, H, W) int64.

    Raises:
        ValueError: if a number is out of its range; nothing is computed then.
    """
    check_positive("power", power)
    _check_confidence(min_confidence)
    walk = {"affinity_net": affinity_net, "walk_power": walk_power, "squarings": squarings}
    cams = clip_es_maps(images, labels, method=method, box_threshold=box_threshold, **walk)
    scores = add_background(cams, power=power)  # (B, 1 + C, H, W)
    scores = clip_es_crf(scores, images, labels, method=method)  # (B, 1 + C, H, W)
    return scores_to_masks(scores, labels, min_confidence=min_confidence)  # (B, H, W)


def _check_confidence(min_confidence: float | None) -> None:
    if min_confidence is not None:
        check_probability("min_confidence", min_confidence)


def _as_released(method: CAMMethod) -> bool:
    """Whether to do what the released CLIP-ES code does, slips included."""
    return method.preset == "reference"
