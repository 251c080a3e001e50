"""Where maps are trusted: two CRF passes, one that doubts objects, one that doubts background."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import check_size
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.masks import scores_to_masks

Refine = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores (B, 1 + C, H, W), images, labels -> scores: `crf.crf_of_present`, for example."""


def confident_labels(
    doubting_objects: Tensor,
    doubting_background: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    refine: Refine,
    background_first: bool = True,
) -> Tensor:
    """Labels of the pixels of which the two passes are sure; the others are neutral.

    Args:
        doubting_objects: (B, 1 + C, H, W) scores with a strong background: PSA's low power 4, IRN's
            constant 0.30. What is an object here is trusted to be one.
        doubting_background: the same with a weak background: power 32 (24 in PSA's paper), 0.05.
            What is background here is trusted to be background.
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        refine: the CRF that both go through.
        background_first: what holds where the first pass says object and the second background,
            which a CRF can bring about: background as in PSA, or the object as in IRN.

    Returns:
        (B, H, W) int64: 0, class c as c + 1, or 255.
    """
    objects = scores_to_masks(refine(doubting_objects, images, labels), labels)
    background = scores_to_masks(refine(doubting_background, images, labels), labels) == 0
    sure = torch.where(objects > 0, objects, IGNORE_INDEX)
    if not background_first:
        background = background & (objects == 0)
    return torch.where(background, 0, sure)


def labels_on_grid(labels: Tensor, size: tuple[int, int], n_classes: int) -> Tensor:
    """Labels of cells: what most of a cell's pixels are, neutral among the choices.

    Args:
        labels: (B, H, W) int64 with values up to ``n_classes``, or 255.
        size: (h, w) of the grid.
        n_classes: C.

    Returns:
        (B, h, w) int64.

    Example:
        >>> labels_on_grid(torch.tensor([[[1, 1, 0, 255]]]), (1, 2), 1).tolist()
        [[[1, 0]]]
    """
    check_size("size", size)
    values = labels.masked_fill(labels == IGNORE_INDEX, n_classes + 1)
    share = F.one_hot(values, n_classes + 2).permute(0, 3, 1, 2).float()
    most = F.adaptive_avg_pool2d(share, size).argmax(1)
    return most.masked_fill(most == n_classes + 1, IGNORE_INDEX)
