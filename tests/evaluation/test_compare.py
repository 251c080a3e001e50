"""Precision, recall, and the difference of two reports with an interval that covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, precision_score, recall_score

from wsss_kit.evaluation import Protocol, compare_reports, evaluate

CLASSES = ("cow", "camel", "cat")
PROTOCOL = Protocol("random masks", "val")


def noisy(target, share, random):
    """Masks in which a share of the pixels is drawn again."""
    result = {}
    for name, mask in target.items():
        again = torch.rand(mask.shape, generator=random) < share
        drawn = torch.randint(0, 4, mask.shape, generator=random)
        result[name] = torch.where(again & (mask != 255), drawn, mask)
    return result


def world(n, random, size=(6, 7)):
    return {f"p{i}": torch.randint(0, 4, size, generator=random) for i in range(n)}


def scored(predicted, target, **options):
    return evaluate(predicted, target, classes=CLASSES, protocol=PROTOCOL, **options)


def test_precision_recall_and_iou_are_scikit_learn_s(rng):
    target = world(5, rng)
    target["p0"][0] = 255
    predicted = noisy(target, 0.5, rng)
    report = scored(predicted, target, n_bootstrap=0)
    t = torch.cat([target[n].flatten() for n in target])
    p = torch.cat([predicted[n].flatten() for n in target])
    kept = t != 255
    for score, result in (
        (precision_score, report.precision),
        (recall_score, report.recall),
        (jaccard_score, report.iou),
    ):
        np.testing.assert_allclose(result, score(t[kept], p[kept], average=None), rtol=1e-12)
    nowhere = scored({n: 0 * m for n, m in target.items()}, target, n_bootstrap=0)
    assert math.isnan(nowhere.precision[1]) and nowhere.recall[1] == 0


def test_scored_classes_have_precision_among_their_targets_only():
    target = {"a": torch.tensor([[1, 1, 2, 0]])}
    predicted = {"a": torch.tensor([[1, 0, 1, 0]])}
    report = scored(predicted, target, scored=("cow",), n_bootstrap=0)
    assert report.classes == ("background", "cow")
    assert report.precision.tolist() == [0.5, 1.0] and report.recall.tolist() == [1.0, 0.5]


def test_a_difference_by_hand(rng):
    target = world(8, rng)
    first, second = scored(noisy(target, 0.6, rng), target), scored(noisy(target, 0.3, rng), target)
    result = compare_reports(first, second, n_bootstrap=200, seed=3)
    assert result.difference == pytest.approx(second.mean_iou - first.mean_iou)
    np.testing.assert_allclose(result.by_class, second.iou - first.iou)
    draws = np.random.default_rng(3)
    differences = []
    for _ in range(200):
        rows = draws.integers(8, size=8)
        values = [
            (r.intersections[rows].sum(0) / r.unions[rows].sum(0)).mean() for r in (first, second)
        ]
        differences.append(values[1] - values[0])
    np.testing.assert_allclose(result.interval, np.percentile(differences, [2.5, 97.5]))
    better = sum(second.image_iou[n] > first.image_iou[n] for n in target)
    assert result.better == better and result.better + result.worse <= 8
    assert "0 is outside" in result.headline and result.headline in result._repr_html_()
    frame = result.to_frame()
    assert list(frame.index) == ["background", *CLASSES]
    assert (frame["low"] <= frame["difference"]).all()
    back = compare_reports(second, first, n_bootstrap=200, seed=3)
    assert back.interval == pytest.approx((-result.interval[1], -result.interval[0]))
    same = compare_reports(first, first)
    assert same.interval == (0.0, 0.0) and "no difference was shown" in same.headline


def test_pairs_of_the_same_images_in_another_order_are_the_same_pairs(rng):
    target = world(6, rng)
    masks = [noisy(target, share, rng) for share in (0.5, 0.4)]
    first, second = (scored(m, target) for m in masks)
    turned = scored(masks[1], dict(reversed(target.items())))
    one, two = compare_reports(first, second), compare_reports(first, turned)
    assert one.interval == pytest.approx(two.interval) and one.better == two.better


def test_the_intervals_cover_what_they_should():
    """Data sets drawn from a known population: 95 of 100 intervals hold its true value."""
    n, drawn = 60, {"n_bootstrap": 200}
    random = torch.Generator().manual_seed(0)
    draws = np.random.default_rng(0)
    target = world(400, random, size=(4, 4))
    first, second = noisy(target, 0.5, random), noisy(target, 0.42, random)
    true = scored(first, target, n_bootstrap=0), scored(second, target, n_bootstrap=0)
    names, held, held_difference = list(target), 0, 0
    for _ in range(n):
        some = [names[i] for i in draws.choice(400, 40)]
        mine = {f"{i}": target[name] for i, name in enumerate(some)}
        reports = [
            scored({f"{i}": masks[name] for i, name in enumerate(some)}, mine, **drawn)
            for masks in (first, second)
        ]
        low, high = reports[0].interval
        held += low <= true[0].mean_iou <= high
        low, high = compare_reports(*reports, **drawn).interval
        held_difference += low <= true[1].mean_iou - true[0].mean_iou <= high
    assert held / n >= 0.88 and held_difference / n >= 0.88


def test_what_cannot_be_compared(rng):
    target = world(3, rng)
    report = scored(target, target)
    fewer = scored(target, {"p0": target["p0"]})
    with pytest.raises(ValueError, match="2 images are in one report alone, such as 'p1'"):
        compare_reports(report, fewer)
    with pytest.raises(ValueError, match="not the same classes"):
        compare_reports(report, scored(target, target, scored=("cow",)))
    with pytest.raises(ValueError, match="n_bootstrap is -1"):
        compare_reports(report, report, n_bootstrap=-1)
