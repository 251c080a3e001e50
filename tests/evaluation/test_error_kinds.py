"""Every wrong pixel has a kind and another side, and all of them sum to 1 - IoU."""

import numpy as np
import pytest
import torch

from tests.evaluation.random_masks import random_masks, scored
from wsss_kit.evaluation import ERROR_KINDS, boundary_band, error_map, error_sources, spills
from wsss_kit.paperworld import STUFF, PaperWorld

KINDS = ("grass", "sand")


@pytest.mark.parametrize("width", [0, 1, 2, 4])
def test_band_equals_the_literal_loop(width):
    target = torch.zeros(17, 13, dtype=torch.int64)
    target[4:9, 3:8] = 2
    target[8:, 10:] = 1
    band = torch.zeros(17, 13, dtype=torch.bool)
    for y in range(17):  # each pixel looks at its window
        for x in range(13):
            window = target[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            band[y, x] = len(window.unique()) > 1
    assert torch.equal(boundary_band(target, width), band)


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
    report = scored({"a": predicted}, {"a": target}, boundary=1)
    assert np.isnan(report.error_shares[3]).all()  # no pixel is or is said to be a cat


def test_error_shares_equal_a_count_over_error_maps():
    predicted, target = random_masks()
    report = scored(predicted, target, boundary=1)
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


@pytest.fixture(scope="module")
def masks():
    predicted, target = random_masks(5, wrong=0.6)
    random = torch.Generator().manual_seed(0)
    stuff = {n: torch.randint(0, 3, m.shape, generator=random) for n, m in target.items()}
    return predicted, target, {n: m.masked_fill(m == 2, 255) for n, m in stuff.items()}


def known(stuff):
    return {"stuff": stuff, "stuff_names": KINDS}


@pytest.mark.parametrize("knows_stuff", [True, False])
@pytest.mark.parametrize("only", [None, ("cow", "cat")])
@pytest.mark.parametrize("boundary", [None, 0, 50])
def test_the_points_of_a_class_sum_to_what_its_iou_lacks(masks, knows_stuff, only, boundary):
    predicted, target, stuff = masks
    options = {"scored": only, "boundary": boundary, **(known(stuff) if knows_stuff else {})}
    report = scored(predicted, target, n_bootstrap=0, **options)
    frame = error_sources(report)
    points = frame.groupby("class")["points"].sum()
    by_kind = frame.groupby(["class", "kind"])["points"].sum()
    for name, iou, shares in zip(report.classes, report.iou, report.error_shares, strict=True):
        assert points[name] == pytest.approx(100 * (1 - iou), abs=1e-9)
        for error, share in zip(ERROR_KINDS, shares, strict=True):
            assert by_kind.get((name, error), 0.0) == pytest.approx(100 * share, abs=1e-9)
    for _, rows in frame.groupby("class"):
        assert rows["points"].is_monotonic_decreasing
    large = error_sources(report, least=5)
    assert large["points"].tolist() == [p for p in frame["points"] if p >= 5]
    frame = error_sources(scored(target, target))
    assert not len(frame) and frame["points"].dtype == float


def test_spills_are_counted_pixel_by_pixel(masks):
    predicted, target, stuff = masks
    names, result = spills(scored(predicted, target, boundary=1, **known(stuff)))
    assert names == ("grass", "sand", "other") and not result[0].any()
    counts, unions = np.zeros((4, 3)), np.zeros(4)
    for name in target:
        t, g, s = (one[name] for one in (target, predicted, stuff))
        outside = ~boundary_band(t, 1)
        for c in (1, 2, 3):
            unions[c] += int((((t == c) | (g == c)) & (t != 255)).sum())
            for j, variant in enumerate((0, 1, 255)):
                counts[c, j] += int(((t == 0) & (g == c) & outside & (s == variant)).sum())
    assert counts.any()
    np.testing.assert_allclose(result[1:], 100 * counts[1:] / unions[1:, None], rtol=1e-12)


def test_the_embedded_world_knows_what_a_plane_spills_onto():
    world = PaperWorld(6, split="val")
    everywhere = {s.name: torch.full((96, 96), 3) for s in world}  # planes
    options = {"classes": world.classes, "stuff": world.stuff, "stuff_names": STUFF}
    names, result = spills(scored(everywhere, world.masks, **options))
    assert np.nansum(result) == pytest.approx(result[3].sum())
    assert names == (*STUFF, "other") and result[3].sum() > 20


def test_kinds_and_their_names_come_together_and_fit(masks):
    predicted, target, stuff = masks
    odd = {n: m.masked_fill(m == 255, 2) for n, m in stuff.items()}
    for options, message in (
        ({"stuff": stuff}, "stuff_names is empty, expected at least one"),
        ({"stuff_names": KINDS}, "stuff is NoneType, expected masks by"),
        (known(stuff) | {"stuff_names": ("a", "a")}, "stuff_names has .*, expected different"),
        (known({"p0": stuff["p0"]}), "4 of 5 images have no stuff mask: p1, p2, p3, p4; give"),
        (known(odd), r"image 'p0': stuff holds \[2\], expected 0 to 1"),
        (known({n: m[:2] for n, m in stuff.items()}), r"'p0': stuff has shape \(2, 30\)"),
    ):
        with pytest.raises(ValueError, match=message):
            scored(predicted, target, **options)
    with pytest.raises(ValueError, match="knows no kinds of background"):
        spills(scored(predicted, target))
