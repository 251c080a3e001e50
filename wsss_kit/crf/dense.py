"""The dense CRF: mean field in a model that joins every pixel to every other; and PAMR.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NeurIPS 2011. What makes it fast is the filter, see `permutohedral`. PAMR refines scores
by the nearest pixels alone, light and differentiable.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import (
    check_count,
    check_counts,
    check_floating,
    check_images,
    check_not_negative,
    check_positive,
    check_range,
    check_shape,
    check_word,
)
from wsss_kit.crf.permutohedral import Lattice, bilateral_lattice, on_gpu, spatial_lattice

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


SMALLEST_SCORE = 1e-5
LABEL_PROBABILITY = 0.7
"""Of the highest score with ``unary="hard"``; the other classes share the rest."""
_MOST_POINTS = 2**22  # pixels whose lattice a GPU builds at once, some 500 bytes each
BGR_MEAN = (104.008, 116.669, 122.675)
"""What the DeepLab of the released CLIP-ES code subtracts from an image in 0..255."""


@torch.no_grad()
def dense_crf(
    scores: Tensor,
    images: Tensor,
    *,
    iterations: int = 10,
    spatial_weight: float = 3,
    spatial_std: float = 1,
    bilateral_weight: float = 4,
    bilateral_xy_std: float = 67,
    bilateral_rgb_std: float = 3,
    unary: Literal["soft", "hard"] = "soft",
) -> Tensor:
    r"""Run mean field in a fully connected CRF with two Gaussian kernels and Potts compatibility.

    Every round pulls a pixel to the classes of the pixels near it (kernel :math:`K_s`) and of those
    that are near *and* of like colour (:math:`K_b`):
    :math:`Q \leftarrow \mathrm{softmax}(-\psi + w_s K_s Q + w_b K_b Q)`, with kernels normalised
    symmetrically, as the package pydensecrf does.

    The defaults are CLIP-ES's and DeepLab's; `crf.PSA_CRF` has those of PSA and SC-CAM,
    `crf.IRN_CRF` those of the labels that IRN and CLIMS learn from.

    Args:
        scores: (B, K, H, W) in [0, 1]. Background and the classes present only: an absent class
            with a score of 0 is not forbidden, only unlikely (`crf_of_present` sees to that).
        images: (B, 3, H, W) RGB in [0, 1]; rounded to 8 bits.
        iterations: rounds of mean field; 0 gives the softmax of the unary term.
        spatial_weight: :math:`w_s`, of the smoothness kernel; 0 leaves it out.
        spatial_std: in pixels.
        bilateral_weight: :math:`w_b`, of the appearance kernel; 0 leaves it out.
        bilateral_xy_std: in pixels.
        bilateral_rgb_std: in colour units, 0..255.
        unary: ``"soft"`` is -log of the scores, cut to [1e-5, 1] and not renormalised; ``"hard"``
            gives the class of the highest score a probability of 0.7, the others share 0.3.

    Returns:
        (B, K, H, W) float32 in [0, 1], sums to 1 over K, on the scores' device; no gradients.

    Raises:
        ValueError: if shapes do not match, scores or images hold NaN or leave [0, 1], or a
            parameter is outside its range.

    Example:
        One wrong pixel in a flat image gives in to its neighbours:

        >>> scores = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1).repeat(1, 1, 9, 9)
        >>> scores[0, :, 4, 4] = torch.tensor([0.6, 0.4])
        >>> probs = dense_crf(scores, torch.zeros(1, 3, 9, 9))
        >>> bool((probs[0, 1] > 0.9).all())
        True
    """
    check_scores_and_images(scores, images)
    check_count("iterations", iterations, least=0)
    check_not_negative("spatial_weight", spatial_weight, "; 0 leaves its kernel out")
    check_not_negative("bilateral_weight", bilateral_weight, "; 0 leaves its kernel out")
    check_positive("spatial_std", spatial_std, "; spatial_weight=0 leaves it out")
    check_positive("bilateral_xy_std", bilateral_xy_std, "; bilateral_weight=0 leaves it out")
    check_positive("bilateral_rgb_std", bilateral_rgb_std, "; bilateral_weight=0 leaves it out")
    check_word("unary", unary, ("soft", "hard"))
    B, K, H, W = scores.shape
    device = scores.device if scores.is_cuda else torch.device("cpu")
    spatial = spatial_lattice(H, W, float(spatial_std), device) if spatial_weight else None
    stds = float(bilateral_xy_std), float(bilateral_rgb_std)
    levels = _levels(images).to(device)
    refined = torch.empty(B, K, H, W, device=device)
    for groups in _groups(levels):
        n, rows = len(groups), [row for group in groups for row in group]
        kernels: list[tuple[float, Callable[[Tensor], Tensor]]] = []
        if spatial is not None:
            kernels.append((spatial_weight, partial(_shared, spatial)))
        if bilateral_weight:
            lattice = bilateral_lattice(levels[[group[0] for group in groups]], *stds)
            kernels.append((bilateral_weight, partial(_joint, lattice)))
        logits = _log_unary(scores[rows].to(device), unary)  # (n * G, K, H, W)
        logits = logits.reshape(n, -1, K, H * W).permute(0, 3, 1, 2).contiguous()
        probs = _mean_field(logits, kernels, int(iterations))  # (n, H * W, G, K)
        refined[rows] = probs.permute(0, 2, 3, 1).reshape(-1, K, H, W)
    return refined.to(scores.device)


def _groups(levels: Tensor) -> Iterator[list[list[int]]]:
    """Divide a batch into groups of one image each, and yield groups that go through together.

    Scores of the same image, one after the other, share its lattice. A GPU takes many images at
    once, as many scores of each; a CPU is fastest with one.
    """
    same = (levels[1:] == levels[:-1]).flatten(1).all(1).tolist()
    groups: list[list[int]] = []
    for row in range(len(levels)):
        if row and same[row - 1]:
            groups[-1].append(row)
        else:
            groups.append([row])
    most = max(1, _MOST_POINTS // math.prod(levels.shape[2:])) if on_gpu(levels) else 1
    for _, alike in groupby(groups, key=len):
        together = list(alike)
        yield from (together[first : first + most] for first in range(0, len(together), most))


def reference_crf_images(images: Tensor) -> Tensor:
    """Compute the images that the released CLIP-ES code gives to its CRF.

    Reference: it subtracts DeepLab's mean from a BGR image and casts to 8 bits, so that values
    below the mean wrap around (-5.3 becomes 251). The ``reference`` preset does the same.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].

    Returns:
        (B, 3, H, W) float32 in [0, 1], channels in the order blue, green, red.

    Example:
        >>> image = torch.tensor([127.0, 116.0, 98.7]).view(1, 3, 1, 1) / 255
        >>> (reference_crf_images(image) * 255).flatten().tolist()
        [251.0, 0.0, 4.0]
    """
    check_images(images)
    levels = _levels(images).float().flip(1)  # BGR
    shifted = levels - levels.new_tensor(BGR_MEAN).view(3, 1, 1)
    return shifted.long().remainder(256) / 255  # cut towards 0, then wrapped


def _levels(images: Tensor) -> Tensor:
    """Convert images in [0, 1] to 8-bit levels."""
    return (images.detach().float() * 255).round().clamp(0, 255).byte()


def _log_unary(scores: Tensor, unary: str) -> Tensor:
    """Convert (G, K, H, W) scores to log probabilities, the negative unary term."""
    if unary == "soft":
        return scores.float().clamp(SMALLEST_SCORE, 1).log()
    rest = (1 - LABEL_PROBABILITY) / max(scores.shape[1] - 1, 1)
    probs = torch.full(scores.shape, rest, device=scores.device)
    return probs.scatter_(1, scores.argmax(1, keepdim=True), LABEL_PROBABILITY).log()


def _mean_field(
    logits: Tensor, kernels: list[tuple[float, Callable[[Tensor], Tensor]]], iterations: int
) -> Tensor:
    """Compute marginals from the log unary: (n, N, G, K) -> the same, G scores of n images."""
    probs = _softmax(logits)
    for _ in range(iterations):
        pulled = logits.clone()
        for weight, kernel in kernels:
            pulled.add_(kernel(probs), alpha=weight)
        probs = _softmax(pulled)
    return probs


def _shared(lattice: Lattice, probs: Tensor) -> Tensor:
    """Filter (n, N, G, K) by a lattice of N points, the same for every image."""
    n, N, G, K = probs.shape
    filtered = lattice @ probs.transpose(0, 1).reshape(N, -1)
    return filtered.view(N, n, G, K).transpose(0, 1)


def _joint(lattice: Lattice, probs: Tensor) -> Tensor:
    """Filter (n, N, G, K) by a lattice of n * N points, those of every image."""
    return (lattice @ probs.flatten(2).flatten(0, 1)).view_as(probs)


def _softmax(logits: Tensor) -> Tensor:
    # torch.softmax over a last axis this short takes nine times as long on a CPU
    grown = (logits - logits.amax(-1, keepdim=True)).exp_()
    return grown.div_(grown.sum(-1, keepdim=True))


PSA_CRF: dict[str, Any] = {"spatial_std": 3, "bilateral_weight": 10}
PSA_CRF |= {"bilateral_xy_std": 80, "bilateral_rgb_std": 13}
"""Of PSA and SC-CAM: ``crf_of_present(scores, images, labels, **PSA_CRF)``."""
IRN_CRF = {**PSA_CRF, "bilateral_xy_std": 50, "bilateral_rgb_std": 5, "unary": "hard"}
"""Of the labels that IRN and CLIMS learn their boundary from; the masks of CLIMS' first code went
through it once more with ``iterations=1``."""


def check_scores_and_images(scores: Tensor, images: Tensor) -> None:
    """Raise `ValueError` if scores or images are malformed or do not belong together.

    Args:
        scores: (B, K, H, W) in [0, 1].
        images: (B, 3, H, W) RGB in [0, 1].

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    check_floating(scores, "scores")
    check_floating(images, "images")
    expected = "(B, K, H, W) with a class and a pixel; of one image scores[None]"
    check_shape(scores.ndim == 4 and 0 not in scores.shape[1:], "scores", scores, expected)
    needed = (len(scores), 3, *scores.shape[-2:])
    expected = f"{needed} for these scores; resize them to the image with cam.upsample"
    check_shape(images.shape == needed, "images", images, expected)
    check_range("scores", scores, "scale maps with cam.normalize_cams, logits with a softmax")
    check_range("images", images, "divide 8-bit images by 255")
