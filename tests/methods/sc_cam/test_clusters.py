"""k-means and the labels it gives: against scikit-learn, loops and cases done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from wsss_kit.methods.sc_cam.clusters import kmeans, subcategory_labels


def blobs(n, dimensions, centres, *, seed=0, spread=0.1):
    random = torch.Generator().manual_seed(seed)
    middles = torch.randn(centres, dimensions, generator=random)
    choice = torch.randint(centres, (n,), generator=random)
    return middles[choice] + spread * torch.randn(n, dimensions, generator=random), choice


@pytest.mark.parametrize("k", [1, 3, 7])
def test_blobs_are_found(k):
    points, choice = blobs(200, 12, k)
    result = kmeans(points, k)
    assert adjusted_rand_score(choice, result.labels) == pytest.approx(1)
    for j in range(k):
        torch.testing.assert_close(result.centres[j], points[result.labels == j].mean(0))
    literal = sum(
        (p - result.centres[j]).square().sum() for p, j in zip(points, result.labels, strict=True)
    )
    assert result.inertia == pytest.approx(literal.item(), rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_as_good_as_scikit_learn_where_there_are_no_blobs(seed):
    """Noise has many local optima; the best of ten is near that of theirs."""
    points = torch.randn(300, 64, generator=torch.Generator().manual_seed(seed)).relu()
    theirs = KMeans(10, n_init=10, random_state=0).fit(points.numpy()).inertia_
    assert kmeans(points, 10, seed=seed).inertia <= 1.015 * theirs


def test_one_restart_walks_the_way_of_lloyd():
    """Literal steps from the same first centres end at the same labels."""
    points, _ = blobs(120, 5, 6, spread=0.8)
    result = kmeans(points, 4, restarts=1, tolerance=1e-12)
    centres = result.centres
    for _ in range(3):
        labels = torch.cdist(points, centres).argmin(1)
        centres = torch.stack([points[labels == j].mean(0) for j in range(4)])
    torch.testing.assert_close(centres, result.centres, atol=1e-5, rtol=1e-4)
    assert torch.equal(labels, result.labels)


def test_equal_seeds_equal_clusters_and_more_restarts_no_worse():
    points = torch.randn(150, 8, generator=torch.Generator().manual_seed(5))
    one, again = kmeans(points, 6, seed=3), kmeans(points, 6, seed=3)
    assert torch.equal(one.labels, again.labels)
    few = [kmeans(points, 6, seed=s, restarts=1).inertia for s in range(8)]
    assert len({round(i, 3) for i in few}) > 1
    assert kmeans(points, 6, seed=0, restarts=20).inertia <= np.median(few)


def test_fewer_different_points_than_clusters():
    points = torch.tensor([[0.0, 1.0]] * 6 + [[3.0, 1.0]] * 6)
    result = kmeans(points, 4)
    assert result.inertia == pytest.approx(0, abs=1e-6) and result.centres.isfinite().all()


@pytest.mark.parametrize("engine", ["sklearn", "torch"])
@pytest.mark.parametrize("own", [True, False], ids=["a feature for each class", "one for all"])
def test_every_class_is_clustered_by_its_own_images(engine, own):
    """Two classes, images with both, a class with few images, one that is never present."""
    points, choice = blobs(90, 6, 3, spread=0.05)
    other, elsewhere = blobs(90, 6, 2, seed=9, spread=0.05)
    labels = torch.zeros(90, 4)
    labels[:70, 0] = labels[40:, 1] = 1
    labels[[3, 50], 2] = 1
    features = torch.stack([points, other, points, points], 1) if own else points
    result = subcategory_labels(features, labels, k=3, seed=0, engine=engine)
    assert result.shape == (90, 12) and result.dtype == torch.float32
    groups = result.view(90, 4, 3)
    assert torch.equal(groups.sum(2), labels)  # one sub-category for each class that is present
    assert adjusted_rand_score(choice[:70], groups[:70, 0].argmax(1)) == pytest.approx(1)
    if own:
        pairs = set(zip(elsewhere[40:].tolist(), groups[40:, 1].argmax(1).tolist(), strict=True))
        assert len({cluster for _, cluster in pairs}) == len(pairs)  # each within one blob
    else:
        assert adjusted_rand_score(choice[40:], groups[40:, 1].argmax(1)) == pytest.approx(1)
    assert groups[3, 2].argmax() != groups[50, 2].argmax()  # fewer images than clusters
    assert not groups[:, 3].any()


def test_what_is_refused():
    points, labels = torch.rand(5, 3), torch.ones(5, 2)
    for wrong, message in (
        (lambda: kmeans(points, 6), r"k is 6 and there are 5 points"),
        (lambda: kmeans(points[0], 1), r"features have shape \(3,\), expected \(N, D\)"),
        (lambda: kmeans(points * math.nan, 2), "NaN or infinity"),
        (lambda: subcategory_labels(points, labels[:4], k=2), r"\(4, 2\) and features \(5, 3\)"),
        (lambda: subcategory_labels(torch.rand(5, 3, 2), labels, k=2), r"or \(M, C, D\)"),
        (lambda: subcategory_labels(points, labels, k=2, engine="faiss"), "one of auto, sklearn"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
