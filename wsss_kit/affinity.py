"""From an affinity between cells to refined maps: transition matrix, random walk, box masks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_maps, check_positive, check_probability, check_range


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
    if affinity.ndim != 3 or affinity.shape[1] != affinity.shape[2]:
        raise ValueError(f"affinity has shape {tuple(affinity.shape)}, expected (B, N, N)")
    check_positive("power", power)
    check_count("sinkhorn", sinkhorn, least=0)
    check_count("squarings", squarings, least=0)
    walk = affinity**power if power != 1 else affinity
    _check_rows(walk)
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


def _check_rows(walk: Tensor) -> None:
    """Refuse entries below 0 or without end, and rows with nothing to divide by."""
    if not walk.numel():
        return
    low, least = walk.detach().amin().item(), walk.detach().sum(2).amin().item()
    if not (0 <= low and 0 < least < math.inf):  # NaN fails
        raise ValueError(
            f"the affinity has entries from {low:.4g} on and a smallest row sum of {least:.4g}, "
            "expected numbers of 0 or more and no empty row; give every cell itself as neighbour, "
            "and choose a power that leaves something of the largest entry"
        )


def random_walk(scores: Tensor, transition: Tensor) -> Tensor:
    """Every cell's new score is its row of the transition times the old scores.

    Args:
        scores: (B, K, h, w).
        transition: (B, N, N) with N = h * w, from `transition_matrix`.

    Returns:
        (B, K, h, w).

    Raises:
        ValueError: if the scores are no batch of maps, or the transition has another number of
            cells or pictures.
    """
    check_maps(scores, "scores")
    B, K, h, w = scores.shape
    if transition.ndim != 3 or len(transition) != B:
        raise ValueError(
            f"transition has shape {tuple(transition.shape)} but scores hold {B} pictures; "
            "expected one matrix a picture, (B, N, N)"
        )
    if transition.shape[1:] != (h * w, h * w):
        raise ValueError(
            f"transition has {transition.shape[-1]} nodes but the maps are {h}x{w} = {h * w} "
            "cells; resize the maps to the grid of the affinity before the walk"
        )
    return (scores.flatten(2) @ transition.transpose(1, 2)).view(B, K, h, w)


def box_masks(cams: Tensor, *, threshold: float, clamp: bool = True) -> Tensor:
    """Boxes around the confident regions of every map (CLIP-ES's class-aware mask).

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
    levels = (cams.detach().float().cpu().numpy() * 255).astype(np.uint8)  # cut, not rounded
    for b in range(B):
        for c in range(C):
            level = levels[b, c]
            kept = level > int(threshold * level.max())
            regions, _ = ndimage.label(kept, structure=np.ones((3, 3)))
            for rows, columns in ndimage.find_objects(regions):
                bottom = min(rows.stop, h - 1) if clamp else rows.stop
                right = min(columns.stop, w - 1) if clamp else columns.stop
                masks[b, c, rows.start : bottom, columns.start : right] = 1
    return torch.from_numpy(masks).to(cams)
