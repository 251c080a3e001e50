"""Looking into sub-categories: their most typical pictures, and features on a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_floating, check_word
from wsss_kit.methods.sc_cam.agreement import divided
from wsss_kit.methods.sc_cam.clusters import check_features

VIEWS = ("pca", "tsne")


def exemplars(
    features: Tensor, subcategories: Tensor, *, n_classes: int, n: int = 4
) -> list[list[int]]:
    """The pictures nearest to the centre of each sub-category.

    Args:
        features: (M, D) or (M, C, D), what was clustered.
        subcategories: (M, C * k) of 0 and 1.
        n_classes: C.
        n: pictures of each, at most.

    Returns:
        For each of the C * k sub-categories the rows of its pictures, the nearest first; empty
        where it has none.

    Raises:
        ValueError: if shapes do not fit, or a number is out of range.

    Example:
        >>> features = torch.tensor([[0.0], [0.4], [0.5], [9.0]])
        >>> exemplars(features, torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]]), n_classes=1, n=2)
        [[1, 2], [3]]
    """
    check_features(features, 2, 3)
    check_count("n", n)
    parts = divided(subcategories, n_classes)  # (M, C, k)
    expected = features.shape[:2] if features.ndim == 3 else (len(features), n_classes)
    if tuple(parts.shape[:2]) != tuple(expected):
        raise ValueError(
            f"features have shape {tuple(features.shape)} and sub-categories "
            f"{tuple(subcategories.shape)}; expected (M, D) or (M, {n_classes}, D) and "
            f"(M, {n_classes} * k)"
        )
    found = []
    for c in range(n_classes):
        own = (features if features.ndim == 2 else features[:, c]).float().cpu()
        for j in range(parts.shape[2]):
            rows = parts[:, c, j].nonzero().flatten()
            distances = (own[rows] - own[rows].mean(0)).square().sum(1)
            found.append(rows[distances.argsort(stable=True)[:n]].tolist())
    return found


def plane(features: Tensor, *, how: str = "pca", seed: int = 0) -> Tensor:
    """Features as points on a plane, to be drawn.

    ``"pca"`` turns them so that they are seen from their widest side; distances on the plane are
    never larger than they were. ``"tsne"`` keeps neighbours together and gives up distances: what
    lies far apart there need not be far.

    Args:
        features: (N, D), N at least 2.
        how: ``"pca"`` or ``"tsne"``.
        seed: of t-SNE; PCA has no use for it.

    Returns:
        (N, 2) float32.

    Raises:
        ValueError: if there is no such view, or the features are no (N, D) of finite numbers with
            two rows at least.

    Example:
        >>> points = plane(torch.tensor([[0.0, 0, 0], [0, 0, 3], [0, 1, 0]]))
        >>> points.shape, bool((points[:, 0].diff().abs().max() - 3).abs() < 0.3)
        (torch.Size([3, 2]), True)
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    check_floating(features, "features")
    check_features(features, 2)
    check_count("seed", seed, least=0)
    check_word("how", how, VIEWS)
    N, D = features.shape
    if N < 2:
        raise ValueError(f"features have shape {(N, D)}, expected two rows at least")
    values = features.detach().float().cpu().numpy()
    if D < 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    if how == "tsne":
        near = min(30.0, (N - 1) / 3)
        found = TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(values)
    else:
        found = PCA(2, svd_solver="full").fit_transform(values)
    return torch.from_numpy(found).float()


def listed(names: Sequence[Mapping[str, float]], classes: Sequence[str], k: int) -> list[str]:
    """One name for each sub-category: the word with the highest lift, else class and number.

    Args:
        names: C * k, from `name_subcategories`.
        classes: C.
        k: sub-categories of each.

    Returns:
        C * k names, all different: the second of two equal ones has its number behind it.

    Raises:
        ValueError: if there are more or fewer names.

    Example:
        >>> listed([{"red boat": 0.4, "wooden boat": -0.2}, {}, {"red boat": 0.1}], ("boat",), 3)
        ['red boat', 'boat 2', 'red boat 3']
    """
    if len(names) != len(classes) * k:
        raise ValueError(
            f"{len(names)} names for {len(classes)} classes of {k}, expected one for each"
        )
    found: list[str] = []
    for i, lifts in enumerate(names):
        best = max(lifts, key=lifts.__getitem__, default=None)
        number = i % k + 1
        name = best if best is not None and lifts[best] > 0 else f"{classes[i // k]} {number}"
        found.append(name if name not in found else f"{name} {number}")
    return found
