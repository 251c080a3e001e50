"""Methods, data sets and backbones of one's own on the command line; mIoU while training."""

import csv
import json

import pytest
import torch
from torch.nn import functional as F

from wsss_kit.commands import read_masks
from wsss_kit.commands.line import main
from wsss_kit.commands.train_method import train_method
from wsss_kit.evaluation import BackgroundRule, ConfusionMatrix, sweep_background
from wsss_kit.methods.cam import CAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.segmentation import Segmenter

MINE = """
import torch
from torch import nn
from wsss_kit import CAMMethod, MethodOutput, PaperWorld
from wsss_kit.data import LazySamples

class Dark(CAMMethod):
    def forward(self, images, labels):
        return MethodOutput((1 - images.mean(1, keepdim=True)) * labels[:, :, None, None])

class Trunk(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.out_channels = 8

def world(split):
    made = PaperWorld(6, split=split or "train")
    at = {name: i for i, name in enumerate(made.names)}
    readers = {"image": lambda n: made[at[n]].image, "labels": lambda n: made[at[n]].labels}
    return LazySamples(made.names, **readers, classes=made.classes, split=made.split,
                       masks=made.masks)

def broken():
    return [1, 2]
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_method_and_a_data_set_of_ones_own(mine, capsys):
    words = ["masks", "mine.py:Dark", "--data", "mine.py:world", "--out", "dark"]
    assert main(words) == 0
    written, world = read_masks("dark").masks, PaperWorld(6, split="train")
    assert list(written) == list(world.names)
    for sample in world:
        dark = (1 - sample.image.mean(0)) * sample.labels[:, None, None]
        scores = torch.cat([torch.full_like(dark[:1], 0.15), dark])
        assert torch.equal(written[sample.name], scores.argmax(0))
    assert main(["evaluate", "dark", "--data", "mine.py:world"]) == 0
    assert "own data train, 6 images" in capsys.readouterr().out
    (mine / "mine.py").write_text(MINE.replace("1 - images", "0.9 - images"))
    assert main(words) == 2  # another method, the same folder
    assert "holds masks that were made otherwise" in capsys.readouterr().err
    for words, problem in (
        (["masks", "mine.py:broken", "--data", "paper"], "made list, expected a CAMMethod"),
        (["masks", "clip-es", "--data", "mine.py:broken"], "returned list, expected LazySamples"),
        (["masks", "clip-es", "--data", "nothing"], "the data set is 'nothing', expected one of"),
    ):
        assert main([*words, "--out", "other"]) == 2
        assert problem in capsys.readouterr().err


HELPED = """
from helper import SCALE
from wsss_kit import CAMMethod, MethodOutput

class Grey(CAMMethod):
    def forward(self, images, labels):
        return MethodOutput(SCALE * images.mean(1, keepdim=True) * labels[:, :, None, None])
"""


def test_modules_beside_the_file_belong_to_it(mine, capsys):
    for folder, scale in (("bright", 1), ("none", 0)):
        (mine / folder).mkdir()
        (mine / folder / "own.py").write_text(HELPED)
        (mine / folder / "helper.py").write_text(f"SCALE = {scale}")
    words = "masks {0}/own.py:Grey --data paper --limit 2 --out made-{0}".format
    for folder in ("bright", "none"):  # in one process, as compare runs methods
        assert main(words(folder).split()) == 0
    masks = {folder: read_masks(f"made-{folder}").masks for folder in ("bright", "none")}
    assert all(mask.any() for mask in masks["bright"].values())
    assert not any(mask.any() for mask in masks["none"].values())
    (mine / "none" / "helper.py").write_text("SCALE = 0.5")
    assert main(words("none").split()) == 2  # its code is another now
    assert "holds masks that were made otherwise" in capsys.readouterr().err


def test_other_images_of_ones_own_data_set_are_not_taken_for_done(mine, capsys):
    text = MINE.replace("def world(split)", "def world(split, root)")
    (mine / "mine.py").write_text(
        text.replace("made[at[n]].image", "made[at[n]].image * float(root)")
    )
    words = ["masks", "mine.py:Dark", "--data", "mine.py:world", "--out", "dark"]
    assert main([*words, "--root", "0.5"]) == main([*words, "--root", "1"]) == 0
    again, fresh = read_masks("dark").masks, PaperWorld(6, split="train")
    assert main([*words[:-1], "fresh", "--root", "1"]) == 0
    assert all(torch.equal(again[name], read_masks("fresh").masks[name]) for name in fresh.names)


def test_labels_of_another_width_make_no_mask(mine, capsys):
    wide = MINE.replace("made[at[n]].labels}", "torch.ones(9)}")
    (mine / "mine.py").write_text(wide)
    assert main(["masks", "mine.py:Dark", "--data", "mine.py:world", "--out", "dark"]) == 1
    assert "9 labels, expected one of 8 classes each" in capsys.readouterr().out


def test_backbones_of_ones_own_for_segmenter_affinity_and_clip_es(mine, capsys):
    learns = {"data": "paper", "limit": 4, "epochs": 1, "masks": "ground-truth", "device": "cpu"}
    path = train_method("segmenter", backbone="mine.py:Trunk", network="small", **learns)
    own = ["--data", "paper", "--limit", "4", "--device", "cpu"]
    words = ["masks", str(path), *own, "--out", "segmented"]
    assert main([*words, "--backbone", "mine.py:Trunk"]) == 0
    net = Segmenter.load(path, backbone=_trunk(), device="cpu")
    assert net.predict_all(PaperWorld(4, split="train"), shown=False).keys() == {
        *read_masks("segmented").masks
    }
    walk = train_method("affinity", backbone="mine.py:Trunk", radius=2, **learns)
    cam = train_method("cam", data="paper", limit=4, epochs=1, validate=0, device="cpu")
    walks = ["masks", str(cam), *own, "--affinity", str(walk), "--out", "walked"]
    assert main([*walks, "--affinity-backbone", "mine.py:Trunk"]) == 0
    assert main(["masks", "clip-es", *own, "--affinity-backbone", "paper", "--out", "same"]) == 0
    assert main(["masks", "clip-es", *own, "--out", "plain"]) == 0
    same, plain = (read_masks(name).masks for name in ("same", "plain"))
    assert all(torch.equal(same[name], plain[name]) for name in plain)
    assert "second weights" in json.loads((mine / "same" / "protocol.json").read_text())
    capsys.readouterr()
    other = ["masks", "clip-es", *own, "--affinity-backbone", "timm:no_such", "--out", "none"]
    assert main(other) == 2
    assert "timm:no_such could not be opened" in capsys.readouterr().err
    known = train_method("affinity", out="known", backbone="paper", weights="web", **learns)
    trunk = ["--affinity-backbone", "mine.py:Trunk", "--out", "none"]
    for affinity, problem in (
        ([], "and the masks walk with none; leave it out"),
        (["--affinity", str(known)], "names its backbone, and affinity_backbone is given"),
    ):
        assert main(["masks", str(cam), *own, *affinity, *trunk]) == 2
        assert problem in capsys.readouterr().err


def _trunk():
    names: dict = {}
    exec(MINE, names)
    return names["Trunk"]()


def test_every_epoch_is_scored_and_its_losses_are_kept(mine):
    options = {"data": "paper", "limit": 12, "batch_size": 6, "device": "cpu"}
    path = train_method("cam", "run", epochs=2, **options)
    train_method("cam", "run", epochs=3, resume=True, device="cpu")
    with open("run/validation.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    with open("run/checkpoint.losses.csv", newline="") as file:
        losses = [float(row["total"]) for row in csv.DictReader(file)]
    cam, val = CAM.load(path, device="cpu"), PaperWorld(12, split="val")
    assert losses == pytest.approx(cam.losses_) and [row["epoch"] for row in rows] == [
        "1",
        "2",
        "3",
    ]
    maps = Pipeline(cam, affinity=None)
    rules = [BackgroundRule(threshold=each) for each in (0.1, 0.2, 0.3, 0.4, 0.5)]
    swept = sweep_background(maps, list(val), val.masks, rules=rules, shown=False)
    assert float(rows[-1]["miou"]) == pytest.approx(max(swept.values()))
    assert all((mine / "run" / f"{name}.png").stat().st_size > 5000 for name in FIGURES)
    learns = {"masks": "ground-truth", "epochs": 1, **options}
    net = Segmenter.load(train_method("segmenter", "seg", **learns), device="cpu")
    matrix = ConfusionMatrix(9)
    for sample in val:
        logits = F.interpolate(net.net(sample.image[None]), (96, 96), mode="bilinear")
        matrix.update(logits.argmax(1)[0], val.masks[sample.name])
    with open("seg/validation.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["miou"]) == pytest.approx(matrix.mean_iou(), abs=0.01)
    assert (row["background"], row["images"]) == ("learned", "12")


FIGURES = ("losses", "validation")
