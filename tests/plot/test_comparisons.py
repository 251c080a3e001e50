"""Heat map of confusions and bars of differences: what they show, and in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss_kit.evaluation import Protocol, compare_reports, evaluate
from wsss_kit.plot import alt_text, show_confusion, show_difference, show_spills

CLASSES = ("cow", "camel", "cat")


@pytest.fixture
def reports(rng):
    target = {f"p{i}": torch.randint(0, 3, (8, 9), generator=rng) for i in range(6)}
    noise = {n: torch.rand(m.shape, generator=rng) < 0.4 for n, m in target.items()}
    worse = {n: torch.where(noise[n], 1, m) for n, m in target.items()}
    options = {"classes": CLASSES, "protocol": Protocol("random masks", "val")}
    return [evaluate(masks, target, **options) for masks in (worse, target)]


def test_rows_of_the_heat_map_are_shares_of_the_ground_truth(reports):
    figure = show_confusion(reports[0])
    ax = figure.axes[0]
    cells = ax.collections[0].get_array().reshape(3, 3)
    matrix = reports[0].matrix[:3, :3]
    np.testing.assert_allclose(cells, 100 * matrix / matrix.sum(1, keepdims=True))
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == ["background", "cow", "camel"]  # nobody drew or found a cat
    text = alt_text(figure)
    assert f"camel: {cells[2, 2]:.0f} camel, {cells[2, 1]:.0f} cow" in text and "cat:" not in text


def test_the_heat_map_names_classes_that_are_not_scored_too():
    options = {"classes": CLASSES, "protocol": Protocol("one image", "val")}
    result = {"a": torch.tensor([[0, 1, 1]])}
    predicted = {"a": torch.tensor([[2, 1, 2]])}
    report = evaluate(predicted, result, scored=("cow",), **options)
    ax = show_confusion(report).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["background", "cow", "camel"]
    assert np.ma.getmaskarray(ax.collections[0].get_array().reshape(3, 3))[2].all()


def test_the_heat_map_of_spills_shows_points_of_the_union(rng):
    target = {f"p{i}": torch.randint(0, 3, (20, 20), generator=rng) for i in range(3)}
    guess = {n: torch.randint(0, 3, (20, 20), generator=rng) for n in target}
    stuff = {n: torch.randint(0, 2, (20, 20), generator=rng) for n in target}
    options = {"classes": CLASSES, "protocol": Protocol("random masks", "val"), "boundary": 0}
    report = evaluate(guess, target, stuff=stuff, stuff_names=("grass", "sand"), **options)
    figure = show_spills(report)
    cells = figure.axes[0].collections[0].get_array().reshape(3, 3)
    spilled = report.error_shares[1:, 2]
    np.testing.assert_allclose(cells[:2].sum(1), 100 * spilled[:2])
    assert np.ma.getmaskarray(cells)[2].all()  # no cat anywhere
    assert f"cow: {cells[0].max():.0f} " in alt_text(figure)
    clean = evaluate(target, target, stuff=stuff, stuff_names=("grass", "sand"), **options)
    assert alt_text(show_spills(clean)).endswith("nothing of a point or more.")


def test_bars_of_differences_are_hatched_where_nothing_is_sure(reports):
    result = compare_reports(*reports)
    figure = show_difference(result, first="CAM", second="truth")
    bars = figure.axes[0].patches
    heights = [bar.get_height() for bar in bars]
    known = result.by_class[np.isfinite(result.by_class)]
    np.testing.assert_allclose(heights, 100 * np.array([*known, result.difference]))
    assert not any(bar.get_hatch() for bar in bars)
    assert f"mean {100 * result.difference:+.1f}." in alt_text(figure)
    assert "truth minus CAM" in figure.axes[0].get_ylabel()
    same = show_difference(compare_reports(reports[0], reports[0]), first="a", second="b")
    assert all(bar.get_hatch() for bar in same.axes[0].patches)
    assert "cow +0.0 (not sure)" in alt_text(same)
