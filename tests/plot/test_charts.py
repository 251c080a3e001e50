"""Heat maps, curves and points: what is drawn, told apart without colour, and the words."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.evaluation.random_masks import random_masks, scored
from wsss_kit.plot import (
    alt_text,
    canvas,
    show_confusion,
    show_curves,
    show_heat_maps,
    show_plane,
    show_spills,
    show_word_classes,
)
from wsss_kit.plot.canvas import png_bytes
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.found import PromptSearch, worth_tables

WITHOUT_A_CAT = random_masks(n_values=3)
TWO = {
    "std, pixels": {"CAM": {1: 40.0, 4: 60.0, 2: 50.0}, "CLIP-ES": {1: 30.0, 2: 20.0}},
    "weight": {"CLIP-ES": {0: 55.0, 3: 57.25}},
}


def test_rows_of_the_heat_map_are_shares_of_the_ground_truth():
    report = scored(*WITHOUT_A_CAT)
    figure = show_confusion(report)
    ax = figure.axes[0]
    cells = ax.collections[0].get_array().reshape(3, 3)
    matrix = report.matrix[:3, :3]
    np.testing.assert_allclose(cells, 100 * matrix / matrix.sum(1, keepdims=True))
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == ["background", "cow", "camel"]  # nobody drew or found a cat
    parts = [f"{cells[2, c]:.0f} {names[c]}" for c in np.argsort(-cells[2], kind="stable")]
    assert f"camel: {', '.join(parts)}" in alt_text(figure) and "cat:" not in alt_text(figure)


def test_the_heat_map_names_classes_that_are_not_scored_too():
    target, guess = ({"a": torch.tensor([row])} for row in ([0, 1, 1], [2, 1, 2]))
    ax = show_confusion(scored(guess, target, scored=("cow",))).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["background", "cow", "camel"]
    assert np.ma.getmaskarray(ax.collections[0].get_array().reshape(3, 3))[2].all()


def test_names_on_axes_are_drawn_as_they_are_or_as_escapes(monkeypatch):
    monkeypatch.setattr(canvas, "_installed", list)
    cells = pd.DataFrame([[1.0]], ["\u732b"], ["$x_$"])
    figure = show_heat_maps({"": cells}, "cats", label="x")
    with pytest.warns(UserWarning) as said:  # and none of matplotlib's
        png_bytes(figure)
    assert ["such letters as escapes" in str(each.message) for each in said] == [True]
    axes = figure.axes[0]
    assert [each.get_text() for each in axes.get_yticklabels()] == ["\\u732b"]
    assert [each.get_text() for each in axes.get_xticklabels()] == ["$x_$"]


def test_the_heat_map_of_spills_shows_points_of_the_union(rng):
    guess, target = WITHOUT_A_CAT
    stuff = {n: torch.randint(0, 2, (20, 30), generator=rng) for n in target}
    options = {"boundary": 0, "stuff": stuff, "stuff_names": ("grass", "sand")}
    report = scored(guess, target, **options)
    figure = show_spills(report)
    cells = figure.axes[0].collections[0].get_array().reshape(3, 3)
    np.testing.assert_allclose(cells[:2].sum(1), 100 * report.error_shares[1:3, 2])
    assert np.ma.getmaskarray(cells)[2].all()  # no cat anywhere
    assert f"cow: {cells[0].max():.0f} " in alt_text(figure)
    clean = show_spills(scored(target, target, **options))
    assert alt_text(clean).endswith("nothing of 1 or more.")


def test_points_of_curves_are_drawn_in_order_and_panels_share_their_axis():
    figure = show_curves(TWO, y="mIoU, percent", marked={"weight": 3})
    first, second = figure.axes
    assert first.lines[0].get_xydata().tolist() == [[1, 40], [2, 50], [4, 60]]
    assert (first.get_xlabel(), second.get_xlabel()) == ("std, pixels", "weight")
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylabel() == "mIoU, percent" and not second.get_ylabel()
    assert [line.get_xdata()[0] for line in second.lines] == [0, 3]  # the curve, then the mark
    assert alt_text(figure) == (
        "mIoU, percent against std, pixels. CAM: 40 at 1, highest 60 at 4, 60 at 4. CLIP-ES: 30 "
        "at 1, highest 30 at 1, 20 at 2. mIoU, percent against weight. CLIP-ES: 55 at 0, highest "
        "57.2 at 3, 57.2 at 3."
    )


def test_a_curve_keeps_its_look_in_all_panels_and_differs_in_more_than_colour():
    figure = show_curves(TWO, y="mIoU")
    cam, clip_es, again = (
        (line.get_linestyle(), line.get_marker(), line.get_color()[:3].tolist())
        for ax in figure.axes
        for line in ax.lines
    )
    assert clip_es == again and cam[0] != clip_es[0] and cam[1] != clip_es[1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["CAM", "CLIP-ES"]
    assert not show_curves({"x": {"one": {1: 1.0}}}, y="y").legends


def test_four_panels_make_two_rows_and_a_logarithmic_axis():
    panels = {f"p{i}": {"a": {1: i, 10: 2 * i}} for i in range(1, 5)}
    figure = show_curves(panels, y="y", log=True)
    assert [ax.axison for ax in figure.axes] == [True] * 4 + [False] * 2
    assert figure.axes[0].get_xscale() == "log"
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "10"]
    assert png_bytes(figure).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="an x is 0, expected x above 0"):
        show_curves({"x": {"a": {0: 1.0}}}, y="y", log=True)


def test_points_stand_where_they_are_with_their_group():
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figure = show_plane({"a": (points, ["x", "y", "x"]), "b": (points[:1], ["y"])})
    left, right = figure.axes
    of_x, of_y = left.collections
    assert of_x.get_offsets().tolist() == [[0, 1], [4, 5]]
    assert of_y.get_offsets().tolist() == [[2, 3]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]
    assert (of_x.get_facecolor() != of_y.get_facecolor()).any()
    assert [len(c.get_offsets()) for c in right.collections] == [0, 1]
    assert alt_text(figure) == "Points on a plane. a: 2 x, 1 y. b: 1 y."


@pytest.mark.parametrize("panels", [{}, {"x": {}}, {"x": {"a": {}}}])
def test_nothing_to_draw_is_an_error(panels):
    with pytest.raises(ValueError, match="at least one point in each"):
        show_curves(panels, y="y")


ODD = [torch.zeros(2, 2), torch.zeros(1, 3), torch.full((1, 2), torch.nan), torch.zeros(0, 2)]


@pytest.mark.parametrize("points", ODD)
def test_points_that_do_not_fit_are_refused(points):
    with pytest.raises(ValueError, match=r"expected finite \(N, 2\) and N"):
        show_plane({"a": (points, ["x"][: len(points)])})
    with pytest.raises(ValueError, match="panels is empty"):
        show_plane({})


def test_words_by_class_have_intervals_and_what_is_not_proven_is_white():
    rng = np.random.default_rng(0)
    before = np.stack([rng.integers(40, 60, (90, 2, 2)), np.full((90, 2, 2), 100)], -1)
    after = before.copy()
    after[:, 0, 1, 0] += 20  # the first word helps the second part in every image
    after[:, 1, 0, 0] += rng.integers(-20, 21, 90)  # the second one does not
    flags, options = np.array([True, False]), {"alpha": 0.05, "n_bootstrap": 1000, "seed": 0}
    tables = worth_tables((after, before), ["sky", "fog"], flags, flags, ["all", "cow"], **options)
    rest = {"prompts": Prompts.paper(), "best": Prompts.paper(), "path": None, "confirmed": None}
    rest["made_by"] = {"objective": "mIoU"}
    found = PromptSearch(words=tables[0], by_class=tables[1], **rest)
    figure = show_word_classes(found)
    assert figure.axes[0].collections[0].get_array().round(6).tolist() == [[0, 20], [0, 0]]
    first, *_, last = (text.get_text() for text in figure.axes[0].texts)
    row = tables[1].iloc[0]
    assert first == f"{0:+.1f}\n[{row['low']:+.1f}, {row['high']:+.1f}]" and "[" in last
    assert alt_text(figure).endswith("where the interval leaves out 0. sky: 20 cow.")
    assert len(show_word_classes(found, most=1).axes[0].texts) == 2
