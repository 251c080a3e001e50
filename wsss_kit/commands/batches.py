"""What a batch of ``masks`` is: which pictures go together, and the recipe that they go through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.classes import Sample

MasksOf = Callable[[Tensor, Tensor], Tensor]
"""(B, 3, H, W), (B, C) -> (B, H, W): a recipe with its method filled in."""


class Soft(NamedTuple):
    """Masks with the maps that they were made of, where these are to be kept.

    Args:
        masks: (B, H, W).
        maps: (B, C, H, W) in [0, 1].
    """

    masks: Tensor
    maps: Tensor


class InCells(NamedTuple):
    """A recipe whose method resizes pictures to whole cells, so that nearly equal ones go together.

    Args:
        side: of a cell; sizes count as equal when they are, rounded up to multiples of it.
        resize: (3, H, W) -> (3, H', W'), what the method would do itself; worker threads do it.
        maps_of: (B, 3, H', W'), (B, C) -> (B, C, h, w).
        finish: these maps of pictures of one size (B, 3, H, W) and their labels to masks.
    """

    side: int
    resize: Callable[[Tensor], Tensor]
    maps_of: MasksOf
    finish: Callable[[Tensor, Tensor, Tensor], Tensor | Soft]


Recipe = Callable[[Tensor, Tensor], Tensor | Soft] | InCells


def plan_batches(samples: Sequence[Sample], batch_size: int, *, side: int = 1) -> list[list[int]]:
    """Numbers of the pictures of every batch: of equal size, in the order of the data set.

    Args:
        samples: with ``size_of(name)`` where sizes are known without decoding.
        batch_size: at most so many together.
        side: sizes are rounded up to multiples of it first.

    Returns:
        Batches in the order of their first picture; one whose size cannot be read is alone.
    """
    check_count("batch_size", batch_size)
    if batch_size == 1:  # no size has to be read
        return [[number] for number in range(len(samples))]
    open_batches: dict[Any, list[int]] = {}
    batches: list[list[int]] = []
    for number in range(len(samples)):
        try:
            size = tuple(-(-pixels // side) for pixels in _size_of(samples, number))
        except (OSError, ValueError):
            size = None  # its own batch, where reading it says why
        batch = open_batches.get(size) if size is not None else None
        if batch is None or len(batch) == batch_size:
            batch = []
            batches.append(batch)
            open_batches[size] = batch
        batch.append(number)
    return batches


def _size_of(samples: Sequence[Sample], number: int) -> tuple[int, int]:
    size_of = getattr(samples, "size_of", None)
    if size_of is not None:
        return size_of(samples.names[number])
    return tuple(samples[number].image.shape[-2:])
