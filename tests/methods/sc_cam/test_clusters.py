"""k-means and the labels it gives: against scikit-learn, loops and cases done by hand."""

import math

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
    literal = (points - result.centres[result.labels]).square().sum()
    assert result.inertia == pytest.approx(literal.item(), rel=1e-4)
    few = torch.tensor([[0.0, 1.0]] * 6 + [[3.0, 1.0]] * 6)  # fewer different points than clusters
    result = kmeans(few, 4)
    assert result.inertia == pytest.approx(0, abs=1e-6) and result.centres.isfinite().all()


def test_as_good_as_scikit_learn_where_there_are_no_blobs(rng):
    """Noise has many local optima; the best of ten is near that of theirs."""
    points = torch.randn(300, 64, generator=rng).relu()
    theirs = KMeans(10, n_init=10, random_state=0).fit(points.numpy()).inertia_
    assert kmeans(points, 10).inertia <= 1.015 * theirs


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
    for call, message in (
        (lambda: kmeans(points, 6), r"k is 6 and there are 5 points"),
        (lambda: kmeans(points[0], 1), r"features have shape \(3,\), expected \(N, D\)"),
        (lambda: kmeans(points * math.nan, 2), "NaN or infinity"),
        (lambda: subcategory_labels(points, labels[:4], k=2), r"\(4, 2\) and features \(5, 3\)"),
        (lambda: subcategory_labels(torch.rand(5, 3, 2), labels, k=2), r"or \(M, C, D\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
