"""PAMR: refining scores by the nearest pixels alone, light and differentiable."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import check_count, check_counts
from wsss_kit.crf.dense import check_scores_and_images

SHARPNESS = 0.1
"""Share of the local standard deviation that colour differences are divided by."""


def pamr(
    scores: Tensor,
    images: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
) -> Tensor:
    r"""Refine masks pixel-adaptively (Araslanov and Roth, CVPR 2020, section 3.3).

    A pixel's new scores are a weighted mean of its neighbours', eight for every dilation. A
    neighbour weighs more the more alike its colour:
    :math:`\alpha_{ij} = \mathrm{softmax}_j(-\frac13\sum_{rgb} |x_i - x_j| / (0.1\,\sigma_i))` with
    :math:`\sigma_i` the colour's standard deviation over the whole neighbourhood. No pixel further
    away than ``iterations`` times the largest dilation has a say, unlike in `dense_crf`.

    Reference: as the released code computes it, with 0.1 standard deviations (plus 1e-8) in the
    denominator and borders repeated outwards. Scores are divided by their sum over K first.

    Args:
        scores: (B, K, H, W) in [0, 1], background and the classes present.
        images: (B, 3, H, W) RGB in [0, 1].
        iterations: rounds; 0 gives the divided scores back.
        dilations: distances of the neighbours in pixels, each at least 1.

    Returns:
        (B, K, H, W) float32 in [0, 1], sums to 1 over K. Gradients reach scores and images.

    Raises:
        ValueError: if shapes do not match, scores or images hold NaN or leave [0, 1], or a
            parameter is outside its range.

    Example:
        Left and right differ in colour, so the doubtful column in the middle goes with the right:

        >>> image = torch.tensor([0.0, 1.0, 1.0]).expand(1, 3, 3, 3)
        >>> left = torch.tensor([1.0, 0.5, 0.0]).expand(1, 1, 3, 3)
        >>> probs = pamr(torch.cat([left, 1 - left], 1), image, dilations=(1,))
        >>> [f"{value:.2f}" for value in probs[0, 0, 1]]
        ['1.00', '0.19', '0.19']
    """
    check_scores_and_images(scores, images)
    check_count("iterations", iterations, least=0)
    check_counts("dilations", dilations, "pixels")
    steps = [int(d) for d in dilations]
    scores = scores.float().clamp(0, 1)
    K, total = scores.shape[1], scores.sum(1, keepdim=True)
    probs = torch.where(total > 0, scores / total.clamp_min(1e-12), 1 / K)
    affinity = _affinity(images.to(probs), steps)  # (B, 8 * len(steps), H, W)
    for _ in range(int(iterations)):
        mean = torch.zeros_like(probs)
        for neighbour, weight in zip(_neighbours(probs, steps), affinity.split(1, 1), strict=True):
            mean.addcmul_(neighbour, weight)
        probs = mean
    return probs


def _affinity(images: Tensor, dilations: Sequence[int]) -> Tensor:
    """Compute the weights of the neighbours, sum 1: (B, 8 * len(dilations), H, W)."""
    L = len(dilations)  # the pixel itself counts once for every dilation
    mean = (sum(_neighbours(images, dilations)) + L * images) / (9 * L)
    squares = sum((near - mean) ** 2 for near in _neighbours(images, dilations))
    variance = (squares + L * (images - mean) ** 2) / (9 * L - 1)
    deviation = variance.clamp_min(1e-12).sqrt()  # where all is flat, a finite slope
    scale = 1 / (SHARPNESS * deviation + 1e-8)  # (B, 3, H, W)
    shifts = ((near - images).abs() for near in _neighbours(images, dilations))
    distances = [(shift * scale).mean(1, keepdim=True) for shift in shifts]
    return (-torch.cat(distances, 1)).softmax(1)


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Move the maps by eight steps a dilation, borders repeated: (B, C, H, W) each."""
    H, W = maps.shape[-2:]
    for d in dilations:
        padded = F.pad(maps, (d, d, d, d), mode="replicate")
        for y in (0, d, 2 * d):
            for x in (0, d, 2 * d):
                if (y, x) != (d, d):
                    yield padded[..., y : y + H, x : x + W]
