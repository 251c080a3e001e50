"""Counting against scikit-learn, intervals against loops, and the difference of two reports."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score, precision_score, recall_score

from tests.evaluation.random_masks import CLASSES, random_masks, scored
from wsss_kit.evaluation import ERROR_KINDS, ConfusionMatrix, Protocol, compare_reports, judge

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
    (ALL, {"classes": ("cow",)}, r"image 'p0': target holds [23] at "),
    ({n: 4 * m for n, m in ALL.items()}, {}, r"image 'p0': predicted holds \d+ at "),
    (ALL, {"protocol": "val"}, r"expected Protocol\(data="),
    (ALL, {"scored": ["cow", "dog"]}, "scored has 'dog', expected one of 'cow'"),
    (ALL, {"classes": ("background", *CLASSES)}, "without 'background'"),
    (ALL, {"protocol": Protocol("a", "b", n_images=149)}, "says 149 images but target holds 9"),
]


@pytest.mark.parametrize(("predicted", "changes", "message"), REFUSED)
def test_evaluate_refuses_with_names(predicted, changes, message):
    with pytest.raises(ValueError, match=message):
        scored(predicted, **{"target": TARGET, **changes})


def test_judged_sets_have_their_own_reports_and_targets_are_read_once():
    class Read(dict):
        def __getitem__(self, name):
            reads[name] = reads.get(name, 0) + 1
            return super().__getitem__(name)

    reads, sets = {}, {"much": ALL, "little": random_masks(9, wrong=0.2)[0], "nothing": TARGET}
    stuff = {name: torch.where(mask == 1, 255, mask % 2) for name, mask in ALL.items()}
    options = {"stuff": stuff, "stuff_names": ("grass", "sand"), "scored": CLASSES[:2], "seed": 4}
    protocol = {name: Protocol(name, "val") for name in sets}
    judged = judge(sets, Read(TARGET), classes=CLASSES, protocol=protocol, **options)
    assert reads == dict.fromkeys(TARGET, 1)
    for name, report in judged.reports.items():
        alone = scored(sets[name], TARGET, protocol=protocol[name], **options)
        assert str(report) == str(alone) and report.image_iou == alone.image_iou
        np.testing.assert_array_equal(report.stuff, alone.stuff)
        np.testing.assert_array_equal(report.inside, alone.inside)
    broken = {**sets, "odd": {**ALL, "p3": ALL["p3"] + 40}}
    with pytest.raises(ValueError, match=r"odd: image 'p3': predicted holds 4\d at"):
        judge(broken, TARGET, classes=CLASSES, protocol=Protocol("nine images", "val"))


def test_doubt_counts_among_the_scored_pixels_alone():
    masks = {"a": torch.tensor([[0, 1, 255, 255, 255, 255]])}
    target = {"a": torch.tensor([[0, 1, 1, 2, 2, 2]])}
    report = scored(masks, target, scored=CLASSES[:1])
    assert report.protocol.predicted_255 == pytest.approx(1 / 3)  # three pixels are scored


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


def test_what_only_rounding_parts_is_a_tie():
    base = torch.zeros(1, 60).long()
    base[0, 10:30], base[0, 30:50] = 1, 2
    one, other = base.clone(), base.clone()
    one[0, 10], one[0, 30:38], other[0, 10:18], other[0, 30] = 0, 0, 0, 0
    sets = {"one": one, "other": other}
    sets = {name: {f"i{k}": mask for k in range(5)} for name, mask in sets.items()}
    target = dict.fromkeys(sets["one"], base)
    judged = judge(sets, target, classes=CLASSES, protocol=Protocol("five images", "val"))
    (pair,) = judged.pairs.values()
    assert judged.ranks == {"one": 1, "other": 1} and (pair.better, pair.worse) == (0, 0)


def test_masks_that_are_wrong_or_in_doubt_are_judged_and_those_that_mean_other_things_are_not():
    target = {"a": torch.tensor([[0, 1, 1, 2, 2, 3]]), "b": torch.tensor([[0, 1, 1, 0, 0, 0]])}
    doubt = {"a": torch.tensor([[0, 1, 255, 255, 255, 255]]), "b": torch.full((1, 6), 255)}
    wrong = {"a": target["a"], "b": torch.tensor([[0, 2, 2, 0, 0, 0]])}
    one = {"b": target["b"]}
    options = {"classes": CLASSES, "protocol": Protocol("two images", "val")}
    assert judge({"doubt": doubt, "right": target}, target, **options).ranks["right"] == 1
    assert judge({"wrong": wrong, "right": target}, one, **options).ranks["wrong"] == 1
    swapped = {
        name: (3 - mask).where((mask > 0) & (mask < 3), mask) for name, mask in target.items()
    }
    no_zero = {"a": target["a"].masked_fill(target["a"] == 0, 255), "b": doubt["b"]}
    for odd, problem in ((swapped, "value 2 lies on cow"), (no_zero, "draw the background as 0")):
        with pytest.raises(ValueError, match=f"odd: .*{problem}"):
            judge({"odd": odd, "right": target}, {**target, "b": 0 * target["b"]}, **options)
    with pytest.raises(ValueError, match="right: protocol is None, expected Protocol"):
        some = {"protocol": {"odd": options["protocol"]}}
        judge({"odd": swapped, "right": target}, target, **{**options, **some})


def test_what_cannot_be_compared():
    _, target = random_masks(3)
    report = scored(target, target)
    with pytest.raises(ValueError, match="2 images are in one report alone, such as 'p1'"):
        compare_reports(report, scored(target, {"p0": target["p0"]}))
    with pytest.raises(ValueError, match="not the same classes"):
        compare_reports(report, scored(target, target, scored=("cow",)))
