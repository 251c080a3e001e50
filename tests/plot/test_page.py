"""A page of tables and figures."""

from __future__ import annotations

import base64
import re
from html import escape

import pytest
import torch

from wsss_kit.evaluation import Protocol, evaluate
from wsss_kit.plot import new_figure
from wsss_kit.plot.canvas import png_bytes
from wsss_kit.plot.page import write_report

CLASSES = ("cow", "camel", "cat")


@pytest.fixture
def reports(rng):
    """Two steps on six images, the second better."""
    target = {f"p{i}": torch.randint(0, 4, (8, 9), generator=rng) for i in range(6)}
    noise = {n: torch.rand(m.shape, generator=rng) for n, m in target.items()}
    masks = {
        step: {n: torch.where(noise[n] < share, 1, m) for n, m in target.items()}
        for step, share in (("maps", 0.5), ("<masks>", 0.2))
    }
    options = {"classes": CLASSES, "protocol": Protocol("VOC 2012", "train"), "boundary": 0}
    return {step: evaluate(result, target, **options) for step, result in masks.items()}


def cells(page, caption):
    """Rows of the table below a heading."""
    table = re.search(rf"<h2>{re.escape(caption)}</h2>(.*?)</table>", page, re.DOTALL).group(1)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in table.split("</tr>")[:-1]]


def test_tables_of_words_stand_left_and_texts_are_escaped_and_whole(reports, tmp_path):
    long = "what <it> is & " * 9 + "so"
    tables = {
        "<words>": [["name", "a", "b"], ["x", "-1.5", long], ["y", "-", "3 of 4"]],
        "numbers": [["name", "a", "b"], ["x", "-1.5", "3 of 4"], ["y", "-", "3"]],
    }
    page = write_report(
        tmp_path / "r.html", title="<T>", reports={}, figures={}, tables=tables
    ).read_text(encoding="utf-8")
    assert cells(page, "&lt;words&gt;")[1:] == [
        ["x", "-1.5", escape(long, quote=False)],
        ["y", "-", "3 of 4"],
    ]
    assert re.findall(r'<table class="dataframe( words)?">', page) == [" words", ""]
    assert "<title>&lt;T&gt;</title>" in page and "<it>" not in page


def test_the_first_figure_leads_the_page_and_a_protocol_stands_once(reports, tmp_path):
    figures = {name: new_figure(1, 1, alt=f'{name} in "words".') for name in ("masks", "bars")}
    page = write_report(
        tmp_path / "r.html",
        title="T",
        reports=reports,
        figures=figures,
        notes=["a note"],
        beside="f",
    ).read_text(encoding="utf-8")
    (protocol,) = {str(report.protocol) for report in reports.values()}
    marks = ['<img alt="masks', "<table", "<details>", escape(protocol), '<img alt="bars', "a note"]
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    assert page.count(escape(protocol)) == 1 and "maps, &lt;masks&gt;: " in page
    assert 'alt="masks in &#34;words&#34;."' in page
    assert (tmp_path / "f-1.png").read_bytes() == png_bytes(figures["masks"])
    assert base64.b64encode((tmp_path / "f-2.png").read_bytes()).decode() in page
