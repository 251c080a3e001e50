"""Refinement among background and the classes present: an absent class must not take part."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from wsss_kit.checks import check_labels
from wsss_kit.crf.checks import check_scores_and_images
from wsss_kit.crf.dense import dense_crf


def crf_of_present(
    scores: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    refine: Callable[..., Tensor] = dense_crf,
    **parameters: Any,
) -> Tensor:
    """Refine every image over background and the classes present in it, by the dense CRF.

    Args:
        scores: (B, K, H, W) in [0, 1] with K = 1 + C, background first, from `add_background`.
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C) of 0 and 1.
        refine: another function of scores and images, such as `pamr`, through which gradients pass.
        **parameters: of ``refine``.

    Returns:
        (B, K, H, W) float32, sums to 1 over K; zero for absent classes.

    Raises:
        ValueError: as ``refine``, and if the labels do not fit the scores.

    Example:
        The second class is absent, so background and the first share everything:

        >>> scores = torch.full((1, 3, 2, 2), 0.5)
        >>> probs = crf_of_present(scores, torch.zeros(1, 3, 2, 2), torch.tensor([[1.0, 0.0]]))
        >>> probs[0, :, 0, 0].tolist()
        [0.5, 0.5, 0.0]
    """
    check_scores_and_images(scores, images)
    B, K = scores.shape[:2]
    if labels.shape != (B, K - 1):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} but scores {tuple(scores.shape)} needs "
            f"({B}, {K - 1}): one column a class, background not among them"
        )
    check_labels(labels)
    kept = torch.cat([labels.new_ones(B, 1), labels], 1) > 0  # (B, K)
    refined = torch.zeros(scores.shape, device=scores.device)
    # images with the same classes, one after the other, go together
    for channels, group in groupby(range(B), key=kept.tolist().__getitem__):
        rows, present = torch.tensor(list(group)), torch.tensor(channels).nonzero().view(-1)
        place = rows[:, None], present
        refined[place] = refine(scores[place], images[rows], **parameters)
    return refined
