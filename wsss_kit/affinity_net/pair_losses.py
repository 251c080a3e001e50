"""What an affinity learns from: pairs of confident cells, alike or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss_kit.affinity_net.neighbours import Offset, pairs
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.processes import total

PAIR_KINDS = ("background", "foreground", "different")
"""Both cells background, both of one class, or two labels; pairs with a neutral cell are none."""
EPS = 1e-5


def pair_kinds(labels: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """What kind every pair of neighbours is.

    Args:
        labels: (B, h, w) int64: 0 background, class c as c + 1, 255 neutral.
        offsets: P of them.

    Returns:
        (B, P, h, w) int64: an index of ``PAIR_KINDS``; -1 for pairs that do not count, because one
        of the cells is neutral or outside the picture.

    Example:
        >>> pair_kinds(torch.tensor([[[0, 0, 2, 255]]]), [(0, 1)]).tolist()
        [[[[0, 2, -1, -1]]]]
    """
    B, h, w = labels.shape
    kinds = labels.new_full((B, len(offsets), h, w), -1)
    for p, first, second in pairs(h, w, offsets):
        one, other = labels[first], labels[second]
        kind = torch.where(one == 0, 0, 1)
        kind[one != other] = 2
        kind[(one == IGNORE_INDEX) | (other == IGNORE_INDEX)] = -1
        kinds[:, p][first] = kind
    return kinds


def balanced_pair_loss(between: Tensor, kinds: Tensor) -> Tensor:
    r"""PSA's loss: :math:`\tfrac14 L_{bg} + \tfrac14 L_{fg} + \tfrac12 L_{-}`.

    The first two are the mean of :math:`-\log a` over pairs of one label, the third the mean of
    :math:`-\log(1 - a)` over pairs of two, each over its own pairs, so that the many pairs of
    background do not drown the others. Logarithms are of a + 1e-5 and the count is 1e-5 more; of
    several processes it is the count of the whole batch, and the loss this process's part.

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
        asked = kinds == k
        values = between[asked]
        likely = 1 - values if PAIR_KINDS[k] == "different" else values
        loss = loss - weight * (likely + EPS).log().sum() / (total(asked.sum()) + EPS)
    return loss
