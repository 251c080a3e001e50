"""Sub-categories of every class: k-means over the images that show it.

Two engines for the same question: scikit-learn's, which is the reference, and one in torch, which
stays on the device that the features are on.
"""

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.cam import class_activation_maps
from wsss_kit.checks import (
    check_count,
    check_floating,
    check_image,
    check_labels,
    check_positive,
    check_seed,
    check_word,
)
from wsss_kit.classes import Sample
from wsss_kit.methods.sc_cam.train import FEATURES
from wsss_kit.processes import each, progress


class Clusters(NamedTuple):
    """What k-means found.

    Args:
        labels: (N,) int64, the cluster of each point.
        centres: (k, D).
        inertia: sum of squared distances from the points to their centres.
    """

    labels: Tensor
    centres: Tensor
    inertia: float


@torch.no_grad()
def kmeans(
    features: Tensor,
    k: int,
    *,
    restarts: int = 10,
    iterations: int = 300,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Clusters:
    """Run Lloyd's algorithm from greedy k-means++ starts; return the best result.

    Args:
        features: (N, D) with N at least k; where they are, the work is done.
        k: number of clusters.
        restarts: starts with other first centres.
        iterations: steps at most.
        tolerance: a restart ends when its centres moved less than this share of the features' mean
            variance.
        seed: of the first centres.

    Returns:
        Clusters in the order in which they were found; a cluster that loses all its points gets
        the point farthest from its centre.

    Raises:
        ValueError: if a number is out of its range, or the features are no (N, D) of finite
            numbers with at least k rows.

    Example:
        >>> points = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
        >>> found = kmeans(points, 2)
        >>> bool(found.labels[0] == found.labels[1] != found.labels[2]), round(found.inertia, 3)
        (True, 0.04)
    """
    check_features(features, 2)
    for name, value in (("k", k), ("restarts", restarts), ("iterations", iterations)):
        check_count(name, value)
    check_positive("tolerance", tolerance)
    check_seed(seed)
    N = len(features)
    if k > N:
        raise ValueError(f"k is {k} and there are {N} points, expected at least k points")
    middle, found = features.float().mean(0), []
    points = features.float() - middle  # small numbers lose fewer digits in products
    random = torch.Generator(points.device).manual_seed(seed)
    still = tolerance * points.var(0, correction=0).mean()
    for _ in range(restarts):
        centres = _first_centres(points, k, random)
        for _ in range(iterations):
            squares, labels = _distances(points, centres).min(1)  # (N,) both
            sizes = torch.bincount(labels, minlength=k)
            sums = torch.zeros_like(centres).index_add_(0, labels, points)
            moved = sums / sizes.clamp(min=1)[:, None]
            empty = sizes == 0
            moved[empty] = points[squares.topk(int(empty.sum())).indices]
            shift, centres = (moved - centres).square().sum(), moved
            if shift <= still:
                break
        squares, labels = _distances(points, centres).min(1)
        found.append(Clusters(labels, centres + middle, squares.sum().item()))
    return min(found, key=lambda each: each.inertia)


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Compute squared distances by one product: (N, D) and (k, D) -> (N, k)."""
    squares = points.square().sum(1)[:, None] + centres.square().sum(1)
    return (squares - 2 * points @ centres.T).clamp(min=0)


def _first_centres(points: Tensor, k: int, random: torch.Generator) -> Tensor:
    """Choose the first centres (k, D) by greedy k-means++: the best of a few drawn by distance."""
    N, trials = len(points), 2 + int(math.log(k))
    chosen = [int(torch.randint(N, (), generator=random, device=points.device))]
    nearest = (points - points[chosen[0]]).square().sum(1)  # (N,)
    for _ in range(1, k):
        drawn = torch.multinomial(nearest + 1e-12, trials, replacement=True, generator=random)
        closer = torch.minimum(_distances(points[drawn], points), nearest)  # (trials, N)
        best = int(closer.sum(1).argmin())
        chosen.append(int(drawn[best]))
        nearest = closer[best]
    return points[chosen]


def subcategory_labels(
    features: Tensor, labels: Tensor, *, k: int, seed: int = 0, engine: str = "auto"
) -> Tensor:
    """Cluster the images of every class and return which cluster each is in.

    An image with several classes is clustered once for each. A class with no more images than k
    has one cluster an image; a class that is never present has none.

    Args:
        features: (M, D), the same for every class of an image; or (M, C, D), one for each.
        labels: (M, C) of 0 and 1.
        k: sub-categories of each class.
        seed: of k-means.
        engine: ``"sklearn"`` (10 starts), ``"torch"`` (the same on the features'
            device), or ``"auto"``: scikit-learn on the CPU, else torch.

    Returns:
        (M, C * k) float32 of 0 and 1; column c * k + j is cluster j of class c.

    Raises:
        ValueError: if shapes do not fit, there is no such engine, or a number is out of its range.

    Example:
        >>> features = torch.tensor([[0.0], [9.0], [0.1], [9.1]])
        >>> found = subcategory_labels(features, torch.tensor([[1.0], [1], [1], [1]]), k=2)
        >>> found.sum(1).tolist(), bool((found[0] == found[2]).all())
        ([1.0, 1.0, 1.0, 1.0], True)
    """
    check_features(features, 2, 3)
    check_labels(labels)
    check_count("k", k)
    check_seed(seed)
    check_word("engine", engine, ("auto", "sklearn", "torch"))
    expected = features.shape[:2] if features.ndim == 3 else (len(features), labels.shape[1])
    if labels.shape != expected:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and features {tuple(features.shape)}; "
            "expected (M, C) and (M, D) or (M, C, D)"
        )
    if engine == "auto":
        engine = "sklearn" if features.device.type == "cpu" else "torch"
    M, C = labels.shape
    subcategories = torch.zeros(M, C * k, device=features.device)
    for c in range(C):
        rows = (labels[:, c] > 0).nonzero().flatten().to(features.device)
        values = features[rows] if features.ndim == 2 else features[rows, c]
        if len(rows) <= k:
            cluster = torch.arange(len(rows), device=features.device)
        elif engine == "torch":
            cluster = kmeans(values, k, seed=seed).labels
        else:
            cluster = _sklearn(values, k, seed)
        subcategories[rows, c * k + cluster] = 1
    return subcategories


def _sklearn(features: Tensor, k: int, seed: int) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # fewer different points than k: some clusters stay empty, which is no harm here
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(k, n_init=10, random_state=seed).fit_predict(features.cpu().numpy())
    return torch.from_numpy(labels).long().to(features.device)


def check_features(features: Tensor, *dimensions: int) -> None:
    """Refuse anything but finite features of 2 dimensions or, with one for each class, 3.

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    check_floating(features, "features")
    if features.ndim not in dimensions or not features.numel():
        expected = "(M, D) or (M, C, D)" if 3 in dimensions else "(N, D)"
        raise ValueError(f"features have shape {tuple(features.shape)}, expected {expected}")
    if not torch.isfinite(features).all():
        raise ValueError("features hold NaN or infinity, expected numbers; look at the backbone")


@torch.no_grad()
def class_features(
    backbone: nn.Module,
    head: Tensor,
    samples: Sequence[Sample],
    *,
    features: str,
    unit_length: bool = False,
    shown: bool = True,
) -> Tensor:
    """Compute features of every image, for `subcategory_labels`.

    The average over a whole image holds as much of its background as of its object, and objects
    of one class share their background. Under the class's own map it holds the object.

    Args:
        backbone: (B, 3, H, W) -> (B, D, h, w); goes to evaluation mode.
        head: (C, D), whose maps are meant.
        samples: M images with labels.
        features: ``"picture"``, as published, or ``"own_map"``.
        unit_length: whether to scale each to length 1.
        shown: whether to show a bar.

    Returns:
        (M, D), or (M, C, D), zero where a class is not present; float32, where the backbone is.

    Raises:
        ValueError: if there is no such kind of feature, or an image is not RGB in [0, 1].
    """
    check_word("features", features, FEATURES)
    backbone.eval()

    def features_of(sample: Sample) -> Tensor:  # (D,) or (C, D)
        check_image(sample.image, f"image {sample.name!r}")
        values = backbone(sample.image[None].to(head)).float()  # (1, D, h, w)
        if features == "picture":
            return values.mean((2, 3))[0]
        maps = class_activation_maps(values, head.float()).relu()  # (1, C, h, w)
        maps = maps * (sample.labels.to(maps) > 0)[None, :, None, None]
        weights = maps / maps.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return torch.einsum("bdhw,bchw->bcd", values, weights)[0]

    stacked = each(samples, features_of, bar=partial(progress, what="features", shown=shown))
    return F.normalize(stacked, dim=-1) if unit_length else stacked
