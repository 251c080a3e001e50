"""Images of one's own in one command: a page with maps and masks, or a sentence why not."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from wsss_kit.__main__ import main
from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.commands import resources as weights
from wsss_kit.commands.photographs import LONGEST, run_own_images, shrunk
from wsss_kit.paperworld import PaperWorld


@pytest.fixture
def images(tmp_path):
    """Four images of the embedded world, one of them enlarged, without labels."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, sample in enumerate(PaperWorld(4, split="test")):
        pixels = (255 * sample.image).round().byte().movedim(0, -1).numpy()
        image = Image.fromarray(pixels)
        if number == 0:
            image = image.resize((800, 800))
        image.save(folder / f"p{number}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def labelled(folder):
    world = PaperWorld(4, split="test")
    rows = ["file,labels"]
    (folder / "masks").mkdir()
    for number, sample in enumerate(world):
        names = [n for n, on in zip(world.classes, sample.labels.tolist(), strict=True) if on]
        rows.append(f"p{number}.png,{';'.join(names)}")
        mask = Image.fromarray(world.masks[sample.name].byte().numpy())
        size = Image.open(folder / f"p{number}.png").size
        mask.resize(size, Image.Resampling.NEAREST).save(folder / "masks" / f"p{number}.png")
    (folder / "labels.csv").write_text("\n".join(rows))


def test_classes_by_name(images, tmp_path, capsys):
    words = ["demo", "--pictures", str(images), "--classes", "cow,boat", "--clip", "paper"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "report.html shows 4 images" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img alt=") == 3 and not re.search(r'(src|href)="(?!data:)', page)
    assert "what CLIP says of it" in page and "cow, boat" in page and "mIoU" not in page
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [
        f"figure-{n}.png" for n in (1, 2, 3)
    ]


def test_labels_and_masks_are_scored_at_their_own_size(images, tmp_path, capsys):
    labelled(images)
    options = {"classes": PAPER_CLASSES, "clip": "paper", "device": "cpu"}
    page = run_own_images(images, tmp_path / "out", **options)
    message = capsys.readouterr().out
    assert "CLIP-ES, CRF: own images all, 4 images" in message
    means = [float(m) for m in re.findall(r"(\d+\.\d) \[", message)]
    assert len(means) == 2 and means[1] > 40  # the tiny CLIP knows paper
    assert "dense CRF" in page.read_text(encoding="utf-8")


def test_what_is_missing_is_said(images, tmp_path, capsys, monkeypatch):
    words = ["demo", "--out", str(tmp_path / "out"), "--pictures"]

    def refused(*more):
        assert main([*words, *more]) == 2
        return capsys.readouterr().err

    assert "there is no folder" in refused(str(tmp_path / "none"))
    assert "has no labels.csv, so say which classes to look for" in refused(str(images))
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(str(tmp_path / "empty"))

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(weights, "load_clip", unreachable)
    monkeypatch.chdir(tmp_path)
    message = refused(str(images), "--classes", "cow")
    assert "CLIP ViT-B-16 could not be fetched (no route to host)" in message
    assert "put OpenAI's file (https://openaipublic" in message and "ViT-B-16.pt" in message
    assert "The embedded world needs no weights: python -m wsss_kit demo" in message
    assert not (tmp_path / "out" / "report.html").exists()
    assert main(["demo", "--classes", "cow", "--out", str(tmp_path / "out")]) == 2
    assert "--classes goes with --pictures" in capsys.readouterr().err


def test_large_images_are_shown_smaller():
    image = torch.rand(3, 300, 1200)
    small = shrunk(image)
    assert small.shape == (3, 125, LONGEST) and 0 <= small.min() and small.max() <= 1
    assert shrunk(image[:, :, :400]).shape == (3, 300, 400)
