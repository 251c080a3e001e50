"""IRN's affinity: two cells belong together if no boundary lies between them.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR
2019; the released CLIMS refines its maps so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss_kit.affinity_net.neighbours import Offset, pairs


def path(offset: Offset) -> tuple[Offset, ...]:
    """The cells on the way to a neighbour: between the two, nearer than 1 to the line.

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
    r""":math:`a_{ij} = 1 - \max_{p \in \Pi_{ij}} e_p` along the `path` between two cells.

    Args:
        edges: (B, 1, h, w) in [0, 1], 1 on a boundary.
        offsets: P of them, from `half_plane`.

    Returns:
        (B, P, h, w) in [0, 1]; 0 where the second cell is outside the picture.

    Example:
        >>> edges = torch.tensor([[[[0.0, 0.75, 0.0, 0.25]]]])
        >>> boundary_affinity(edges, [(0, 2)]).flatten().tolist()
        [0.25, 0.25, 0.0, 0.0]
    """
    B, _, h, w = edges.shape
    between = edges.new_zeros(B, len(offsets), h, w)
    for p, first, _ in pairs(h, w, offsets):
        rows, columns = first[1:]
        highest = None
        for dy, dx in path(offsets[p]):
            there = (
                slice(rows.start + dy, rows.stop + dy),
                slice(columns.start + dx, columns.stop + dx),
            )
            met = edges[:, 0, there[0], there[1]]
            highest = met if highest is None else torch.maximum(highest, met)
        between[:, p][first] = 1 - highest
    return between
