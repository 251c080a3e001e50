"""Do two ways to divide the classes agree: with the truth, or from one round to the next?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_labels


class Agreement(NamedTuple):
    """How two divisions of every class agree; NaN for a class that too few pictures show.

    Args:
        nmi: normalised mutual information of each class, in [0, 1]; 1 for the same division, 0
            for one that says nothing of the other.
        ari: adjusted Rand index of each class, 1 for the same division, 0 for chance.
    """

    nmi: tuple[float, ...]
    ari: tuple[float, ...]

    @property
    def mean_nmi(self) -> float:
        """Mean over the classes that have one."""
        return _mean(self.nmi)


class Purity(NamedTuple):
    """What a sub-category's pictures mostly are.

    Args:
        share: (C * k,) of the pictures that are of the most frequent kind; NaN where none counts.
        kind: (C * k,) int64, the column of that kind; -1 where none counts.
        size: (C * k,) int64, pictures that count.
    """

    share: Tensor
    kind: Tensor
    size: Tensor


def agreement(first: Tensor, second: Tensor, *, n_classes: int) -> Agreement:
    """Compare two divisions of C classes into sub-categories, over pictures with one of each.

    A picture that two divisions put into several sub-categories of a class at once, as one with two
    different boats, says nothing about that class.

    Args:
        first: (M, C * k) of 0 and 1.
        second: (M, C * j) of 0 and 1.
        n_classes: C.

    Returns:
        NMI and ARI of each class, as scikit-learn defines them.

    Raises:
        ValueError: if shapes do not fit, or something else than 0 and 1 arrives.

    Example:
        >>> found = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
        >>> agreement(found, found.flip(1), n_classes=1).mean_nmi
        1.0
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    one, two = _of_same_pictures(first, second, n_classes)
    nmi, ari = [], []
    for c in range(n_classes):
        single = (one[:, c].sum(1) == 1) & (two[:, c].sum(1) == 1)
        pairs = [found[single, c].argmax(1).numpy() for found in (one, two)]
        enough = int(single.sum()) > 1
        nmi.append(float(normalized_mutual_info_score(*pairs)) if enough else float("nan"))
        ari.append(float(adjusted_rand_score(*pairs)) if enough else float("nan"))
    return Agreement(tuple(nmi), tuple(ari))


def stability(rounds: Sequence[Tensor], *, n_classes: int) -> list[Agreement]:
    """How far each round's sub-categories are those of the round before.

    Args:
        rounds: R divisions (M, C * k), as `SCCAM.rounds_`.
        n_classes: C.

    Returns:
        R - 1 comparisons; sub-categories that change little from one round to the next say that
        further rounds would change little as well.
    """
    return [agreement(before, after, n_classes=n_classes) for before, after in pairwise(rounds)]


def purity(found: Tensor, kinds: Tensor, *, n_classes: int) -> Purity:
    """What each sub-category's pictures mostly are, over pictures with one kind of its class.

    Args:
        found: (M, C * k) of 0 and 1.
        kinds: (M, C * j) of 0 and 1, what is known of them.
        n_classes: C.

    Raises:
        ValueError: as `agreement`.
    """
    clusters, known = _of_same_pictures(found, kinds, n_classes)
    single = (known.sum(2) == 1).float()  # (M, C)
    counts = torch.einsum("mck,mcj,mc->ckj", clusters, known, single)  # (C, k, j)
    size = counts.sum(2).flatten()
    most, kind = counts.max(2)
    kind = kind + known.shape[2] * torch.arange(n_classes)[:, None]
    return Purity(most.flatten() / size, kind.flatten().where(size > 0, -1), size.long())


def _of_same_pictures(first: Tensor, second: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Both divisions by class, see `divided`."""
    one, two = divided(first, n_classes), divided(second, n_classes)
    if len(one) != len(two):
        raise ValueError(f"{len(one)} pictures and {len(two)}, expected the same ones in order")
    return one, two


def divided(labels: Tensor, n_classes: int) -> Tensor:
    """Sub-categories by class: (M, C * k) of 0 and 1 -> (M, C, k) float32 on the CPU.

    Raises:
        ValueError: if something else arrives.
    """
    check_count("n_classes", n_classes)
    check_labels(labels)
    if not labels.shape[1] or labels.shape[1] % n_classes:
        raise ValueError(
            f"sub-categories have shape {tuple(labels.shape)}, expected (M, {n_classes} * k)"
        )
    return labels.detach().cpu().float().unflatten(1, (n_classes, -1))


def _mean(values: Sequence[float]) -> float:
    return torch.tensor(values).nanmean().item()
