"""The first command: it ends, it writes what it says, and it says the same thing twice."""

import re

import pytest
import torch

from wsss_kit.commands.demo import run_demo
from wsss_kit.plot.reports import table_text

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


def test_equal_seeds_give_equal_tables(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("wsss_kit.commands.demo._figures", lambda *_: {})
    assert table_text(run_demo(tmp_path, **SMALL)) == table_text(demo[1])


def test_the_seed_is_that_of_the_images_and_of_the_classifier(tmp_path, monkeypatch):
    def score_all(makers, val, test):
        assert (val.seed, test.seed) == (3, 3)
        train, seed = makers["CAM"].args
        assert (train.seed, seed) == (3, 3)
        raise RuntimeError("enough")

    monkeypatch.setattr("wsss_kit.commands.demo._score_all", score_all)
    with pytest.raises(RuntimeError, match="enough"):
        run_demo(tmp_path, seed=3, **SMALL)


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
