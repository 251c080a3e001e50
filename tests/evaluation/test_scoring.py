"""Counting against scikit-learn, intervals against loops, and the difference of two reports."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score, precision_score, recall_score

from tests.evaluation.random_masks import CLASSES, random_masks, scored
from wsss_kit.evaluation import ERROR_KINDS, ConfusionMatrix, Protocol, compare_reports

NAN = math.nan


def counted(predicted, target):
    """All pixels that count, flat; predictions of 255 taken as 0."""
    predicted, target = (torch.cat([m.flatten() for m in each]) for each in (predicted, target))
    return target[target != 255], torch.where(predicted == 255, 0, predicted)[target != 255]


BY_HAND = [
    ([[0, 1], [1, 1]], [[0, 0], [1, 1]], [1 / 2, 2 / 3, NAN], 4),
    ([[0, 0, 0, 2]], [[0, 0, 0, 0]], [3 / 4, NAN, 0], 4),  # absent, and a false alarm
    ([[1, 0, 2]], [[255, 255, 255]], [NAN, NAN, NAN], 0),
    ([[255, 255, 255, 255]], [[0, 0, 1, 255]], [2 / 3, 0, NAN], 3),  # background
]


@pytest.mark.parametrize(("predicted", "target", "iou", "n_counted"), BY_HAND)
@pytest.mark.parametrize("kind", [torch.tensor, lambda values: np.array(values, np.uint8)])
def test_iou_by_hand(predicted, target, iou, n_counted, kind):
    confusion = ConfusionMatrix(3).update(kind(predicted), kind(target))
    assert confusion.iou().tolist() == pytest.approx(iou, nan_ok=True)
    mean = np.nanmean(iou) if n_counted else NAN
    assert confusion.mean_iou() == pytest.approx(mean, nan_ok=True)
    assert confusion.matrix.sum() == n_counted


def test_matrices_add_up_and_a_batch_is_its_masks():
    predicted, target = random_masks(2)
    one, two = (ConfusionMatrix(4).update(predicted[n], target[n]) for n in target)
    both = ConfusionMatrix(4).merge(one).merge(two)
    assert torch.equal((one + two).matrix, both.matrix)
    batches = (torch.stack([*masks.values()]) for masks in (predicted, target))
    assert torch.equal(ConfusionMatrix(4).update(*batches).matrix, both.matrix)
    assert one.matrix.sum() < both.matrix.sum()  # the sum left its parts alone
    with pytest.raises(ValueError, match=r"\(4, 255\) here, there \(3, 255\)"):
        one.merge(ConfusionMatrix(3))


BAD_MASKS = [
    ([[0, 1]], [[0], [1]], "resize predictions"),
    ([0, 1], [0, 1], r"\(2,\)"),
    ([[0, 7]], [[0, 1]], "predicted holds 7 at \\[0, 1\\].*0 to 1"),
    ([[0, 1]], [[-1, 1]], "target holds -1 at \\[0, 0\\]"),
    ([[[0, 1]], [[1, 3]]], [[[0, 1]], [[1, 1]]], "holds 3 at \\[1, 0, 1\\]"),
    ([[0.0, 1.0]], [[0, 1]], "float32.*scores_to_masks"),
]


@pytest.mark.parametrize(("predicted", "target", "message"), BAD_MASKS)
def test_bad_masks_are_refused_and_nothing_is_counted(predicted, target, message):
    confusion = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=message):
        confusion.update(torch.tensor(predicted), torch.tensor(target))
    assert confusion.matrix.sum() == 0


def test_ignore_index_is_no_class():
    with pytest.raises(ValueError, match="ignore_index is 0, a class"):
        ConfusionMatrix(3, ignore_index=0)
    other = ConfusionMatrix(3, ignore_index=-1)
    other.update(torch.tensor([[1, -1]]), torch.tensor([[-1, 2]]))
    assert other.matrix[2, 0] == 1 and other.matrix.sum() == 1


def test_report_against_scikit_learn():
    predicted, target = random_masks()
    report = scored(predicted, target)
    pixels = counted(predicted.values(), target.values())
    oracle = confusion_matrix(*pixels, labels=range(4))
    assert np.array_equal(report.matrix, oracle) and report.pixels.tolist() == [*oracle.sum(1)]
    for score, result in (
        (precision_score, report.precision),
        (recall_score, report.recall),
        (jaccard_score, report.iou),
    ):
        np.testing.assert_allclose(result, score(*pixels, average=None), rtol=1e-12)
    assert report.mean_iou == pytest.approx(report.iou.mean())
    assert report.interval[0] < report.mean_iou < report.interval[1]
    for name, value in report.image_iou.items():
        truth, guess = counted([predicted[name]], [target[name]])
        present = truth.unique()
        ious = jaccard_score(truth, guess, average=None, labels=present)
        assert value == pytest.approx(ious.mean())
    assert report.worst == sorted(report.image_iou.items(), key=lambda item: item[1])
    nowhere = scored({n: 0 * m for n, m in target.items()}, target, n_bootstrap=0)
    assert math.isnan(nowhere.precision[1]) and nowhere.recall[1] == 0


def test_scored_classes_only():
    target = {"a": torch.tensor([[0, 1, 1, 2, 2, 3]])}
    predicted = {"a": torch.tensor([[0, 1, 2, 1, 2, 0]])}
    report = scored(predicted, target, scored=["cow"])
    # The camels and the cat are ignored; a cow taken for a camel is still a cow lost.
    assert report.classes == ("background", "cow")
    assert report.iou.tolist() == [1, 0.5] and report.mean_iou == 0.75
    assert report.error_shares.sum(1).tolist() == pytest.approx([0, 0.5])
    assert report.pixels.tolist() == [1, 2] and report.image_iou == {"a": 0.75}
    assert report.precision.tolist() == [1, 1] and report.recall.tolist() == [1, 0.5]
    assert "cow; other classes ignored" in str(report.protocol)
    everything = scored(predicted, target, scored=CLASSES)
    assert everything.iou.tolist() == [0.5, 1 / 3, 1 / 3, 0]
    assert everything.protocol.scored == "all classes"


def test_an_image_of_255_only_counts_for_nothing():
    target = {"a": torch.full((4, 4), 255), "b": torch.tensor([[0, 1]])}
    predicted = {"a": torch.zeros(4, 4).long(), "b": torch.tensor([[0, 1]])}
    report = scored(predicted, target, classes=("cow",))
    assert report.mean_iou == 1 and report.image_iou == {"b": 1.0}
    assert report.interval == (1, 1)  # resamples of nothing but 255 have no score


def test_interval_equals_the_literal_loop():
    predicted, target = random_masks(7, n_values=3)  # the last class is missing: NaN
    matrices = [ConfusionMatrix(4).update(predicted[n], target[n]) for n in target]
    rng, means = np.random.default_rng(3), []
    for _ in range(230):  # draw images, add their confusion matrices, score, again
        confusion = ConfusionMatrix(4)
        for index in rng.integers(len(matrices), size=len(matrices)):
            confusion.merge(matrices[index])
        means.append(confusion.mean_iou())
    report = scored(predicted, target, n_bootstrap=230, seed=3)
    assert report.interval == pytest.approx(np.percentile(means, [2.5, 97.5]))
    assert report.interval == scored(predicted, target, n_bootstrap=230, seed=3).interval
    assert report.interval != scored(predicted, target, n_bootstrap=230, seed=2).interval
    assert "interval" not in scored(predicted, target, n_bootstrap=0).headline


def test_a_number_never_travels_alone():
    predicted, target = random_masks(2)
    report = scored(predicted, target, classes=("cow", "camel", "<cat>"))
    line = str(report.protocol)
    assert "\n" not in line and "random masks val, 2 images" in line
    assert line in str(report) and line in repr(report) and line in report._repr_html_()
    frame = report.to_frame()
    assert frame.attrs["protocol"] == line
    assert list(frame.columns) == ["iou", *ERROR_KINDS, "precision", "recall", "pixels"]
    assert (frame[["iou", *ERROR_KINDS]].sum(axis=1) - 1).abs().max() < 1e-12
    assert "&lt;cat&gt;" in report._repr_html_() and "<cat>" not in report._repr_html_()


ALL, TARGET = random_masks(9)


REFUSED = [
    ({"p0": ALL["p0"]}, {}, r"8 of 9 images have no predicted mask: .*p5, \.\.\.; predict"),
    (ALL, {"classes": ("cow",)}, r"image 'p0': predicted holds [23] at "),
    (ALL, {"protocol": "val"}, r"expected Protocol\(data="),
    (ALL, {"scored": ["cow", "dog"]}, "scored has 'dog', expected one of 'cow'"),
    (ALL, {"classes": ("background", *CLASSES)}, "without 'background'"),
    (ALL, {"protocol": Protocol("a", "b", n_images=149)}, "says 149 images but target holds 9"),
]


@pytest.mark.parametrize(("predicted", "changes", "message"), REFUSED)
def test_evaluate_refuses_with_names(predicted, changes, message):
    with pytest.raises(ValueError, match=message):
        scored(predicted, **{"target": TARGET, **changes})


# -- two reports ------------------------------------------------------------------------------


def test_a_difference_equals_the_literal_loop():
    (first, target), (second, _) = (random_masks(8, wrong=share) for share in (0.6, 0.3))
    masks = first, second
    first, second = (scored(predicted, target) for predicted in masks)
    result = compare_reports(first, second, n_bootstrap=200, seed=3)
    assert result.difference == pytest.approx(second.mean_iou - first.mean_iou)
    np.testing.assert_allclose(result.by_class, second.iou - first.iou)
    draws, differences = np.random.default_rng(3), []
    for _ in range(200):
        rows = draws.integers(8, size=8)
        ious = [r.intersections[rows].sum(0) / r.unions[rows].sum(0) for r in (first, second)]
        differences.append(ious[1].mean() - ious[0].mean())
    np.testing.assert_allclose(result.interval, np.percentile(differences, [2.5, 97.5]))
    better = sum(second.image_iou[n] > first.image_iou[n] for n in target)
    assert result.better == better and result.better + result.worse <= 8
    assert "0 is outside" in result.headline and result.headline in result._repr_html_()
    frame = result.to_frame()
    assert list(frame.index) == ["background", *CLASSES]
    assert (frame["low"] <= frame["difference"]).all()
    turned = scored(masks[1], dict(reversed(target.items())))  # pairs go by the images' names
    again = compare_reports(first, turned, n_bootstrap=200, seed=3)
    assert again.interval == pytest.approx(result.interval) and again.better == better
    back = compare_reports(second, first, n_bootstrap=200, seed=3)
    assert back.interval == pytest.approx((-result.interval[1], -result.interval[0]))
    same = compare_reports(first, first)
    assert same.interval == (0.0, 0.0) and "no difference was shown" in same.headline


def test_what_cannot_be_compared():
    _, target = random_masks(3)
    report = scored(target, target)
    with pytest.raises(ValueError, match="2 images are in one report alone, such as 'p1'"):
        compare_reports(report, scored(target, {"p0": target["p0"]}))
    with pytest.raises(ValueError, match="not the same classes"):
        compare_reports(report, scored(target, target, scored=("cow",)))
