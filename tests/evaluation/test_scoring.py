"""Counting against scikit-learn, error kinds against hand counts, intervals against loops."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from wsss_kit.evaluation import (
    ERROR_KINDS,
    ConfusionMatrix,
    Protocol,
    boundary_band,
    error_map,
    evaluate,
)
from wsss_kit.evaluation.confusion import bootstrap_mean_iou

PROTOCOL = Protocol("random masks", "val", resolution="20 x 30 px", background="none needed")
CLASSES = ("cow", "camel", "cat")


def random_masks(n=6, n_values=4, seed=0, size=(20, 30), wrong=0.3):
    """Blocks of classes with 255 among them, and predictions that are wrong in places."""
    rng = np.random.default_rng(seed)
    predicted, target = {}, {}
    for number in range(n):
        blocks = rng.integers(0, n_values, (size[0] // 5, size[1] // 5))
        mask = np.kron(blocks, np.ones((5, 5), np.int64))
        guess = np.where(rng.random(size) < wrong, rng.integers(0, n_values, size), mask)
        guess[rng.random(size) < 0.05] = 255
        mask[rng.random(size) < 0.1] = 255
        predicted[f"p{number}"], target[f"p{number}"] = map(torch.from_numpy, (guess, mask))
    return predicted, target


def by_sklearn(predicted, target, n_values):
    """scikit-learn's matrix over all counted pixels, predictions of 255 taken as 0."""
    predicted = torch.cat([mask.flatten() for mask in predicted])
    target = torch.cat([mask.flatten() for mask in target])
    counted = target != 255
    predicted = torch.where(predicted == 255, 0, predicted)
    return confusion_matrix(target[counted], predicted[counted], labels=range(n_values))


def test_matrix_equals_scikit_learn():
    predicted, target = random_masks()
    confusion = ConfusionMatrix(5)  # the fifth class is nowhere
    for name in target:
        assert confusion.update(predicted[name], target[name]) is confusion
    oracle = by_sklearn(predicted.values(), target.values(), 5)
    assert confusion.matrix.dtype == torch.int64
    assert np.array_equal(confusion.matrix, oracle)
    batch = ConfusionMatrix(5).update(
        torch.stack([*predicted.values()]), torch.stack([*target.values()])
    )
    assert torch.equal(batch.matrix, confusion.matrix)


def test_two_by_two_by_hand():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 1]]))
    assert confusion.matrix.tolist() == [[1, 1], [0, 2]]
    assert confusion.iou().tolist() == pytest.approx([1 / 2, 2 / 3])
    assert confusion.mean_iou() == pytest.approx(7 / 12)


def test_absent_is_nan_but_a_false_alarm_is_zero():
    target = torch.zeros(2, 2, dtype=torch.int64)
    iou = ConfusionMatrix(3).update(torch.tensor([[0, 0], [0, 2]]), target).iou()
    assert math.isnan(iou[1]) and iou[2] == 0
    perfect = ConfusionMatrix(3).update(target, target)
    assert perfect.iou()[0] == 1 and perfect.mean_iou() == 1


def test_255_in_the_target_never_counts():
    ignored = torch.full((3, 3), 255)
    confusion = ConfusionMatrix(2).update(torch.ones(3, 3).long(), ignored)
    assert confusion.matrix.sum() == 0 and math.isnan(confusion.mean_iou())


def test_255_in_the_prediction_is_background():
    confusion = ConfusionMatrix(2).update(torch.full((1, 4), 255), torch.tensor([[0, 0, 1, 255]]))
    assert confusion.matrix.tolist() == [[2, 0], [1, 0]]


def test_numpy_masks_of_any_integers():
    mask = np.array([[0, 1, 255]], np.uint8)
    mask.flags.writeable = False  # as an image file is read
    assert ConfusionMatrix(2).update(mask, mask.astype(np.uint16)).matrix.trace() == 2


def test_matrices_add_up():
    predicted, target = random_masks(2)
    one, two = (ConfusionMatrix(4).update(predicted[n], target[n]) for n in target)
    both = ConfusionMatrix(4).merge(one).merge(two)
    assert torch.equal((one + two).matrix, both.matrix)
    assert one.matrix.sum() < both.matrix.sum()  # the sum left its parts alone
    with pytest.raises(ValueError, match=r"\(4, 255\) here, there \(3, 255\)"):
        one.merge(ConfusionMatrix(3))


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        ([[0, 1]], [[0], [1]], "resize predictions"),
        ([0, 1], [0, 1], r"\(2,\)"),
        ([[0, 7]], [[0, 1]], "predicted holds 7 at \\[0, 1\\].*0 to 1"),
        ([[0, 1]], [[-1, 1]], "target holds -1 at \\[0, 0\\]"),
        ([[[0, 1]], [[1, 3]]], [[[0, 1]], [[1, 1]]], "holds 3 at \\[1, 0, 1\\]"),
        ([[0.0, 1.0]], [[0, 1]], "float32.*scores_to_masks"),
    ],
)
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


def literal_band(target, width):
    """Each pixel looks at its window; only for masks without 255."""
    H, W = target.shape
    band = torch.zeros(H, W, dtype=torch.bool)
    for y in range(H):
        for x in range(W):
            window = target[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            band[y, x] = len(window.unique()) > 1
    return band


@pytest.mark.parametrize("width", [0, 1, 2, 4])
def test_band_equals_the_literal_loop(width):
    target = torch.zeros(17, 13, dtype=torch.int64)
    target[4:9, 3:8] = 2
    target[8:, 10:] = 1
    assert torch.equal(boundary_band(target, width), literal_band(target, width))


def test_band_follows_the_middle_of_an_ignored_line():
    target = torch.zeros(9, 20, dtype=torch.int64)
    target[:, 12:] = 3
    with_line = target.clone()
    with_line[:, 9:15] = 255  # three pixels on each side of the border
    assert torch.equal(boundary_band(with_line, 5), boundary_band(target, 5))
    hole = torch.zeros(9, 9, dtype=torch.int64)
    hole[3:5, 3:5] = 255  # ignored within one class is no border
    assert not boundary_band(hole, 3).any()
    assert not boundary_band(torch.full((4, 4), 255), 3).any()


def test_default_width():
    for (height, width), expected in (((96, 96), 2), ((375, 500), 6), ((9, 9), 2)):
        target = torch.zeros(height, width, dtype=torch.int64)
        target[:, width // 2 :] = 1
        assert boundary_band(target).sum() == 2 * expected * height


def test_error_kinds_by_hand():
    target = torch.zeros(1, 20, dtype=torch.int64)
    target[0, 10:] = 1
    predicted = target.clone()
    predicted[0, [0, 1, 2]] = 2  # spilled
    predicted[0, 9] = 1  # in the band
    predicted[0, 10] = 2  # in the band
    predicted[0, [15, 16]] = 0  # missed
    predicted[0, 17] = 255  # counts as background: missed
    predicted[0, 18] = 2  # confused
    kinds = error_map(predicted, target, boundary=1)
    counts = torch.bincount(kinds.flatten(), minlength=5).tolist()
    assert counts == [11, 2, 3, 3, 1]  # right, then ERROR_KINDS
    report = evaluate(
        {"a": predicted}, {"a": target}, classes=CLASSES, protocol=PROTOCOL, boundary=1
    )
    # background: 10 targets + 3 false; cow: 10 targets + 1 false; camel: 5 false alarms
    assert report.iou[:3].tolist() == pytest.approx([6 / 13, 5 / 11, 0])
    by_hand = [[1 / 13, 3 / 13, 3 / 13, 0], [2 / 11, 3 / 11, 0, 1 / 11], [1 / 5, 0, 3 / 5, 1 / 5]]
    assert report.error_shares[:3] == pytest.approx(np.array(by_hand))
    assert np.isnan(report.error_shares[3]).all()


@pytest.mark.parametrize("boundary", [None, 0, 1, 50])
def test_error_shares_sum_to_what_is_missing(boundary):
    predicted, target = random_masks(wrong=0.6)
    report = evaluate(predicted, target, classes=CLASSES, protocol=PROTOCOL, boundary=boundary)
    assert report.error_shares.sum(1) == pytest.approx(1 - report.iou, abs=1e-12)
    assert (report.error_shares >= 0).all()


def test_error_shares_equal_a_count_over_error_maps():
    predicted, target = random_masks()
    report = evaluate(predicted, target, classes=CLASSES, protocol=PROTOCOL, boundary=1)
    counts, union = np.zeros((4, 4)), np.zeros(4)
    for name in target:
        kinds = error_map(predicted[name], target[name], boundary=1)
        guess = torch.where(predicted[name] == 255, 0, predicted[name])
        for c in range(4):
            concerned = ((guess == c) | (target[name] == c)) & (target[name] != 255)
            union[c] += concerned.sum()
            for k in range(len(ERROR_KINDS)):
                counts[c, k] += (kinds[concerned] == k + 1).sum()
    assert report.error_shares == pytest.approx(counts / union[:, None])


def test_report_against_scikit_learn():
    predicted, target = random_masks()
    report = evaluate(predicted, target, classes=CLASSES, protocol=PROTOCOL)
    oracle = by_sklearn(predicted.values(), target.values(), 4)
    iou = np.diag(oracle) / (oracle.sum(0) + oracle.sum(1) - np.diag(oracle))
    assert np.array_equal(report.matrix, oracle)
    assert report.iou == pytest.approx(iou) and report.mean_iou == pytest.approx(iou.mean())
    assert report.pixels.tolist() == oracle.sum(1).tolist()
    assert report.protocol.n_images == 6 and report.interval[0] < iou.mean() < report.interval[1]
    for name, value in report.image_iou.items():
        one = by_sklearn([predicted[name]], [target[name]], 4)
        present = one.sum(1) > 0
        ious = np.diag(one) / (one.sum(0) + one.sum(1) - np.diag(one))
        assert value == pytest.approx(ious[present].mean())
    assert report.worst == sorted(report.image_iou.items(), key=lambda item: item[1])


def test_scored_classes_only():
    target = {"a": torch.tensor([[0, 1, 1, 2, 2, 3]])}
    predicted = {"a": torch.tensor([[0, 1, 2, 1, 2, 0]])}
    report = evaluate(predicted, target, classes=CLASSES, protocol=PROTOCOL, scored=["cow"])
    # The camels and the cat are ignored; a cow taken for a camel is still a cow lost.
    assert report.classes == ("background", "cow")
    assert report.iou.tolist() == [1, 0.5] and report.mean_iou == 0.75
    assert report.error_shares.sum(1).tolist() == pytest.approx([0, 0.5])
    assert report.pixels.tolist() == [1, 2]
    assert report.image_iou == {"a": 0.75}
    assert "cow; other classes ignored" in str(report.protocol)
    everything = evaluate(predicted, target, classes=CLASSES, protocol=PROTOCOL, scored=CLASSES)
    assert everything.iou.tolist() == [0.5, 1 / 3, 1 / 3, 0]
    assert everything.protocol.scored == "all classes"


def literal_bootstrap(matrices, n_bootstrap, seed):
    """Draw images, add their confusion matrices, score, again."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(n_bootstrap):
        confusion = ConfusionMatrix(4)
        for index in rng.integers(len(matrices), size=len(matrices)):
            confusion.merge(matrices[index])
        means.append(confusion.mean_iou())
    return means


def test_interval_equals_the_literal_loop():
    predicted, target = random_masks(7, n_values=3)  # the last class is missing: NaN
    matrices = [ConfusionMatrix(4).update(predicted[n], target[n]) for n in target]
    means = literal_bootstrap(matrices, 230, seed=3)
    hits = np.array([m.matrix.diagonal().numpy() for m in matrices])
    unions = np.array([(m.matrix.sum(0) + m.matrix.sum(1)).numpy() for m in matrices]) - hits
    assert bootstrap_mean_iou(hits, unions, n_bootstrap=230, seed=3) == pytest.approx(means)
    report = evaluate(
        predicted, target, classes=CLASSES, protocol=PROTOCOL, n_bootstrap=230, seed=3
    )
    assert report.interval == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)

    def images(n):
        """Objects of very different sizes; the share found varies from image to image."""
        unions = rng.integers(20, 400, (n, 2))
        return rng.binomial(unions, rng.beta(4, 2, (n, 2))), unions

    hits, unions = images(200_000)
    truth = (hits.sum(0) / unions.sum(0)).mean()
    covered = 0
    for trial in range(400):
        means = bootstrap_mean_iou(*images(60), n_bootstrap=200, seed=trial)
        low, high = np.percentile(means, [2.5, 97.5])
        covered += low <= truth <= high
    assert 0.90 <= covered / 400 <= 0.98


def test_same_seed_same_report():
    predicted, target = random_masks()
    options = {"classes": CLASSES, "protocol": PROTOCOL, "n_bootstrap": 50}
    one, two = (evaluate(predicted, target, **options, seed=1).to_dict() for _ in range(2))
    other = evaluate(predicted, target, **options, seed=2).to_dict()
    assert one == two and one["interval"] != other["interval"]


def test_a_number_never_travels_alone():
    predicted, target = random_masks(2)
    report = evaluate(predicted, target, classes=("cow", "camel", "<cat>"), protocol=PROTOCOL)
    line = str(report.protocol)
    assert "\n" not in line and "random masks val, 2 images" in line
    assert line in str(report) and line in repr(report) and line in report._repr_html_()
    frame = report.to_frame()
    assert frame.attrs["protocol"] == line
    assert list(frame.columns) == ["iou", *ERROR_KINDS, "precision", "recall", "pixels"]
    assert (frame[["iou", *ERROR_KINDS]].sum(axis=1) - 1).abs().max() < 1e-12
    assert "&lt;cat&gt;" in report._repr_html_() and "<cat>" not in report._repr_html_()


def test_json_without_nan():
    target = {"a": torch.zeros(2, 2, dtype=torch.int64)}
    report = evaluate(target, target, classes=CLASSES, protocol=PROTOCOL, n_bootstrap=0)
    back = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert back["iou"] == {"background": 1.0, "cow": None, "camel": None, "cat": None}
    assert back["interval"] == [None, None] and back["protocol"]["n_images"] == 1
    assert "interval" not in report.headline


def test_an_image_of_255_only_counts_for_nothing():
    target = {"a": torch.full((4, 4), 255), "b": torch.tensor([[0, 1]])}
    predicted = {"a": torch.zeros(4, 4).long(), "b": torch.tensor([[0, 1]])}
    report = evaluate(predicted, target, classes=("cow",), protocol=PROTOCOL)
    assert report.mean_iou == 1 and report.image_iou == {"b": 1.0}
    assert report.interval == (1, 1)  # resamples of nothing but 255 have no score


def test_evaluate_refuses_with_names():
    predicted, target = random_masks(9)
    options = {"classes": CLASSES, "protocol": PROTOCOL}
    with pytest.raises(ValueError, match=r"8 of 9.*p1, p2, p3, p4, p5, \.\.\.; give"):
        evaluate({"p0": predicted["p0"]}, target, **options)
    with pytest.raises(ValueError, match=r"image 'p3'.*\(10, 30\).*\(20, 30\)"):
        evaluate({**predicted, "p3": predicted["p3"][:10]}, target, **options)
    with pytest.raises(ValueError, match=r"image 'p0': predicted holds [23] at "):
        evaluate(predicted, target, classes=("cow",), protocol=PROTOCOL)
    with pytest.raises(ValueError, match=r"expected Protocol\(data="):
        evaluate(predicted, target, classes=CLASSES, protocol="val")
    with pytest.raises(ValueError, match="scored has 'dog', expected one of 'cow'"):
        evaluate(predicted, target, **options, scored=["cow", "dog"])
    with pytest.raises(ValueError, match="without 'background'"):
        evaluate(predicted, target, classes=("background", *CLASSES), protocol=PROTOCOL)
    with pytest.raises(ValueError, match="says 149 images but target holds 9"):
        evaluate(predicted, target, classes=CLASSES, protocol=Protocol("a", "b", n_images=149))
    with pytest.raises(ValueError, match="no images"):
        evaluate({}, {}, **options)
