"""From an affinity between cells to refined maps: transition matrix, random walk, box masks."""

import math

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import (
    check_count,
    check_maps,
    check_positive,
    check_probability,
    check_range,
    check_shape,
)


def transition_matrix(
    affinity: Tensor, *, power: float = 1, sinkhorn: int = 0, squarings: int = 0
) -> Tensor:
    """Make an affinity a matrix to walk with.

    Rows are targets: `random_walk` takes a cell's new score from its row. Without ``sinkhorn``
    every row sums to 1 (PSA's column-normalised matrix, transposed). With it, columns and rows are
    normalised in turn and the result is averaged with its transpose: symmetric, and its rows sum
    to about 1 (CLIP-ES, section 3.3).

    Args:
        affinity: (B, N, N), not negative.
        power: exponent on every entry before normalising (PSA: 8).
        sinkhorn: rounds of column and row normalisation (CLIP-ES: 3).
        squarings: how often the matrix is multiplied by itself; t steps are log2(t) squarings.

    Returns:
        (B, N, N).

    Raises:
        ValueError: if the affinity is not square, negative, infinite or NaN, if it leaves a cell
            without any neighbour, or if a number is out of its range.

    Example:
        >>> affinity = torch.tensor([[[1.0, 3.0], [3.0, 1.0]]])
        >>> transition_matrix(affinity)[0].tolist()
        [[0.25, 0.75], [0.75, 0.25]]
    """
    _check_square(affinity)
    check_positive("power", power)
    check_count("sinkhorn", sinkhorn, least=0)
    check_count("squarings", squarings, least=0)
    walk = affinity**power if power != 1 else affinity
    _check_rows(walk, columns=sinkhorn > 0)
    if sinkhorn:
        for _ in range(sinkhorn):
            walk = walk / walk.sum(1, keepdim=True)
            walk = walk / walk.sum(2, keepdim=True)
        walk = (walk + walk.transpose(1, 2)) / 2
    else:
        walk = walk / walk.sum(2, keepdim=True)
    for _ in range(squarings):
        walk = walk @ walk
    return walk


def _check_square(affinity: Tensor) -> None:
    is_square = affinity.ndim == 3 and affinity.shape[1] == affinity.shape[2]
    check_shape(is_square, "affinity", affinity, "(B, N, N)")


def _check_rows(walk: Tensor, *, columns: bool) -> None:
    """Refuse entries below 0 or without end, and rows or columns with nothing to divide by."""
    if not walk.numel():
        return
    walk = walk.detach()
    sums = [walk.sum(side).amin() for side in ((1, 2) if columns else (2,))]
    low, least = torch.stack([walk.amin(), torch.stack(sums).amin()]).tolist()
    if not (0 <= low and 0 < least < math.inf):  # NaN fails
        sides = "row or column" if columns else "row"
        problem = f"has entries from {low:.4g} on and a smallest sum of a {sides} of {least:.4g}"
        expected = f"numbers of 0 or more and no empty {sides}; give every cell itself as neighbour"
        raise ValueError(f"the affinity {problem}, expected {expected} and a lower power")


def random_walk(scores: Tensor, transition: Tensor) -> Tensor:
    """Multiply the scores by the transition: each cell takes the scores of its row.

    Args:
        scores: (B, K, h, w).
        transition: (B, N, N) with N = h * w, from `transition_matrix`.

    Returns:
        (B, K, h, w).

    Raises:
        ValueError: if the scores are no batch of maps, or the transition has another number of
            cells or images.
    """
    _check_walk(scores, transition, "transition")
    return (scores.flatten(2) @ transition.transpose(1, 2)).view(scores.shape)


def _check_walk(scores: Tensor, walk: Tensor, name: str) -> None:
    """Refuse maps and a matrix to walk them with that do not belong together."""
    check_maps(scores, "scores")
    B, K, h, w = scores.shape
    expected = f"({B}, {h * w}, {h * w}) for {B} maps of {h}x{w}; resize the maps to the affinity"
    check_shape(walk.shape == (B, h * w, h * w), name, walk, expected)


def balanced_walk(
    scores: Tensor, affinity: Tensor, *, sinkhorn: int = 3, squarings: int = 0
) -> Tensor:
    r"""Walk with the symmetric transition of `transition_matrix` without ever making it.

    Dividing columns and rows in turn leaves :math:`\mathrm{diag}(r)\, A\, \mathrm{diag}(c)`, two
    vectors that are found by products with A, and one step of the walk is
    :math:`\tfrac12 (r \odot A (c \odot x) + c \odot A^\top (r \odot x))` for each map x. That
    costs a few products of the affinity with K vectors instead of N, and no memory to speak of.

    Args:
        scores: (B, K, h, w).
        affinity: (B, N, N) not negative, with N = h * w.
        sinkhorn: rounds of column and row normalisation, at least 1 (CLIP-ES: 3).
        squarings: t steps are log2(t) squarings, as for `transition_matrix`.

    Returns:
        (B, K, h, w), what ``random_walk(scores, transition_matrix(affinity, sinkhorn=sinkhorn,
        squarings=squarings))`` gives.

    Raises:
        ValueError: if shapes do not fit, a number is out of its range, or the affinity is negative,
            infinite, NaN or leaves a cell without any neighbour.

    Example:
        >>> affinity = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]])
        >>> walked = balanced_walk(torch.tensor([[[[1.0, 0.0]]]]), affinity)
        >>> walk = transition_matrix(affinity, sinkhorn=3)
        >>> torch.allclose(walked.flatten(), walk[0, :, 0])
        True
    """
    return BalancedWalk(affinity, sinkhorn=sinkhorn)(scores, squarings=squarings)


class BalancedWalk:
    """`balanced_walk` for one affinity and any number of maps: the two vectors are found once.

    Args:
        affinity: (B, N, N) not negative; it is kept, not copied.
        sinkhorn: rounds of column and row normalisation, at least 1.

    Raises:
        ValueError: if the affinity is not square, negative, infinite, NaN or leaves a cell without
            any neighbour, or ``sinkhorn`` is no count.
    """

    def __init__(self, affinity: Tensor, *, sinkhorn: int = 3) -> None:
        _check_square(affinity)
        check_count("sinkhorn", sinkhorn)
        _check_rows(affinity, columns=True)
        self.affinity = affinity
        # Vectors and maps stand on the left of the matrix: many times faster than on its right.
        columns = 1 / affinity.sum(1, keepdim=True)  # (B, 1, N)
        rows = 1 / (columns @ affinity.mT)
        for _ in range(sinkhorn - 1):
            columns = 1 / (rows @ affinity)
            rows = 1 / (columns @ affinity.mT)
        self._rows, self._columns = rows, columns

    def __call__(self, scores: Tensor, *, squarings: int = 0) -> Tensor:
        """Walk: (B, K, h, w) with h * w = N -> (B, K, h, w).

        Raises:
            ValueError: if shapes do not fit or ``squarings`` is no count.
        """
        check_count("squarings", squarings, least=0)
        _check_walk(scores, self.affinity, "affinity")
        rows, columns = self._rows, self._columns
        x = scores.flatten(2)  # (B, K, N)
        for _ in range(2**squarings):
            there = rows * ((columns * x) @ self.affinity.mT)
            x = (there + columns * ((rows * x) @ self.affinity)) / 2
        return x.view(scores.shape)


def box_masks(cams: Tensor, *, threshold: float, clamp: bool = True) -> Tensor:
    """Compute boxes around the confident regions of every map (CLIP-ES's class-aware mask).

    The map is cut to 8 bits, values above ``threshold`` of its maximum are kept, and the bounding
    boxes of all 8-connected regions are united.

    Args:
        cams: (B, C, h, w) in [0, 1].
        threshold: share of the maximum in [0, 1]; 0.4 for VOC, 0.7 for COCO.
        clamp: Reference: the released code clamps boxes to the last row and column and then
            slices without them, so that these are never covered. False covers them.

    Returns:
        Same shape and type, 0 or 1.

    Raises:
        ValueError: if ``cams`` or ``threshold`` leaves [0, 1].
    """
    from scipy import ndimage

    check_maps(cams, "cams")
    check_range("cams", cams, "scale them first with cam.normalize_cams")
    check_probability("threshold", threshold)
    B, C, h, w = cams.shape
    masks = np.zeros((B, C, h, w), np.float32)
    levels = (cams.detach().float() * 255).byte().cpu().numpy()  # cut, not rounded
    for b, c in np.argwhere(levels.any((2, 3))):  # an empty map has no box
        level = levels[b, c]
        kept = level > int(threshold * level.max())
        regions, _ = ndimage.label(kept, structure=np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(regions):
            bottom = min(rows.stop, h - 1) if clamp else rows.stop
            right = min(columns.stop, w - 1) if clamp else columns.stop
            masks[b, c, rows.start : bottom, columns.start : right] = 1
    return torch.from_numpy(masks).to(cams)
