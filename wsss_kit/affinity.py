"""From an affinity between cells to refined maps: transition matrix, random walk, box masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
        ValueError: if the affinity is not square.

    Example:
        >>> affinity = torch.tensor([[[1.0, 3.0], [3.0, 1.0]]])
        >>> transition_matrix(affinity)[0].tolist()
        [[0.25, 0.75], [0.75, 0.25]]
    """
    if affinity.ndim != 3 or affinity.shape[1] != affinity.shape[2]:
        raise ValueError(f"affinity has shape {tuple(affinity.shape)}, expected (B, N, N)")
    walk = affinity**power if power != 1 else affinity
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


def random_walk(scores: Tensor, transition: Tensor) -> Tensor:
    """Every cell's new score is its row of the transition times the old scores.

    Args:
        scores: (B, K, h, w).
        transition: (B, N, N) with N = h * w, from `transition_matrix`.

    Returns:
        (B, K, h, w).

    Raises:
        ValueError: if the transition has another number of cells.
    """
    B, K, h, w = scores.shape
    if transition.shape != (B, h * w, h * w):
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
    """
    from scipy import ndimage

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
