"""The page of a run: tables that add up, and nothing that it needs beside itself."""

from __future__ import annotations

import base64
import re
from html import escape

import pytest
import torch

from wsss_kit.classes import Sample
from wsss_kit.evaluation import Protocol, compare_reports, evaluate, published
from wsss_kit.plot import new_figure
from wsss_kit.plot.canvas import png_bytes
from wsss_kit.plot.page import write_report
from wsss_kit.plot.run_page import Run, write_run

CLASSES = ("cow", "camel", "cat")


@pytest.fixture
def run(rng):
    """Two steps on six pictures, the second better."""
    target = {f"p{i}": torch.randint(0, 4, (8, 9), generator=rng) for i in range(6)}
    noise = {n: torch.rand(m.shape, generator=rng) for n, m in target.items()}
    masks = {
        step: {n: torch.where(noise[n] < share, 1, m) for n, m in target.items()}
        for step, share in (("maps", 0.5), ("<masks>", 0.2))
    }
    options = {"classes": CLASSES, "protocol": Protocol("VOC 2012", "train"), "boundary": 0}
    reports = {step: evaluate(found, target, **options) for step, found in masks.items()}
    samples = [Sample(n, torch.zeros(3, 8, 9), torch.ones(3)) for n in target]
    return Run(reports, masks, samples, target, losses=[2.0, 1.0], notes=["a note & more"])


def cells(page, caption):
    """Rows of the table below a heading."""
    table = re.search(rf"<h2>{re.escape(caption)}</h2>(.*?)</table>", page, re.DOTALL).group(1)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in table.split("</tr>")[:-1]]


def test_the_tables_of_a_run_say_what_each_step_gained(run, tmp_path):
    path = write_run(tmp_path / "r.html", run, title="A run", row=published("clip-es/train/crf"))
    page = path.read_text(encoding="utf-8")
    found = compare_reports(*run.reports.values())
    (gain,) = cells(page, "What each step gained, the same pictures paired")[1:]
    assert gain[:2] == ["maps to &lt;masks&gt;", f"{100 * found.difference:+.1f}"]
    assert gain[3:] == [str(found.better), str(found.worse)]
    kinds = cells(page, "What each kind of error takes, mean over the classes, in points")
    for (_, *numbers), report in zip(kinds[1:], run.reports.values(), strict=True):
        assert sum(map(float, numbers)) == pytest.approx(100, abs=0.3)
        assert float(numbers[-1]) == pytest.approx(100 * report.mean_iou, abs=0.05)
    sources = cells(page, "The 12 largest errors of the last step")
    assert sources[0][:3] == ["class", "kind", "with"] and 1 < len(sources) <= 13
    rows = cells(page, "Ours beside what is published, percent")
    assert rows[1][0] == "clip-es/train/crf" and "n_images: 6, there 1464" in rows[1][-1]
    assert "a note &amp; more" in page and "few pictures" in page
    assert len(re.findall(r'<img alt="[^"]{20,}" src="data:image/png', page)) == 6
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_steps_on_other_pictures_are_not_paired(run, tmp_path):
    few = {name: run.target[name] for name in list(run.target)[:3]}
    options = {"classes": CLASSES, "protocol": Protocol("VOC 2012", "val")}
    other = {**run.reports, "segmenter": evaluate(few, few, **options)}
    masks = {**run.masks, "segmenter": few}
    some = run._replace(reports=other, masks=masks, samples=run.samples[:3], losses=[])
    page = write_run(tmp_path / "r.html", some, title="A run").read_text(encoding="utf-8")
    assert len(cells(page, "What each step gained, the same pictures paired")) == 2
    assert "class by class" not in page and "published" not in page


def test_one_step_alone_has_a_page_and_none_has_not(run, tmp_path):
    one = run._replace(reports={"maps": run.reports["maps"]}, masks={}, losses=[])
    page = write_run(tmp_path / "r.html", one, title="One").read_text(encoding="utf-8")
    assert "What each step gained" not in page and page.count("<img") == 2
    with pytest.raises(ValueError, match="reports is empty, expected at least one step"):
        write_run(tmp_path / "r.html", run._replace(reports={}), title="None")


def test_tables_of_words_stand_left_and_texts_are_escaped_and_whole(run, tmp_path):
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


def test_the_first_figure_leads_the_page_and_a_protocol_stands_once(run, tmp_path):
    figures = {name: new_figure(1, 1, alt=f'{name} in "words".') for name in ("masks", "bars")}
    page = write_report(
        tmp_path / "r.html",
        title="T",
        reports=run.reports,
        figures=figures,
        notes=["a note"],
        beside="f",
    ).read_text(encoding="utf-8")
    (protocol,) = {str(report.protocol) for report in run.reports.values()}
    marks = ['<img alt="masks', "<table", "<details>", escape(protocol), '<img alt="bars', "a note"]
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    assert page.count(escape(protocol)) == 1 and "maps, &lt;masks&gt;: " in page
    assert 'alt="masks in &#34;words&#34;."' in page
    assert (tmp_path / "f-1.png").read_bytes() == png_bytes(figures["masks"])
    assert base64.b64encode((tmp_path / "f-2.png").read_bytes()).decode() in page
