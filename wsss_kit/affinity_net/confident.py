"""Where maps are trusted: two CRF passes, one that doubts objects, one that doubts background."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import check_size
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.masks import MapsOf, Refine, add_background, scores_to_masks
from wsss_kit.processes import progress

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
    if (powers is None) == (thresholds is None):
        raise ValueError("give powers or thresholds for the two backgrounds, exactly one of them")
    name, more = ("threshold", "larger") if powers is None else ("power", "smaller")
    strong, weak = thresholds if powers is None else powers
    if not (strong > weak if powers is None else strong < weak):
        raise ValueError(
            f"{name}s are {strong:g} and {weak:g}, expected the strong background first ({more})"
        )
    options, seeds = {"refine": refine, "background_first": powers is not None}, {}
    for sample in progress(samples, what="confident labels", shown=shown, total=len(samples)):
        images, labels = sample.image[None], sample.labels[None]
        maps = maps_of(images, labels)
        passes = (add_background(maps, **{name: value}) for value in (strong, weak))
        seeds[sample.name] = confident_labels(*passes, images, labels, **options)[0]
    return seeds


def labels_on_grid(labels: Tensor, size: tuple[int, int], n_classes: int) -> Tensor:
    """Label cells by what most of their pixels are; ignored (255) is one of the choices.

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
