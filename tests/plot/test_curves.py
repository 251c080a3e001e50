"""Curves: what is drawn, that curves can be told apart without colour, and the words."""

from __future__ import annotations

import pytest

from wsss_kit.plot import alt_text, show_curves
from wsss_kit.plot.canvas import png_bytes

TWO = {
    "std, pixels": {"CAM": {1: 40.0, 4: 60.0, 2: 50.0}, "CLIP-ES": {1: 30.0, 2: 20.0}},
    "weight": {"CLIP-ES": {0: 55.0, 3: 57.25}},
}


def test_points_are_drawn_in_order_and_panels_share_their_axis():
    figure = show_curves(TWO, y="mIoU, percent", marked={"weight": 3})
    first, second = figure.axes
    assert first.lines[0].get_xydata().tolist() == [[1, 40], [2, 50], [4, 60]]
    assert (first.get_xlabel(), second.get_xlabel()) == ("std, pixels", "weight")
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylabel() == "mIoU, percent" and not second.get_ylabel()
    assert [line.get_xdata()[0] for line in second.lines] == [0, 3]  # the curve, then the mark


def test_a_curve_keeps_its_look_in_all_panels_and_differs_in_more_than_colour():
    figure = show_curves(TWO, y="mIoU")
    (cam, clip_es), (again,) = ([*ax.lines] for ax in figure.axes)
    look = [
        (line.get_linestyle(), line.get_marker(), line.get_color()[:3].tolist())
        for line in (cam, clip_es, again)
    ]
    assert look[1] == look[2]
    assert look[0][0] != look[1][0] and look[0][1] != look[1][1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["CAM", "CLIP-ES"]
    assert not show_curves({"x": {"one": {1: 1.0}}}, y="y").legends


def test_the_words_say_where_a_curve_begins_peaks_and_ends():
    assert alt_text(show_curves(TWO, y="mIoU")) == (
        "mIoU against std, pixels. CAM: 40 at 1, highest 60 at 4, 60 at 4. CLIP-ES: 30 at 1, "
        "highest 30 at 1, 20 at 2. mIoU against weight. CLIP-ES: 55 at 0, highest 57.2 at 3, "
        "57.2 at 3."
    )


def test_four_panels_make_two_rows_and_a_logarithmic_axis():
    panels = {f"p{i}": {"a": {1: i, 10: 2 * i}} for i in range(1, 5)}
    figure = show_curves(panels, y="y", log=True)
    assert len(figure.axes) == 6
    assert [ax.axison for ax in figure.axes] == [True] * 4 + [False] * 2
    assert figure.axes[0].get_xscale() == "log"
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "10"]
    assert png_bytes(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("panels", [{}, {"x": {}}, {"x": {"a": {}}}])
def test_nothing_to_draw_is_an_error(panels):
    with pytest.raises(ValueError, match="at least one point in each"):
        show_curves(panels, y="y")
