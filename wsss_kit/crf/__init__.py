"""Giving scores the image's edges back: the dense CRF, and PAMR, its light alternative."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wsss_kit.checks import check_labels, check_shape
from wsss_kit.crf.dense import (
    IRN_CRF,
    PSA_CRF,
    check_scores_and_images,
    dense_crf,
    pamr,
    reference_crf_images,
)


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
    expected = f"({B}, {K - 1}) for these scores: one column a class, background left out"
    check_shape(labels.shape == (B, K - 1), "labels", labels, expected)
    check_labels(labels)
    kept = torch.cat([labels.new_ones(B, 1), labels], 1).cpu() > 0  # (B, K)
    counts, refined = kept.sum(1), torch.zeros(scores.shape, device=scores.device)
    for count in counts.unique().tolist():  # images with as many classes go together
        rows = (counts == count).nonzero()  # (G, 1)
        place = rows, kept[rows[:, 0]].nonzero()[:, 1].view(-1, count)
        refined[place] = refine(scores[place], images[rows[:, 0]], **parameters)
    return refined
