"""What is wrong with data, weights and folders is said in one place: what arrived, what to do.

Every row damages a small VOC, or what lies beside it, and runs a command. It stops with status 2
and a message; where images fail one by one, the run goes on and lists them.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.voc_layout import build_voc
from wsss_kit import files
from wsss_kit.__main__ import main
from wsss_kit.data import load_voc
from wsss_kit.methods.cam import CAM
from wsss_kit.paperworld import PaperWorld

MASKS = "masks w/cam --root voc --out out --device cpu"
SCORE = "evaluate pred --root voc --split val"
TRAIN = "train cam --root voc --out t --crop 32 --epochs 1 --device cpu"
TRAIN += " --backbone paper --weights web --preset clean"
RESUME = "train cam --out t --resume"
CLIMS = "train clims --data paper --limit 2 --out c"
SEGMENTER = "train segmenter --root voc --split val --masks pred --out s --crop 32 --epochs 1"
SEGMENTER += " --network small --preset small --device cpu"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A VOC with a CAM for it and one for the embedded world, and a training of a CAM."""
    room = tmp_path_factory.mktemp("whole")
    voc = build_voc(room / "voc")
    for name, samples in (
        ("cam", load_voc(voc, "train_aug")),
        ("paper", PaperWorld(4, split="train")),
    ):
        cam = CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")
        cam.fit(samples, train_backbone=False, epochs=1, progress=False).save(room / "w" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        assert main(TRAIN.split()) == 0
    return room


@pytest.fixture
def room(whole, tmp_path, monkeypatch):
    """A copy of it to damage, which commands run in."""
    shutil.copytree(whole, tmp_path / "room")
    monkeypatch.chdir(tmp_path / "room")
    return tmp_path / "room"


# -- how it is damaged ----------------------------------------------------------------------


def text(path, content):
    return lambda: Path(path).write_text(content)


def cut(path, length):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:length])


def gone(path):
    return lambda: Path(path).unlink()


def drawn(path, size=(48, 64), value=0):
    return lambda: Image.fromarray(np.full(size, value, np.uint8)).save(path)


def predicted(size=(48, 64), value=1, names=("val_0", "val_1"), then=None):
    def damage():
        Path("pred").mkdir()
        for name in names:
            drawn(f"pred/{name}.png", size, value)()
        if then is not None:
            then()

    return damage


def nothing():
    """The command itself is wrong, or what it asks for is not there."""


def bare():
    for path in Path("voc/Annotations").iterdir():
        path.write_text("<annotation/>")


def pickled():
    torch.save({"a": torch.zeros(2)}, "w/x.pth")


LIST, IMAGE = "voc/ImageSets/Segmentation/train_aug.txt", "voc/JPEGImages/train_aug_1.jpg"
LABELS, TRUTH = "voc/Annotations/train_aug_1.xml", "voc/SegmentationClass/val_1.png"
UNICORN = "<annotation><object><name>unicorn</name></object></annotation>"
STOPS = {
    "no data": (nothing, MASKS.replace("voc", "nowhere"), "no VOC layout in"),
    "no split": (
        nothing,
        f"{MASKS} --split no",
        "no split 'no' .* the splits there are: test, tra",
    ),
    "empty list": (text(LIST, ""), MASKS, "train_aug.txt is empty, expected one image id a line"),
    "no truth": (predicted(then=gone(TRUTH)), SCORE, "image val_1 has no mask, expected"),
    "truth of another size": (
        *(predicted(then=drawn(TRUTH, (8, 8))), SCORE),
        "val_1.png is 8x8 pixels .* EXIF rotation counted",
    ),
    "truth in colours": (
        *(predicted(then=drawn(TRUTH, (48, 64, 3), 77)), SCORE),
        "outside PASCAL VOC's palette, first RGB .77, 77, 77.",
    ),
    "mask of another size": (
        *(predicted((8, 8)), SCORE),
        r"'val_0': predicted has shape \(8, 8\) and target \(48, 64\)",
    ),
    "mask with a value": (predicted(value=99), SCORE, "'val_0': predicted holds 99 at .0, "),
    "mask of one image": (
        *(predicted(names=["val_0"]), SCORE),
        "1 of 2 images have no predicted mask: val_1; predict them too",
    ),
    "no masks": (nothing, SCORE, "there is no folder pred, expected one of NAME.png"),
    "no weights": (nothing, MASKS.replace("cam", "none"), "none.safetensors is missing; copy it"),
    "weights cut off": (
        *(cut("w/cam.safetensors", 1000), MASKS),
        "cam.safetensors is no whole safetensors file; it is truncated",
    ),
    "weights of other classes": (
        *(nothing, MASKS.replace("cam", "paper")),
        "knows boat, train, plane, … and voc has aeroplane",
    ),
    "a pickle": (pickled, MASKS.replace("w/cam", "w/x.pth"), "is a pickle, which can run code"),
    "an affinity that is none": (
        *(nothing, f"{MASKS} --affinity w/cam"),
        "is a card of CAM, expected one of AffinityNet",
    ),
    "no labels": (bare, TRAIN.replace("out t", "out n"), "none of the 4 images shows a class"),
    "a training there": (nothing, TRAIN, "holds a training .* would be lost"),
    "settings cut off": (text("t/config.json", '{"what"'), RESUME, "config.json is no card"),
    "settings of nobody": (
        *(text("t/config.json", '{"what": "cam", "colour": 3}'), RESUME),
        "cam takes no --colour, expected --data, --root",
    ),
    "a checkpoint cut off": (
        *(cut("t/checkpoint.safetensors", 100), RESUME),
        "checkpoint.safetensors is no whole safetensors file; it is truncated",
    ),
    "other data than before": (
        *(text(LIST, "train_aug_0\ntrain_aug_1\n"), RESUME),
        "a run with pictures 4, and this one asks for 2",
    ),
    "labels other than before": (
        *(text(LABELS, UNICORN.replace("unicorn", "cat")), RESUME),
        "is a checkpoint of a run with data",
    ),
    "a pupil without a mask": (
        *(predicted(names=["val_0"]), SEGMENTER),
        "there is no mask for 'val_1'; make a pseudo mask",
    ),
    "a pupil with a value": (
        *(predicted(value=99), SEGMENTER),
        "holds 99, expected 0 to 20 or 255|values .99., expected",
    ),
    "a pupil of another size": (
        *(predicted((9, 9)), SEGMENTER),
        r"has 48x64 pixels and a mask of shape \(9, 9\)",
    ),
    "prompts that are none": (
        *(text("p.json", '{"classes": 3}'), f"{CLIMS} --prompts p.json"),
        "p.json: no backgrounds, no template; expected classes",
    ),
    "no prompts": (nothing, f"{CLIMS} --prompts p.json", "no file p.json; write one with"),
    "a start of other classes": (
        *(nothing, f"{CLIMS} --start w/cam"),
        "was trained for 20 classes .* not for 8",
    ),
}
FAILS = {
    "a name that leaves": (text(LIST, "../../etc/passwd\ntrain_aug_0\n"), "passwd: FileNotFound"),
    "no image": (gone(IMAGE), "train_aug_1: FileNotFoundError: there is no image"),
    "image cut off": (cut(IMAGE, 300), "does not decode as an image: 300 bytes that begin"),
    "labels cut off": (text(LABELS, "<annotation><obj"), "is no whole XML .unclosed token"),
    "unknown class": (text(LABELS, UNICORN), "names an object 'unicorn', no class of VOC"),
    "no labels of one": (gone(LABELS), "train_aug_1 has no annotation, expected"),
}


@pytest.mark.parametrize("what", STOPS)
def test_it_stops_and_says_why(what, room, capsys):
    damage, words, message = STOPS[what]
    damage()
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert main(words.split()) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert _matches(message, printed), printed
    after = {path: path.read_bytes() for path in before}
    assert after == before  # nothing that was there has changed


@pytest.mark.parametrize("what", FAILS)
def test_it_goes_on_and_lists_it(what, room, capsys):
    damage, message = FAILS[what]
    damage()
    assert main(MASKS.split()) == 0
    printed = capsys.readouterr().out
    assert "1 images have none" in printed and _matches(message, printed), printed
    (failed,) = (room / "out" / "failed").iterdir()
    assert not (room / "out" / "masks" / f"{failed.stem}.png").exists()
    assert len(list((room / "out" / "masks").iterdir())) == (1 if "leaves" in what else 3)


def _matches(message, said):
    return re.search(message, " ".join(said.split())) is not None


@pytest.mark.parametrize("words", [MASKS, TRAIN.replace("out t", "out t2")])
def test_a_disk_that_refuses_loses_nothing(words, room, capsys, monkeypatch):
    """The system's errors are made up: root may write anywhere, and the disk is not full."""
    written, left = os.replace, [5]

    def refuse(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return written(source, target)

    longer = words.replace("--epochs 1", "--epochs 4")
    monkeypatch.setattr(files.os, "replace", refuse)
    assert main(longer.split()) == 2
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert not list(room.rglob(".*.tmp"))
    monkeypatch.setattr(files.os, "replace", written)
    assert main([*longer.split(), *["--resume"] * ("train" in words)]) == 0
    whole = longer.replace("--out out", "--out again").replace("--out t2", "--out again")
    assert main(whole.split()) == 0
    folder = room / ("out" if "masks" in words else "t2")
    for path in sorted((room / "again").rglob("*.*")):
        assert path.read_bytes() == (folder / path.relative_to(room / "again")).read_bytes()
