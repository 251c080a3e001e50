"""Masks on disk, scored: with the protocol that lies beside them, and a page."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.commands.voc_layout import build_voc
from wsss_kit.__main__ import main
from wsss_kit.commands.evaluate import run_evaluate
from wsss_kit.commands.generate import write_masks
from wsss_kit.data import load_voc
from wsss_kit.evaluation import evaluate
from wsss_kit.paperworld import PaperWorld

MADE = {"method": "brightness", "background": "constant 0.3", "refinement": "none"}


def recipe(images, labels):
    """What is dark belongs to the picture's first class."""
    return (images.mean(1) < 0.4).long() * (1 + labels.argmax(1))[:, None, None]


@pytest.fixture
def paper(tmp_path):
    world = PaperWorld(4, split="train")
    write_masks(world, recipe, tmp_path / "out", made_by=MADE, shown=False)
    return tmp_path / "out", world


def test_the_protocol_comes_from_the_folder(paper, capsys):
    folder, world = paper
    report = run_evaluate(folder, data="paper", limit=4)
    masks = {s.name: recipe(s.image[None], s.labels[None])[0] for s in world}
    expected = evaluate(masks, world.masks, classes=world.classes, protocol=report.protocol)
    assert report.mean_iou == expected.mean_iou and report.stuff is not None
    assert report.protocol.background == "constant 0.3" and report.protocol.split == "train"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "brightness on PaperWorld train" in page and "spills onto" in page
    assert "mIoU" in capsys.readouterr().out


def test_a_folder_of_masks_of_anybody_beside_a_published_number(tmp_path, capsys):
    voc = build_voc(tmp_path / "VOC2012")
    own = tmp_path / "own"
    shutil.copytree(voc / "SegmentationClass", own)
    arguments = ["evaluate", str(own), "--root", str(voc), "--split", "train"]
    page = tmp_path / "page.html"
    assert main([*arguments, "--row", "clip-es/train/crf", "--out", str(page)]) == 0
    assert "mIoU 100.0 %" in capsys.readouterr().out
    assert "Ours beside what is published" in page.read_text(encoding="utf-8")


def test_what_is_missing_is_said(tmp_path, capsys):
    voc = build_voc(tmp_path / "VOC2012")
    arguments = ["evaluate", str(tmp_path / "no"), "--root", str(voc), "--split", "val"]
    assert main(arguments) == 2 and "there is no folder" in capsys.readouterr().err
    (tmp_path / "no").mkdir()
    assert main(arguments) == 2
    assert "2 of 2 pictures have no predicted mask" in capsys.readouterr().err
    assert main([*arguments, "--row", "x"]) == 2
    assert "there is no published row 'x'" in capsys.readouterr().err
    (voc / "JPEGImages" / "val_1.jpg").unlink()
    flat = lambda images, labels: torch.zeros(len(images), *images.shape[2:]).long()  # noqa: E731
    write_masks(load_voc(voc, "val"), flat, tmp_path / "out", made_by=MADE, shown=False)
    assert main(["evaluate", str(tmp_path / "out"), *arguments[2:]]) == 2
    assert "1 of 2 pictures have no mask, the first is 'val_1'" in capsys.readouterr().err
    shutil.rmtree(voc / "SegmentationClass")
    assert main(arguments) == 2 and "has no ground truth here" in capsys.readouterr().err
