"""The dense CRF: mean field in a model that joins every pixel to every other; and PAMR.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NeurIPS 2011. What makes it fast is the filter, see `permutohedral`. PAMR refines scores
by the nearest pixels alone, light and differentiable.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
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
    check_labels,
    check_not_negative,
    check_positive,
    check_range,
    check_shape,
    check_word,
)
from wsss_kit.crf.permutohedral import Lattice

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
    spatial = []
    if spatial_weight:
        spatial = [(spatial_weight, _spatial_lattice(H, W, float(spatial_std), device))]
    levels = [image.cpu().numpy().tobytes() for image in _levels(images)]
    refined = torch.empty(B, K, H, W, device=device)
    # scores of the same image, one after the other, go through its lattice together
    for image, group in groupby(range(B), key=levels.__getitem__):
        kernels, rows = list(spatial), list(group)
        if bilateral_weight:
            stds = float(bilateral_xy_std), float(bilateral_rgb_std)
            lattice = _bilateral_lattice(image, (H, W), *stds, device)
            kernels.append((bilateral_weight, lattice))
        logits = _log_unary(scores[rows].to(device), unary)  # (G, K, H, W)
        logits = logits.flatten(2).permute(2, 0, 1).contiguous()  # (H * W, G, K)
        probs = _mean_field(logits, kernels, int(iterations))
        refined[rows] = probs.permute(1, 2, 0).view(-1, K, H, W)
    return refined.to(scores.device)


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


def _mean_field(logits: Tensor, kernels: list[tuple[float, Lattice]], iterations: int) -> Tensor:
    """Compute marginals from the log unary: (N, G, K) -> the same, G scores of one image."""
    probs = _softmax(logits)
    for _ in range(iterations):
        pulled = logits.clone()
        for weight, lattice in kernels:
            pulled.add_((lattice @ probs.flatten(1)).view_as(probs), alpha=weight)
        probs = _softmax(pulled)
    return probs


def _softmax(logits: Tensor) -> Tensor:
    # torch.softmax over a last axis this short takes nine times as long on a CPU
    grown = (logits - logits.amax(-1, keepdim=True)).exp_()
    return grown.div_(grown.sum(-1, keepdim=True))


def _pixel_positions(H: int, W: int, std: float, device: torch.device) -> Tensor:
    """Compute columns and rows (2, H * W) in standard deviations."""
    cells = torch.cartesian_prod(torch.arange(H, device=device), torch.arange(W, device=device))
    return cells.fliplr().T.contiguous() / std


@lru_cache(maxsize=8)
def _spatial_lattice(H: int, W: int, std: float, device: torch.device) -> Lattice:
    return Lattice(_pixel_positions(H, W, std, device))


@lru_cache(maxsize=2)  # the image at hand: background rules, prompts and sliders come back to it
def _bilateral_lattice(
    levels: bytes, size: tuple[int, int], xy_std: float, rgb_std: float, device: torch.device
) -> Lattice:
    """Build the lattice of an image, given as the bytes of its (3, H, W) levels."""
    colours = torch.frombuffer(bytearray(levels), dtype=torch.uint8).view(3, -1).to(device)
    positions = _pixel_positions(*size, xy_std, device)
    return Lattice(torch.cat([positions, colours / rgb_std]))  # (5, H * W)


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
    kept = torch.cat([labels.new_ones(B, 1), labels], 1) > 0  # (B, K)
    refined = torch.zeros(scores.shape, device=scores.device)
    # images with the same classes, one after the other, go together
    for channels, group in groupby(range(B), key=kept.tolist().__getitem__):
        rows, present = torch.tensor(list(group)), torch.tensor(channels).nonzero().view(-1)
        place = rows[:, None], present
        refined[place] = refine(scores[place], images[rows], **parameters)
    return refined
