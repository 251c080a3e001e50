"""Every wrong pixel has a kind and another side, and all of them sum to 1 - IoU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss_kit.evaluation import Protocol, error_sources, evaluate, spills
from wsss_kit.evaluation.error_kinds import boundary_band
from wsss_kit.paperworld import STUFF, PaperWorld

CLASSES = ("cow", "camel", "cat")
KINDS = ("grass", "sand")
PROTOCOL = Protocol("random masks", "val")


@pytest.fixture
def masks(rng):
    """Targets and guesses with blocks, so that the boundary band leaves something outside."""
    blocks = {f"p{i}": torch.randint(0, 4, (4, 5), generator=rng) for i in range(5)}
    target = {n: m.repeat_interleave(12, 0).repeat_interleave(12, 1) for n, m in blocks.items()}
    guess = {n: torch.randint(0, 4, m.shape, generator=rng) for n, m in target.items()}
    target["p0"][:7] = 255
    guess["p1"][:5] = 255
    stuff = {n: torch.randint(0, 3, m.shape, generator=rng) for n, m in target.items()}
    return guess, target, {n: m.masked_fill(m == 2, 255) for n, m in stuff.items()}


def scored(masks, **options):
    guess, target, stuff = masks
    known = {"stuff": stuff, "stuff_names": KINDS} if options.pop("known", True) else {}
    return evaluate(guess, target, classes=CLASSES, protocol=PROTOCOL, **known, **options)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("only", [None, ("cow", "cat")])
def test_the_points_of_a_class_sum_to_what_its_iou_lacks(masks, known, only):
    report = scored(masks, known=known, scored=only)
    frame = error_sources(report)
    points = frame.groupby("class")["points"].sum()
    for name, iou in zip(report.classes, report.iou, strict=True):
        assert points[name] == pytest.approx(100 * (1 - iou), abs=1e-9)
    by_kind = frame.groupby(["class", "kind"])["points"].sum()
    for name, shares in zip(report.classes, report.error_shares, strict=True):
        for error, share in zip(("boundary", "missed", "spilled", "confused"), shares, strict=True):
            assert by_kind.get((name, error), 0.0) == pytest.approx(100 * share, abs=1e-9)


def test_spills_are_counted_pixel_by_pixel(masks):
    guess, target, stuff = masks
    names, result = spills(scored(masks))
    assert names == ("grass", "sand", "other") and not result[0].any()
    counts, unions = np.zeros((4, 3)), np.zeros(4)
    for name in target:
        t, g, s = (one[name] for one in (target, guess, stuff))
        outside = ~boundary_band(t)
        for c in (1, 2, 3):
            unions[c] += int((((t == c) | (g == c)) & (t != 255)).sum())
            for j, variant in enumerate((0, 1, 255)):
                counts[c, j] += int(((t == 0) & (g == c) & outside & (s == variant)).sum())
    np.testing.assert_allclose(result[1:], 100 * counts[1:] / unions[1:, None], rtol=1e-12)


def test_rows_below_the_least_are_left_out_and_the_largest_come_first(masks):
    frame = error_sources(scored(masks), least=5)
    assert len(frame) and frame["points"].min() >= 5
    for _, rows in frame.groupby("class"):
        assert rows["points"].is_monotonic_decreasing


def test_masks_without_an_error_have_no_row(masks):
    _, target, _ = masks
    report = evaluate(target, target, classes=CLASSES, protocol=PROTOCOL)
    frame = error_sources(report)
    assert not len(frame) and frame["points"].dtype == float


def test_the_embedded_world_says_what_a_plane_spills_onto():
    world = PaperWorld(6, split="val")
    everywhere = {s.name: torch.full((96, 96), 3) for s in world}  # planes
    report = evaluate(
        everywhere,
        world.masks,
        classes=world.classes,
        protocol=Protocol("PaperWorld", "val"),
        stuff=world.stuff,
        stuff_names=STUFF,
    )
    names, result = spills(report)
    assert np.nansum(result) == pytest.approx(result[3].sum())
    assert names == (*STUFF, "other") and result[3].sum() > 20


def test_kinds_and_their_names_come_together_and_fit(masks):
    guess, target, stuff = masks
    options = {"classes": CLASSES, "protocol": PROTOCOL}
    with pytest.raises(ValueError, match="stuff_names is empty, expected at least one"):
        evaluate(guess, target, stuff=stuff, **options)
    with pytest.raises(ValueError, match="stuff is NoneType, expected masks by"):
        evaluate(guess, target, stuff_names=KINDS, **options)
    with pytest.raises(ValueError, match=r"stuff_names has .*, expected different"):
        evaluate(guess, target, stuff=stuff, stuff_names=("grass", "grass"), **options)
    with pytest.raises(ValueError, match="1 of 5 images have no stuff mask: p3; give"):
        few = {n: m for n, m in stuff.items() if n != "p3"}
        evaluate(guess, target, stuff=few, stuff_names=KINDS, **options)
    with pytest.raises(ValueError, match=r"image 'p0': stuff holds \[2\], expected 0 to 1"):
        wrong = {n: m.masked_fill(m == 255, 2) for n, m in stuff.items()}
        evaluate(guess, target, stuff=wrong, stuff_names=KINDS, **options)
    with pytest.raises(ValueError, match=r"image 'p0': stuff has shape \(2, 2\)"):
        small = {n: m[:2, :2] for n, m in stuff.items()}
        evaluate(guess, target, stuff=small, stuff_names=KINDS, **options)
    with pytest.raises(ValueError, match="knows no kinds of background"):
        spills(scored(masks, known=False))
