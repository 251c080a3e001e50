"""Images of one's own in one command: a page with maps and masks, or a sentence why not."""

import re
import shutil

import pytest
import torch
from PIL import Image

from tests.commands.voc_layout import build_own
from wsss_kit.__main__ import main
from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.commands.photographs import LONGEST, run_own_images, shrunk
from wsss_kit.paperworld import PaperWorld

FIRST = "test_0_000000.png"


@pytest.fixture
def images(tmp_path):
    """Four images of the embedded world, one of them enlarged."""
    folder = build_own(tmp_path / "mine", PaperWorld(4, split="test"))
    (folder / "labels.csv").rename(folder / "notes.txt")
    for path in (folder / FIRST, folder / "masks" / FIRST):
        Image.open(path).resize((800, 800), Image.Resampling.NEAREST).save(path)
    return folder


def test_classes_by_name(images, tmp_path, capsys):
    words = ["demo", "--pictures", str(images), "--classes", "cow,boat", "--clip", "paper"]
    shutil.copy(images / FIRST, (images / FIRST).with_suffix(".jpg"))  # another image of that stem
    for name in ("._p1.png", "c.png"):
        (images / name).write_bytes(b"\0\5\x16\7")
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "report.html shows 5 images" in said
    assert "c cannot be read" in said and "._p1" not in said
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img alt=") == 3 and not re.search(r'(src|href)="(?!data:)', page)
    assert "what CLIP says of it" in page and "cow, boat" in page and "mIoU" not in page
    figures = sorted(p.name for p in (tmp_path / "out").glob("*.png"))
    assert figures == ["figure-1.png", "figure-2.png", "figure-3.png"]


def test_labels_and_masks_are_scored_at_their_own_size(images, tmp_path, capsys):
    (images / "notes.txt").rename(images / "labels.csv")
    options = {"classes": PAPER_CLASSES, "clip": "paper", "device": "cpu"}
    page = run_own_images(images, tmp_path / "out", **options)
    message = capsys.readouterr().out
    assert "CLIP-ES, CRF: own images all, 4 images" in message
    means = [float(m) for m in re.findall(r"(\d+\.\d) \[", message)]
    assert len(means) == 2 and means[1] > 40  # the tiny CLIP knows paper
    assert "dense CRF" in page.read_text(encoding="utf-8")


def test_where_weights_come_from_without_a_network_is_said(images, tmp_path, capsys, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("open_clip.create_model", unreachable)
    monkeypatch.chdir(tmp_path)
    words = ["demo", "--out", str(tmp_path / "out"), "--pictures", str(images)]
    assert main([*words, "--classes", "cow"]) == 2
    message = capsys.readouterr().err
    assert "ViT-B-16-quickgelu could not be fetched (no route to host)" in message
    assert "put ViT-B-16.pt (https://openaipublic" in message
    assert f"there as {tmp_path / 'data' / 'weights' / 'ViT-B-16.pt'}, or name a" in message
    assert not (tmp_path / "out" / "report.html").exists()


def test_large_images_are_shown_smaller():
    image = torch.rand(3, 300, 1200)
    small = shrunk(image)
    assert small.shape == (3, 125, LONGEST) and 0 <= small.min() and small.max() <= 1
    assert shrunk(image[:, :, :400]).shape == (3, 300, 400)
