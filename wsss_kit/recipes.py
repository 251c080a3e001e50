"""The methods end to end, on one page: the same verbs in the same order.

The differences are the papers: who supplies the affinity, which background rule, what is walked.
Maps leave here at the picture's size, masks with class c as value c + 1.
"""

from __future__ import annotations

from torch import Tensor

from wsss_kit.affinity import box_masks, random_walk, transition_matrix
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.masks import add_background, scores_to_masks
from wsss_kit.methods.base import CAMMethod

_EPS = 1e-7  # CLIP-ES's


def cam_maps(images: Tensor, labels: Tensor, *, method: CAMMethod) -> Tensor:
    """Maps of any method, not refined: (B, 3, H, W), (B, C) -> (B, C, H, W) in [0, 1]."""
    cams, _ = method(images, labels)  # (B, C, h, w)
    return upsample(cams, images.shape[-2:])  # (B, C, H, W)


def clip_es_maps(
    images: Tensor, labels: Tensor, *, method: CAMMethod, box_threshold: float = 0.4
) -> Tensor:
    """CLIP-ES's maps after its class-aware attention affinity.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        method: a fitted `CLIPES`, or another whose output has an affinity.
        box_threshold: 0.4 for VOC, 0.7 for COCO.

    Returns:
        (B, C, H, W) in [0, 1].
    """
    cams, affinity = method(images, labels)  # (B, C, h, w), (B, N, N)
    walk = transition_matrix(affinity, sinkhorn=3, squarings=1)  # (B, N, N)
    cams = random_walk(cams * box_masks(cams, threshold=box_threshold), walk)
    return upsample(normalize_cams(cams, subtract_min=True, eps=_EPS), images.shape[-2:])


def cam_masks(
    images: Tensor, labels: Tensor, *, method: CAMMethod, threshold: float = 0.15
) -> Tensor:
    """Plain CAM with a constant background (IRN and CLIMS: 0.15): -> (B, H, W) int64."""
    cams = cam_maps(images, labels, method=method)  # (B, C, H, W)
    scores = add_background(cams, threshold=threshold)  # (B, 1 + C, H, W)
    return scores_to_masks(scores, labels)  # (B, H, W)


def clip_es_masks(
    images: Tensor, labels: Tensor, *, method: CAMMethod, power: float = 1.0
) -> Tensor:
    """CLIP-ES with its power background, without a dense CRF: -> (B, H, W) int64."""
    cams = clip_es_maps(images, labels, method=method)  # (B, C, H, W)
    scores = add_background(cams, power=power)  # (B, 1 + C, H, W)
    return scores_to_masks(scores, labels)  # (B, H, W)
