"""Reports as bars and as a page: numbers, protocols, texts that are whole and escaped."""

import base64
import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from matplotlib.container import BarContainer

from tests.plot.conftest import make_reports
from wsss_kit.classes import VOC_CLASSES
from wsss_kit.evaluation import Protocol, compare_reports
from wsss_kit.plot import alt_text, iou_bars, new_figure, show_difference, step_bars
from wsss_kit.plot.canvas import png_bytes
from wsss_kit.plot.reports import write_report


def bars_of(figure):
    return [c for c in figure.axes[0].containers if isinstance(c, BarContainer)]


def caption(figure):
    return figure.get_supxlabel().replace("\n", " ")


def test_bars_show_the_report():
    reports = make_reports("CAM", "CLIP-ES")
    figure, report = iou_bars(reports), reports["CAM"]
    heights = [bar.get_height() for bar in bars_of(figure)[0]]
    expected = 100 * np.nan_to_num([*report.iou, report.mean_iou])
    assert heights == pytest.approx(expected.tolist())
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [f"{name}: {each.headline}" for name, each in reports.items()]
    assert len({bar.get_hatch() for bars in bars_of(figure) for bar in bars}) == 2
    assert caption(figure) == str(report.protocol)
    assert f"{100 * report.mean_iou:.1f}" in alt_text(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["absent"] * 2 * np.isnan(report.iou).sum()


def test_bars_of_many_methods_are_higher_than_their_legend():
    figure = iou_bars(make_reports(*(f"method {i}, no CRF" for i in range(8))))
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().height < figure.axes[0].bbox.height / 2
    texts = figure.legends[0].get_texts()
    assert len(texts) == 8
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in texts)


def test_bars_state_protocols_that_differ():
    report = make_reports("CAM")["CAM"]
    other = replace(report, protocol=Protocol("other", "test"))
    both = caption(iou_bars({"CAM": report, "PW": other}))
    assert "CAM: squares val" in both and "PW: other test" in both
    varies = {"data": "varies", "split": "varies", "n_images": None, "background": "varies"}
    three = caption(iou_bars({"CAM": report, "PW": other, "again": other}))
    assert three == str(replace(report.protocol, **varies))
    with pytest.raises(ValueError, match="same classes"):
        iou_bars({"CAM": report, **make_reports("VOC", classes=VOC_CLASSES)})
    with pytest.raises(ValueError, match="empty"):
        iou_bars({})


def test_steps_show_their_reports_and_what_the_protocols_share():
    steps = make_reports("logit", "softmax", "affinity")
    other = {
        name: replace(r, mean_iou=r.mean_iou / 2, protocol=replace(r.protocol, refinement="CRF"))
        for name, r in steps.items()
    }
    figure = step_bars({"raw": steps, "with CRF": other})
    raw, refined = bars_of(figure)
    height = 100 * steps["logit"].mean_iou
    assert [bar.get_height() for bar in raw] == pytest.approx([height] * 3)
    assert [bar.get_height() for bar in refined] == pytest.approx([height / 2] * 3)
    assert raw[0].get_hatch() != refined[0].get_hatch()
    assert raw[1].get_x() < refined[1].get_x() < raw[2].get_x()
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert numbers == {f"{height:.1f}", f"{height / 2:.1f}"}
    assert caption(figure) == str(replace(steps["logit"].protocol, refinement="varies"))
    assert f"with CRF: logit {height / 2:.1f}, softmax" in alt_text(figure)
    with pytest.raises(ValueError, match=r"'b' has the steps \['softmax'\], expected \['logit'"):
        step_bars({"a": steps, "b": {"softmax": steps["softmax"]}})
    for nothing in ({}, {"a": {}}):
        with pytest.raises(ValueError, match="series is empty"):
            step_bars(nothing)


def test_bars_of_differences_are_hatched_where_nothing_is_sure():
    good, bad = make_reports("x")["x"], make_reports("x", shift=4)["x"]
    result = compare_reports(bad, good)
    figure = show_difference(result, first="CAM", second="better")
    bars = figure.axes[0].patches
    known = result.by_class[np.isfinite(result.by_class)]
    heights = [bar.get_height() for bar in bars]
    np.testing.assert_allclose(heights, 100 * np.array([*known, result.difference]))
    assert not bars[-1].get_hatch() and f"mean {100 * result.difference:+.1f}." in alt_text(figure)
    assert "better minus CAM" in figure.axes[0].get_ylabel()
    same = show_difference(compare_reports(bad, bad), first="a", second="b")
    assert all(bar.get_hatch() for bar in same.axes[0].patches)
    assert "boat +0.0 (not sure)" in alt_text(same)


def test_tables_of_words_stand_left_and_texts_are_escaped_and_whole(tmp_path):
    long = "what <it> is & " * 9 + "so"
    tables = {
        "<words>": [["name", "a", "b"], ["x", "-1.5", long], ["y", "-", "3 of 4"]],
        "numbers": [["name", "a", "b"], ["x", "-1.5", "3 of 4"], ["y", "-", "3"]],
    }
    path = write_report(tmp_path / "r.html", title="<T>", reports={}, figures={}, tables=tables)
    page = path.read_text(encoding="utf-8")
    assert "<h2>&lt;words&gt;</h2>" in page and f"<td>{escape(long, quote=False)}</td>" in page
    assert re.findall(r'<table class="dataframe( words)?">', page) == [" words", ""]
    assert "<title>&lt;T&gt;</title>" in page and "<it>" not in page


def test_the_first_figure_leads_the_page_and_a_protocol_stands_once(tmp_path):
    figures = {name: new_figure(1, 1, alt=f'{name} in "words".') for name in ("masks", "bars")}
    reports = make_reports("maps", "<masks>")
    options = {"title": "T", "reports": reports, "notes": ["a note"], "beside": "f"}
    path = write_report(tmp_path / "r.html", figures=figures, **options)
    page, protocol = path.read_text(encoding="utf-8"), escape(str(reports["maps"].protocol))
    marks = ['<img alt="masks', "<table", "<details>", protocol, '<img alt="bars', "a note"]
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    assert page.count(protocol) == 1 and "maps, &lt;masks&gt;: " in page
    assert 'alt="masks in &#34;words&#34;."' in page
    assert (tmp_path / "f-1.png").read_bytes() == png_bytes(figures["masks"])
    assert base64.b64encode((tmp_path / "f-2.png").read_bytes()).decode() in page
