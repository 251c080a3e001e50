"""What is wrong with data, weights and folders is said in one place: what arrived, what to do.

Every row damages a small VOC, or what lies beside it, and runs a command. It stops with status 2
and a message; where images fail one by one, the run goes on and lists them.
"""

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
from wsss_kit.files import load_model, save_model
from wsss_kit.methods.cam import CAM
from wsss_kit.paperworld import PaperWorld

MASKS = "masks w/cam --root voc --out out --device cpu"
SCORE = "evaluate pred --root voc --split val"
TRAIN = "train cam --root voc --out t --crop 32 --epochs 1 --device cpu"
TRAIN += " --backbone paper --weights web --preset clean"
RESUME = "train cam --out t --resume"
CLIMS = "train clims --data paper --limit 2 --out c"
SEGMENTER = "train segmenter --root voc --split val --masks pred --out s --crop 32 --epochs 1"
FROM = "masks --data paper --limit 1 --out o"
RUNS_AWAY = " --batch-size 1 --learning-rate 1e9"
SEGMENTER += " --network small --preset small --device cpu"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A VOC with a CAM for it and one for the embedded world, and a training of a CAM."""
    room = tmp_path_factory.mktemp("whole")
    voc = build_voc(room / "voc")
    data = {"cam": load_voc(voc, "train_aug"), "paper": PaperWorld(4, split="train")}
    for name, samples in data.items():
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
    monkeypatch.delenv("WSSS_KIT_FOLDER", raising=False)
    monkeypatch.chdir(tmp_path / "room")
    return tmp_path / "room"


# -- how it is damaged ----------------------------------------------------------------------


def text(path, content):
    return lambda: Path(path).write_text(content)


def cut(path, length):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:length])


def gone(path):
    return lambda: Path(path).unlink()


def predicted(size=(48, 64), value=1, names=("val_0", "val_1")):
    def damage():
        Path("pred").mkdir()
        for name in names:
            Image.fromarray(np.full(size, value, np.uint8)).save(f"pred/{name}.png")

    return damage


def nothing():
    """The command itself is wrong, or what it asks for is not there."""


def moments(name, *shape):
    def damage():
        tensors, card = load_model("t/checkpoint")
        save_model("t/checkpoint", {**tensors, f"optimiser.{name}": torch.ones(shape)}, card)

    return damage


def bare():
    for path in Path("voc/Annotations").iterdir():
        path.write_text("<annotation/>")


def pickled():
    torch.save({"a": torch.zeros(2)}, "w/x.pth")


LIST, IMAGE = "voc/ImageSets/Segmentation/train_aug.txt", "voc/JPEGImages/train_aug_1.jpg"
LABELS = "voc/Annotations/train_aug_1.xml"
DOGG = "<annotation><object><name>dogg</name></object></annotation>"
BROKEN = """from torch import nn
class Net(nn.Module):
    out_channels, forward = 6, lambda self, images: {}["lost"]"""
FORWARD = "train cam --data paper --limit 4 --preset clean --backbone b.py:Net --out n"
SHOWN = "demo --pictures voc/JPEGImages --out n --classes"
STOPS = [  # damage, command, message
    (nothing, MASKS.replace("voc", "nowhere"), "no VOC layout in"),
    (predicted((8, 8)), SCORE, "mask val_0 of pred is 8x8 pixels .* but its image is 48x64"),
    (predicted(value=99), SCORE, r"mask val_0 of pred has values \[99\], expected 0 or 1 to 20"),
    (predicted(names=["val_0"]), SCORE, "1 of 2 images have no predicted mask: val_1; predict th"),
    (predicted(), f"{SCORE} --out w/cam.safetensors", "a file that ends in .html"),
    (nothing, SCORE, "there is no pred, expected a folder or a file of masks"),
    (nothing, MASKS.replace("cam", "none"), "none.safetensors is missing; copy it"),
    (cut("w/cam.safetensors", 1000), MASKS, "cam.safetensors is no whole safetensors file; it is"),
    (nothing, MASKS.replace("cam", "paper"), "knows boat, train, plane, … and voc has aeroplane"),
    (pickled, MASKS.replace("w/cam", "w/x.pth"), "is a pickle, which can run code"),
    (nothing, f"{MASKS} --affinity w/cam", "is a card of CAM, expected one of AffinityNet"),
    (bare, TRAIN.replace("out t", "out n"), "none of the 4 images shows a class"),
    (nothing, TRAIN, "holds a training .* would be lost"),
    (nothing, TRAIN.replace("out t", "out n") + RUNS_AWAY, r"diverged in .*epoch \d+: "),
    (nothing, "train sc-cam --out t --resume", "a training of cam, and sc-cam is asked for"),
    (nothing, f"{RESUME} --seed 3", "a run with seed 0, and this one asks for 3"),
    (nothing, RESUME.replace("out t", "out n"), "has no config.json, so there is nothing to go"),
    (nothing, SEGMENTER.replace("--masks pred", ""), "no masks are given to learn from, .*--masks"),
    (nothing, "train affinity --root voc --masks none --out n", "there is no none, expected"),
    (text("t/config.json", '{"what"'), RESUME, "config.json is no card"),
    (text("t/config.json", '{"what": "cam", "colour": 3}'), RESUME, "no --colour, expected --data"),
    (cut("t/checkpoint.safetensors", 100), RESUME, "checkpoint.safetensors is no whole safetens"),
    (text(LIST, "train_aug_0\ntrain_aug_1\n"), RESUME, "a run with pictures 4, .* asks for 2"),
    (text(LABELS, DOGG.replace("dogg", "cat")), RESUME, "is a checkpoint of a run with data"),
    (moments("0.momentum_buffer", 7), RESUME, r"t/check.* optimiser.0 .* .7,.}, exp.* .24, 3, 5"),
    (moments("a.b.c", 7), RESUME, "t/checkpoint has optimiser.a .*, expected"),
    (moments("0.odd", 24, 3, 5, 5), RESUME, "t/checkpoint has optimiser.0 .*odd.*, expected"),
    (text("b.py", BROKEN), FORWARD, "b.py:Net failed .KeyError: 'lost'"),
    (predicted(names=["val_0"]), SEGMENTER, "there is no mask for 'val_1'; make a pseudo mask"),
    (predicted(value=99), SEGMENTER, "holds 99, expected 0 to 20 or 255|values .99., expected"),
    (predicted((9, 9)), SEGMENTER, "mask val_0 of pred is 9x9 pixels .* but its image is 48x64"),
    (nothing, f"{CLIMS} --prompts p.json", "no file p.json; write one with"),
    (nothing, f"{CLIMS} --start w/cam", "was made for 20 classes .* not for 8"),
    (nothing, "masks clip-es --data paper --affinity a --out n", "affinity is a; expected none"),
    (nothing, "masks clims --data paper --flip --out n", "flip belongs to a segmenter"),
    (nothing, f"{FROM} w/paper --threshold 0.4 --power 2", "expected exactly one of the two"),
    (nothing, "download pets --aug --out n", "aug belongs to voc"),
    (nothing, "check folder", "no folder data/mine; expected"),
    (nothing, "check cats", "the data set is 'cats', expected one of voc"),
    (nothing, "check pets --root voc", "no pets in"),
    (nothing, "reproduce clip-es/train/cfr", "there is no published row 'clip-es/train/cfr'"),
    (nothing, "reproduce clip-es/camvid --run", "no recipe for CamVid is published; expected an"),
    (nothing, "demo --pictures none --out n", "there is no folder"),
    (nothing, "demo --pictures voc --out n --classes cow", "holds no image"),
    (nothing, "demo --pictures voc/JPEGImages --out n", "no labels.csv, so say which classes"),
    (nothing, "demo --classes cow --out n", "--classes goes with --pictures"),
    (nothing, f"{SHOWN} background", "--classes has 'background', which is .* name only things"),
    (nothing, f"{SHOWN} {','.join(map(str, range(300)))}", "has 300 names, expected at most 254"),
    (nothing, f"{FROM} clip-es --backbone f.py:f", "takes no backbone; leave it out"),
    (nothing, f"{FROM} sc-cam --clip-weights none", "takes no clip-weights; leave it out"),
    (nothing, f"{FROM} clims --backbone f.py:f", "takes no backbone; leave it out"),
    (nothing, "train cam --out o epochs 3", r"^wsss_kit train: .*Unused Tokens: \['epochs', '3'\]"),
    (nothing, "train cam --out o --epochs --crop 3", "--epochs requires an argument"),
    (nothing, "train cam --out o --flip=perhaps", '--flip: unable to convert "perhaps" into bool'),
]
FAILS = [
    (text(LIST, "../../etc/passwd\ntrain_aug_0\n"), "passwd: FileNotFound"),
    (gone(IMAGE), "train_aug_1: FileNotFoundError: there is no image"),
    (cut(IMAGE, 300), "does not decode as an image: 300 bytes that begin"),
    (text(LABELS, "<annotation><obj"), "aug_1.xml is no whole XML .unclosed token"),
    (text(LABELS, '<?xml version="1.0" encoding="klingon"?><a/>'), "aug_1.xml is no whole XML"),
    (text(LABELS, DOGG), "_1.xml names an object 'dogg', no class of VOC; closest: 'dog'"),
    (gone(LABELS), "train_aug_1 has no annotation, expected"),
]


@pytest.mark.parametrize(("damage", "words", "message"), STOPS, ids=[row[-1] for row in STOPS])
def test_it_stops_and_says_why(damage, words, message, room, capsys):
    damage()
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert main(words.split()) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert _matches(message, printed), printed
    after = {path: path.read_bytes() for path in before}
    assert after == before  # nothing that was there has changed
    assert not Path("o").exists()


@pytest.mark.parametrize(("damage", "message"), FAILS, ids=[row[-1] for row in FAILS])
def test_it_goes_on_and_lists_it(damage, message, room, capsys):
    damage()
    assert main(MASKS.split()) == 0
    printed = capsys.readouterr().out
    assert "1 images have none" in printed and _matches(message, printed), printed
    (failed,) = (room / "out" / "failed").iterdir()
    assert not (room / "out" / "masks" / f"{failed.stem}.png").exists()
    assert len(list((room / "out" / "masks").iterdir())) == (1 if "passwd" in message else 3)


def test_a_run_without_a_mask_fails(room, capsys):
    for file in Path("voc/JPEGImages").iterdir():
        file.write_bytes(b"no image")
    assert main(MASKS.split()) == 1
    assert "holds 0 masks" in capsys.readouterr().out


def _matches(message, said):
    return re.search(message, " ".join(said.split())) is not None


LONGER = TRAIN.replace("epochs 1", "epochs 4").replace("out t", "out out")


@pytest.mark.parametrize(
    ("words", "again"), [(MASKS, MASKS), (LONGER, "train cam --out out --resume --device cpu")]
)
def test_a_disk_that_refuses_loses_nothing(words, again, room, capsys, monkeypatch):
    """The system's errors are made up: root may write anywhere, and the disk is not full."""
    written, left = os.replace, [3]

    def refuse(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return written(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", refuse)
        assert main(words.split()) == 2
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert not list(room.rglob(".*.tmp")) and not (room / "out" / "cam.safetensors").exists()
    assert (room / "out" / "checkpoint.safetensors").exists() == (words != again)
    assert main(again.split()) == 0
    assert main(words.replace("--out out", "--out whole").split()) == 0
    for path in sorted((room / "whole").rglob("*.*")):
        assert path.read_bytes() == (room / "out" / path.relative_to(room / "whole")).read_bytes()
