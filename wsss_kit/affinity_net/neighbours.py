"""Pairs of cells that are close: every pair once, by the offset from one cell to the other.

What is between the cells of a picture is kept as (B, P, h, w), P offsets of a half plane: value
``[b, p, y, x]`` is between the cell (y, x) and the cell (y, x) + offset p. That is 34 numbers a
cell for radius 5, where the whole matrix has N: 1.6 MB instead of 560 for 500x375 pixels at stride
4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wsss_kit.checks import check_count

Offset = tuple[int, int]


def half_plane(radius: int) -> tuple[Offset, ...]:
    """Offsets (dy, dx) below a cell, or right of it in its row, nearer than a radius.

    Args:
        radius: in cells; a neighbour is nearer than this.

    Raises:
        ValueError: if ``radius`` is no count above 1.

    Example:
        PSA's 34 neighbours, and the 152 that IRN is trained with:

        >>> half_plane(2), len(half_plane(5)), len(half_plane(10))
        (((0, 1), (1, -1), (1, 0), (1, 1)), 34, 152)
    """
    check_count("radius", radius, least=2)
    span = range(1 - radius, radius)
    return tuple(
        (dy, dx)
        for dy in range(radius)
        for dx in span
        if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    )


def pairs(h: int, w: int, offsets: Sequence[Offset]) -> Iterator[tuple[int, tuple, tuple]]:
    """For every offset that fits: its index, and where the first and the second cells are.

    The two places are slices of the last two axes of anything (..., h, w).
    """
    for p, (dy, dx) in enumerate(offsets):
        if dy < h and abs(dx) < w:
            rows = slice(0, h - dy), slice(dy, h)
            columns = slice(max(0, -dx), w - max(0, dx)), slice(max(0, dx), w - max(0, -dx))
            yield p, (..., rows[0], columns[0]), (..., rows[1], columns[1])


def feature_affinity(features: Tensor, offsets: Sequence[Offset]) -> Tensor:
    r"""PSA's affinity: :math:`a_{ij} = \exp(-\mathrm{mean}_c |f_{ic} - f_{jc}|)`.

    Args:
        features: (B, D, h, w).
        offsets: P of them.

    Returns:
        (B, P, h, w) in (0, 1]; 0 where the second cell is outside the picture.

    Example:
        >>> feature_affinity(torch.zeros(1, 3, 1, 2), [(0, 1)]).tolist()
        [[[[1.0, 0.0]]]]
    """
    B, D, h, w = features.shape
    between = features.new_zeros(B, len(offsets), h, w)
    for p, first, second in pairs(h, w, offsets):
        apart = (features[first] - features[second]).abs().mean(1)  # (B, h', w')
        between[:, p][first] = torch.exp(-apart)
    return between


def dense(between: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """The whole matrix: symmetric, 1 from a cell to itself, 0 beyond the offsets.

    Args:
        between: (B, P, h, w).
        offsets: P of them.

    Returns:
        (B, N, N) with N = h * w: for 96x96 pixels at stride 8 83 KB a picture, for 500x375 35 MB,
        at stride 4 560 MB; `windowed_walk` does without it.
    """
    B, _, h, w = between.shape
    cells = torch.arange(h * w, device=between.device).view(h, w)
    whole = torch.eye(h * w, dtype=between.dtype, device=between.device).repeat(B, 1, 1)
    for p, first, second in pairs(h, w, offsets):
        i, j = cells[first].flatten(), cells[second].flatten()
        values = between[:, p][first].flatten(1)
        whole[:, i, j] = values
        whole[:, j, i] = values
    return whole
