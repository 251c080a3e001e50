"""The first command: it ends, it writes what it says, and it says the same thing twice."""

from __future__ import annotations

import re
from threading import Event

import pytest
import torch

from wsss_kit.__main__ import main
from wsss_kit.commands.demo import _Remembered, run_demo
from wsss_kit.evaluation.report import percent
from wsss_kit.plot.reports import rows_of, table_text, write_report

SMALL = {"n_train": 16, "n_val": 4, "n_test": 5}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(folder, **SMALL)


def test_the_demo_writes_a_page_that_needs_nothing_beside_itself(demo):
    folder, reports = demo
    page = (folder / "report.html").read_text(encoding="utf-8")
    methods = ("CAM", "SC-CAM", "CLIMS", "CLIP-ES")
    assert list(reports) == [name for m in methods for name in (f"{m}, no CRF", m)]
    for name, report in reports.items():
        assert name in page and f"{100 * report.mean_iou:.1f} [" in page
        assert ("dense CRF" in str(report.protocol)) == ("no CRF" not in name)
        assert "5 images" in str(report.protocol) and "chosen on 4 val" in str(report.protocol)
    images = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', page)
    assert len(images) == 7 and all(len(alt) > 20 for alt in images)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert len(list(folder.glob("figure-*.png"))) == 7


@pytest.mark.parametrize(("seed", "equal"), [(0, True), (1, False)])
def test_the_seed_decides_the_table(seed, equal, demo, tmp_path, monkeypatch):
    monkeypatch.setattr("wsss_kit.commands.demo._figures", lambda *_: {})
    again = run_demo(tmp_path, seed=seed, **SMALL)
    assert (table_text(again) == table_text(demo[1])) == equal


def test_the_table_has_methods_by_classes(demo):
    _, reports = demo
    heading, *rows = rows_of(reports)
    assert heading[1:10] == ["background", "boat", "train", "plane", "bus", "cow", "camel",
                             "bird", "cat"]  # fmt: skip
    for row, report in zip(rows, reports.values(), strict=True):
        assert row[1:10] == [percent(v) for v in report.iou]
        assert row[-1].startswith(f"{100 * report.mean_iou:.1f} [")


def test_a_page_that_cannot_be_written_leaves_the_old_one(demo, tmp_path, monkeypatch):
    _, reports = demo
    page = tmp_path / "report.html"
    page.write_text("old")
    monkeypatch.setattr("os.replace", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(page, title="new", reports=reports, figures={})
    assert page.read_text() == "old" and list(tmp_path.iterdir()) == [page]


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def test_the_command_line_says_what_is_wrong_without_a_traceback(capsys, tmp_path):
    assert main(["baseline", "--data", "voc", "--root", str(tmp_path / "nowhere")]) == 2
    message = capsys.readouterr().err
    assert "nowhere" in message and "JPEGImages" in message and "Traceback" not in message


def test_maps_are_made_once_and_no_more_once_stopped():
    calls, stopped = [], Event()
    remembered = _Remembered(lambda *batch: calls.append(batch) or batch[1].clone(), stopped)
    images, labels = torch.rand(2, 3, 4, 4), torch.ones(2, 8)
    first = remembered(images, labels)
    assert remembered(images.clone(), labels) is first and len(calls) == 1
    assert remembered(1 - images, labels) is not first and len(calls) == 2
    stopped.set()
    with pytest.raises(RuntimeError, match="stopped"):
        remembered(images, labels)


def test_what_fails_in_one_method_ends_the_demo_and_leaves_the_threads_as_they_were(
    tmp_path, monkeypatch
):
    def fails():
        raise RuntimeError("no CLIP today")

    monkeypatch.setattr("wsss_kit.commands.demo._clip_es", fails)
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no CLIP today"):
        run_demo(tmp_path, **SMALL)
    assert torch.get_num_threads() == threads
