"""From score maps to masks: the background joins, the present classes compete, doubt becomes 255.

This is the only module that crosses from labels to masks: class ``c`` of ``labels`` is channel
``c + 1`` of ``scores`` and value ``c + 1`` of a mask. Tensor in, tensor out. The last functions
find where maps are trusted: two CRF passes, one doubts objects, one doubts background.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import (
    check_labels,
    check_maps,
    check_not_nan,
    check_positive,
    check_probability,
    check_range,
    check_shape,
    check_size,
    check_tensor,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.processes import progress

MapsOf = Callable[[Tensor, Tensor], Tensor]
"""(B, 3, H, W), (B, C) -> (B, C, H, W) in [0, 1]: `recipes.cam_maps` with its method filled in."""
Refine = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores (B, 1 + C, H, W), images, labels -> scores: `crf.crf_of_present`, for example."""


def add_background(
    cams: Tensor, *, threshold: float | None = None, power: float | None = None
) -> Tensor:
    """Put a background channel before the maps.

    Two rules are in use. A constant ``b`` is a threshold: a class has to beat it (CLIMS and IRN
    0.15 in evaluation, PSA 0.2). The power rule ``(1 - max_c cams_c) ** power`` is high where no
    class is sure: a large power gives the classes more room (CLIP-ES 1; PSA's random walk, which
    SC-CAM uses, 16).

    Args:
        cams: (B, C, H, W) in [0, 1], zero for absent classes.
        threshold: the constant background, 0 to 1. Give this or ``power``, not both.
        power: the exponent, above 0.

    Returns:
        (B, 1+C, H, W) float32 in [0, 1], background first.

    Raises:
        ValueError: if both rules or none are given, if one is outside its range, if ``cams`` has
            another number of axes, no class, or values outside [0, 1].

    Example:
        With every map at zero the power rule is sure of background, a constant is not:

        >>> cams = torch.zeros(1, 2, 1, 1)
        >>> add_background(cams, power=16).flatten().tolist()
        [1.0, 0.0, 0.0]
        >>> add_background(cams, threshold=0.25).flatten().tolist()
        [0.25, 0.0, 0.0]
    """
    BackgroundRule(threshold, power)  # raises an error for a wrong rule
    check_maps(cams, "cams")
    check_shape(cams.shape[1] > 0, "cams", cams, "at least one class")
    check_range("cams", cams, "scale them first with cam.normalize_cams")
    cams = cams.detach().float()
    best = cams.amax(1, keepdim=True)  # (B, 1, H, W)
    value: Any = threshold if power is None else power
    background = torch.full_like(best, value) if power is None else (1 - best).clamp(0, 1) ** value
    return torch.cat([background, cams], 1)  # (B, 1+C, H, W)


def scores_to_masks(
    scores: Tensor, labels: Tensor, *, min_confidence: float | None = None
) -> Tensor:
    """Give each pixel the best of background and the classes present in its image.

    Absent classes never win, even where every score is zero; there background wins, as the first
    of equals. An image without a positive label is background throughout, confident or not: there
    is nothing else it could be.

    Args:
        scores: (B, K, H, W) with K = 1 + C, background first; any scale on which larger is better,
            probabilities if ``min_confidence`` is given.
        labels: (B, C) of 0 and 1.
        min_confidence: pixels whose best score is below this become 255 (CLIP-ES: 0.95 after the
            CRF, for training the segmenter). None keeps every pixel.

    Returns:
        (B, H, W) int64, values 0 to C and, with ``min_confidence``, 255.

    Raises:
        ValueError: if the shapes do not fit, ``labels`` holds anything but 0 and 1, ``scores``
            holds NaN, or ``min_confidence`` is given and it or ``scores`` are no probabilities.

    Example:
        The second class is absent, so its score of 0.9 counts for nothing:

        >>> scores = torch.tensor([0.3, 0.5, 0.9]).reshape(1, 3, 1, 1)
        >>> scores_to_masks(scores, torch.tensor([[1.0, 0.0]])).item()
        1
        >>> scores_to_masks(scores, torch.tensor([[1.0, 0.0]]), min_confidence=0.95).item()
        255
    """
    _check_scores(scores, labels)
    if min_confidence is not None:
        check_probability("min_confidence", min_confidence)
        check_range("scores", scores, "divide them by their sum over the classes present")
    present = labels.detach().to(scores.device) > 0  # (B, C)
    allowed = torch.cat([torch.ones_like(present[:, :1]), present], 1)  # (B, K)
    competing = torch.where(allowed[:, :, None, None], scores.detach(), -math.inf)
    best, masks = competing.max(1)  # (B, H, W) each
    if min_confidence is not None:
        unsure = (best < min_confidence) & present.any(1)[:, None, None]
        masks = masks.masked_fill(unsure, IGNORE_INDEX)
    return masks


@dataclass(frozen=True)
class BackgroundRule:
    """A background rule; give exactly one of the two numbers.

    Args:
        threshold: the constant background, in [0, 1].
        power: the exponent, above 0.

    Raises:
        ValueError: if both or none are given, or one is out of its range.

    Example:
        >>> str(BackgroundRule(threshold=0.25)), str(BackgroundRule(power=2))
        ('constant 0.25', '(1 - max)^2')
    """

    threshold: float | None = None
    power: float | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.power is None):
            problem = f"threshold is {self.threshold} and power {self.power}"
            raise ValueError(f"{problem}, expected exactly one of the two")
        if self.power is None:
            check_probability("threshold", self.threshold)
        else:
            check_positive("power", self.power)

    def __str__(self) -> str:
        constant = self.power is None
        return f"constant {self.threshold:g}" if constant else f"(1 - max)^{self.power:g}"

    def scores(self, maps: Tensor) -> Tensor:
        """Add the background to maps: (B, C, H, W) -> (B, 1 + C, H, W)."""
        return add_background(maps, threshold=self.threshold, power=self.power)

    def masks(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Turn maps (B, C, H, W) and labels (B, C) into masks (B, H, W) int64."""
        return scores_to_masks(self.scores(maps), labels)


def _check_scores(scores: Tensor, labels: Tensor) -> None:
    """Raise the errors of ``scores_to_masks``."""
    check_tensor(scores, "scores")
    check_tensor(labels, "labels")
    check_shape(scores.ndim == 4, "scores", scores, "(B, K, H, W); of one image scores[None]")
    check_shape(labels.ndim == 2, "labels", labels, "(B, C); of one image labels[None]")
    if len(scores) != len(labels):
        unequal = f"there are {len(scores)} images of scores and {len(labels)} rows of labels"
        raise ValueError(f"{unequal}, expected one row for each image")
    needed = f"{1 + labels.shape[1]} channels: background (masks.add_background), then each class"
    check_shape(scores.shape[1] == 1 + labels.shape[1], "scores", scores, needed)
    check_labels(labels)
    check_not_nan("scores", scores)


PSA_POWERS = (4.0, 32.0)
"""PSA's backgrounds (1 - max)^power for VOC: objects are trusted by the first, background by the
second (24 in the CVPR version)."""
IRN_THRESHOLDS = (0.30, 0.05)
"""IRN's constant backgrounds for the same; the improved CLIMS takes 0.10 for the second."""


def confident_labels(
    doubting_objects: Tensor,
    doubting_background: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    refine: Refine,
    background_first: bool = True,
) -> Tensor:
    """Label the pixels of which the two passes are sure; the others are ignored (255).

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


def confident_seeds(
    maps_of: MapsOf,
    samples: Sequence[Sample],
    *,
    refine: Refine,
    powers: tuple[float, float] | None = None,
    thresholds: tuple[float, float] | None = None,
    shown: bool = True,
) -> dict[str, Tensor]:
    """Compute what `AffinityNet` learns from: `confident_labels` of every image.

    Args:
        maps_of: images and labels to maps.
        samples: the images.
        refine: the CRF, such as ``partial(crf_of_present, **PSA_CRF)``.
        powers: of the two backgrounds (1 - max)^power, the strong one first, as ``PSA_POWERS``.
        thresholds: two constant backgrounds instead, as ``IRN_THRESHOLDS``; the object holds where
            the passes contradict each other, as in IRN.
        shown: whether to show a bar.

    Returns:
        name -> (H, W) int64: 0, class c as c + 1, 255 neutral.

    Raises:
        ValueError: if both or none of the rules are given, or the strong background is not first.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> def maps_of(images, labels):
        ...     return labels[:, :, None, None].expand(-1, -1, *images.shape[2:]) * 0.4
        >>> keep = lambda scores, images, labels: scores
        >>> world, options = PaperWorld(1), {"refine": keep, "shown": False}
        >>> seeds = confident_seeds(maps_of, world, thresholds=(0.5, 0.1), **options)
        >>> seeds["val_0_000000"].unique().tolist()  # the passes disagree
        [255]
    """
    given = [pair for pair in (powers, thresholds) if pair is not None]
    if len(given) != 1:
        raise ValueError("give powers or thresholds for the two backgrounds, exactly one of them")
    name, more = ("threshold", "larger") if powers is None else ("power", "smaller")
    strong, weak = given[0]
    if not (strong > weak if powers is None else strong < weak):
        raise ValueError(
            f"{name}s are {strong:g} and {weak:g}, expected the strong background first ({more})"
        )
    options, seeds = {"refine": refine, "background_first": powers is not None}, {}
    for sample in progress(samples, what="confident labels", shown=shown, total=len(samples)):
        images, labels = sample.image[None], sample.labels[None]
        maps = maps_of(images, labels)
        first, second = (add_background(maps, **{name: value}) for value in (strong, weak))
        seeds[sample.name] = confident_labels(first, second, images, labels, **options)[0]
    return seeds


def labels_on_grid(labels: Tensor, size: tuple[int, int], n_classes: int) -> Tensor:
    """Label cells by what most of their pixels are; ignored (255) is one of the choices.

    Args:
        labels: (B, H, W) int64 with values up to ``n_classes``, or 255.
        size: (h, w) of the grid.
        n_classes: how many there are, C.

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
