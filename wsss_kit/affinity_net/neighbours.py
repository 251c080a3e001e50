"""Pairs of cells that are close: every pair once, by the offset from one cell to the other.

What is between the cells of an image is kept as (B, P, h, w), P offsets of a half plane: value
``[b, p, y, x]`` is between the cell (y, x) and the cell (y, x) + offset p. That is 34 numbers a
cell for radius 5, where the whole matrix has N: 1.6 MB instead of 560 for 500x375 pixels at stride
4.
"""

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_maps, check_positive
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.processes import total, world

Offset = tuple[int, int]


MOST_RADIUS = 64


def half_plane(radius: int) -> tuple[Offset, ...]:
    """List offsets (dy, dx) below a cell, or right of it in its row, nearer than a radius.

    Args:
        radius: in cells; a neighbour is nearer than this.

    Raises:
        ValueError: if ``radius`` is no count above 1, or more than 64: pairs grow with its square.

    Example:
        PSA's 34 neighbours, and the 152 that IRN is trained with:

        >>> half_plane(2), len(half_plane(5)), len(half_plane(10))
        (((0, 1), (1, -1), (1, 0), (1, 1)), 34, 152)
    """
    check_count("radius", radius, least=2)
    if radius > MOST_RADIUS:
        problem = f"radius is {radius}, expected at most {MOST_RADIUS} cells"
        raise ValueError(f"{problem}: the pairs grow with its square (PSA has 5, IRN 10)")
    span = range(1 - radius, radius)
    below = ((dy, dx) for dy in range(radius) for dx in span if dy > 0 or dx > 0)
    return tuple((dy, dx) for dy, dx in below if dy * dy + dx * dx < radius * radius)


def pairs(h: int, w: int, offsets: Sequence[Offset]) -> Iterator[tuple[int, tuple, tuple]]:
    """Yield for every offset that fits its index and the places of the first and second cells.

    The two places are slices of the last two axes of anything (..., h, w).
    """
    for p, (dy, dx) in enumerate(offsets):
        if dy < h and abs(dx) < w:
            rows = slice(0, h - dy), slice(dy, h)
            columns = slice(max(0, -dx), w - max(0, dx)), slice(max(0, dx), w - max(0, -dx))
            yield p, (..., rows[0], columns[0]), (..., rows[1], columns[1])


def feature_affinity(features: Tensor, offsets: Sequence[Offset]) -> Tensor:
    r"""Compute PSA's affinity: :math:`a_{ij} = \exp(-\mathrm{mean}_c |f_{ic} - f_{jc}|)`.

    Args:
        features: (B, D, h, w).
        offsets: P of them.

    Returns:
        (B, P, h, w) in (0, 1]; 0 where the second cell is outside the image.

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
    """Build the whole matrix: symmetric, 1 from a cell to itself, 0 beyond the offsets.

    Args:
        between: (B, P, h, w).
        offsets: P of them.

    Returns:
        (B, N, N) with N = h * w: for 96x96 pixels at stride 8 83 KB an image, for 500x375 35 MB,
        at stride 4 560 MB; `windowed_walk` does without it.
    """
    B, _, h, w = between.shape
    cells = torch.arange(h * w, device=between.device).view(h, w)
    whole = torch.eye(h * w, dtype=between.dtype, device=between.device).repeat(B, 1, 1)
    for p, first, second in pairs(h, w, offsets):
        i, j = cells[first].flatten(), cells[second].flatten()
        whole[:, i, j] = whole[:, j, i] = between[:, p][first].flatten(1)
    return whole


def path(offset: Offset) -> tuple[Offset, ...]:
    """List the cells on the way to a neighbour: between the two, nearer than 1 to the line.

    Args:
        offset: (dy, dx) of the neighbour.

    Returns:
        Offsets from the first cell, both ends among them.

    Example:
        >>> path((0, 2)), path((1, 1))
        (((0, 0), (0, 1), (0, 2)), ((0, 0), (0, 1), (1, 0), (1, 1)))
    """
    dy, dx = offset
    columns = range(min(0, dx), max(0, dx) + 1)
    return tuple(
        (y, x) for y in range(dy + 1) for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    )


def boundary_affinity(edges: Tensor, offsets: Sequence[Offset]) -> Tensor:
    r"""Compute :math:`a_{ij} = 1 - \max_{p \in \Pi_{ij}} e_p` along the `path` between two cells.

    Args:
        edges: (B, 1, h, w) in [0, 1], 1 on a boundary.
        offsets: P of them, from `half_plane`.

    Returns:
        (B, P, h, w) in [0, 1]; 0 where the second cell is outside the image.

    Example:
        >>> edges = torch.tensor([[[[0.0, 0.75, 0.0, 0.25]]]])
        >>> boundary_affinity(edges, [(0, 2)]).flatten().tolist()
        [0.25, 0.25, 0.0, 0.0]
    """
    B, _, h, w = edges.shape
    between = edges.new_zeros(B, len(offsets), h, w)
    for p, first, _ in pairs(h, w, offsets):
        rows, columns = first[1:]
        met = [
            edges[:, 0, rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
            for dy, dx in path(offsets[p])
        ]
        between[:, p][first] = 1 - reduce(torch.maximum, met)
    return between


PAIR_KINDS = ("background", "foreground", "different")
"""Both cells background, both of one class, or two labels; pairs with a neutral cell are none."""
EPS = 1e-5


def pair_kinds(labels: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """Find the kind of every pair of neighbours.

    Args:
        labels: (B, h, w) int64: 0 background, class c as c + 1, 255 neutral.
        offsets: P of them.

    Returns:
        (B, P, h, w) int64: an index of ``PAIR_KINDS``; -1 for pairs that do not count, because one
        of the cells is neutral or outside the image.

    Example:
        >>> pair_kinds(torch.tensor([[[0, 0, 2, 255]]]), [(0, 1)]).tolist()
        [[[[0, 2, -1, -1]]]]
    """
    B, h, w = labels.shape
    kinds = labels.new_full((B, len(offsets), h, w), -1)
    for p, first, second in pairs(h, w, offsets):
        one, other = labels[first], labels[second]
        pair_kind = torch.where(one == other, (one > 0).long(), 2)
        ignored = (one == IGNORE_INDEX) | (other == IGNORE_INDEX)
        kinds[:, p][first] = pair_kind.masked_fill(ignored, -1)
    return kinds


def balanced_pair_loss(between: Tensor, kinds: Tensor) -> Tensor:
    r"""Compute PSA's loss: :math:`\tfrac14 L_{bg} + \tfrac14 L_{fg} + \tfrac12 L_{-}`.

    The first two are the mean of :math:`-\log a` over pairs of one label, the third the mean of
    :math:`-\log(1 - a)` over pairs of two, each over its own pairs, so that the many pairs of
    background do not drown the others. Logarithms are of a + 1e-5 and the count is 1e-5 more; of
    several processes it is this one's part of the whole batch's loss.

    Args:
        between: (B, P, h, w) affinities in [0, 1].
        kinds: (B, P, h, w) from `pair_kinds`.

    Returns:
        A scalar.

    Example:
        >>> between, kinds = torch.tensor([0.5, 0.5]), torch.tensor([0, 2])
        >>> round(balanced_pair_loss(between, kinds).item(), 3)  # log 2 times (1/4 + 1/2)
        0.52
    """
    loss = between.new_zeros(())
    for k, weight in enumerate((0.25, 0.25, 0.5)):
        selected = kinds == k
        values = between[selected]
        likely = 1 - values if PAIR_KINDS[k] == "different" else values
        count = total(selected.sum()) / world() + EPS
        loss = loss - weight * (likely + EPS).log().sum() / count
    return loss


def inner_pairs(values: Tensor, offsets: Sequence[Offset], *, none: float = 0) -> Tensor:
    """Keep the pairs whose first cell is away from the left, right and bottom border.

    PSA and IRN take all offsets of a first cell or none, so that a cell near the border has pairs
    with the cells before it alone.

    Args:
        values: (B, P, h, w) of the pairs.
        offsets: P of them.
        none: value of the others.

    Returns:
        (B, P, h, w).

    Example:
        >>> inner_pairs(torch.ones(1, 1, 2, 4), [(1, 1)])[0, 0].tolist()
        [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    reach = max(max(dy, abs(dx)) for dy, dx in offsets)
    h, w = values.shape[2:]
    kept = torch.full_like(values, none)
    inside = (..., slice(0, max(0, h - reach)), slice(reach, max(reach, w - reach)))
    kept[inside] = values[inside]
    return kept


def windowed_walk(
    scores: Tensor,
    between: Tensor,
    offsets: Sequence[Offset],
    *,
    power: float = 8,
    steps: int = 256,
) -> Tensor:
    r"""Replace every cell by the weighted mean of itself and its neighbours, step by step.

    :math:`x \leftarrow D^{-1} A^{\circ\beta} x`, which is
    ``random_walk(scores, transition_matrix(dense(between, offsets), power=power,
    squarings=log2(steps)))`` by products with what is near: for 500x375 pixels at stride 8 and 256
    steps a tenth of the time, and at stride 4 a hundredth of the memory.

    Args:
        scores: (B, K, h, w).
        between: (B, P, h, w) not negative, see `neighbours`.
        offsets: P of them.
        power: exponent on every affinity (PSA: 8, IRN: 10).
        steps: of the walk (PSA and IRN: 2^8).

    Returns:
        (B, K, h, w).

    Raises:
        ValueError: if shapes do not fit, or a number is out of its range.

    Example:
        >>> scores, between = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
        >>> windowed_walk(scores, between, [(0, 1)], power=1, steps=1).flatten().tolist()
        [0.6666666865348816, 0.3333333432674408]
    """
    check_maps(scores, "scores")
    check_positive("power", power)
    check_count("steps", steps, least=0)
    B, K, h, w = scores.shape
    if between.shape != (B, len(offsets), h, w):
        raise ValueError(
            f"between has shape {tuple(between.shape)} but scores {tuple(scores.shape)} and "
            f"{len(offsets)} offsets need {(B, len(offsets), h, w)}; resize the maps to the grid "
            "of the affinity before the walk"
        )
    weights = between**power
    total, near = torch.ones_like(scores[:, :1]), []  # itself and its neighbours
    for p, first, second in pairs(h, w, offsets):
        weight = weights[:, p : p + 1][first]
        total[first] += weight
        total[second] += weight
        near.append((first, second, weight))
    steps_of = [(one, two, weight / total[one], weight / total[two]) for one, two, weight in near]
    for _ in range(steps):
        walked = 1 / total * scores
        for first, second, there, back in steps_of:
            walked[first] += there * scores[second]
            walked[second] += back * scores[first]
        scores = walked
    return scores
