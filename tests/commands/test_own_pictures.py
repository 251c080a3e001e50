"""Images of one's own in one command: a page with maps and masks, or a sentence why not."""

import re

import pytest
import torch
from PIL import Image

from wsss_kit import commands
from wsss_kit.__main__ import main
from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.commands.photographs import LONGEST, run_own_images, shrunk
from wsss_kit.paperworld import PaperWorld


@pytest.fixture
def images(tmp_path):
    """Four images of the embedded world, one of them enlarged."""
    folder, world = tmp_path / "mine", PaperWorld(4, split="test")
    (folder / "masks").mkdir(parents=True)
    for number, sample in enumerate(world):
        pixels = (255 * sample.image).round().byte().movedim(0, -1).numpy()
        mask = world.masks[sample.name].byte().numpy()
        for name, array in ((f"p{number}.png", pixels), (f"masks/p{number}.png", mask)):
            side = 800 if number == 0 else 96
            image = Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST)
            image.save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_classes_by_name(images, tmp_path, capsys):
    words = ["demo", "--pictures", str(images), "--classes", "cow,boat", "--clip", "paper"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "report.html shows 4 images" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img alt=") == 3 and not re.search(r'(src|href)="(?!data:)', page)
    assert "what CLIP says of it" in page and "cow, boat" in page and "mIoU" not in page
    figures = sorted(p.name for p in (tmp_path / "out").glob("*.png"))
    assert figures == ["figure-1.png", "figure-2.png", "figure-3.png"]


def test_labels_and_masks_are_scored_at_their_own_size(images, tmp_path, capsys):
    rows, world = ["file,labels"], PaperWorld(4, split="test")
    for number, sample in enumerate(world):
        names = [n for n, on in zip(world.classes, sample.labels.tolist(), strict=True) if on]
        rows.append(f"p{number}.png,{';'.join(names)}")
    (images / "labels.csv").write_text("\n".join(rows))
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

    monkeypatch.setattr(commands, "load_clip", unreachable)
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
