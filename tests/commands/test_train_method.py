"""Training any method from the command line: what it takes, keeps, refuses, and goes on with."""

import functools
import json
import os

import pytest
import torch
from pandas import read_csv

from tests.programs import run_python
from wsss_kit.__main__ import main
from wsss_kit.commands import train_method as module
from wsss_kit.commands.train_method import CONFIG, train_method
from wsss_kit.files import load_model
from wsss_kit.methods.cam import CAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.segmentation import Segmenter

PAPER = {"data": "paper", "limit": 8, "epochs": 1, "batch_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A CAM of the embedded world, trained by the command."""
    folder = tmp_path_factory.mktemp("cam")
    return train_method("cam", folder, **PAPER)


def test_a_cam_as_the_class_trains_it(trained):
    cam = CAM("paper", weights="web", preset="clean", device="cpu")
    cam.fit(PaperWorld(8, split="train"), epochs=1, batch_size=4, progress=False)
    assert torch.equal(CAM.load(trained, device="cpu").head_, cam.head_)
    config = json.loads((trained.parent / CONFIG).read_text())
    expected = {"what": "cam", "backbone": "paper", "weights": "web", "preset": "clean"}
    expected |= {"data": "paper", "split": "train", "limit": 8, "epochs": 1, "batch_size": 4}
    assert config == expected


def test_the_chain_of_all_methods(trained, tmp_path, capsys):
    """CAM, from it SC-CAM and CLIMS; masks; an affinity and a segmenter from them; their scores."""

    def run(*words):
        assert main([*map(str, words), "--data", "paper", "--limit", "8"]) == 0, capsys.readouterr()

    start = ("--start", trained, "--epochs", 1, "--batch-size", 4)
    rounds = ("--rounds", 1, "--n-subcategories", 2)
    run("train", "sc-cam", "--out", tmp_path / "sc-cam", *start, *rounds)
    run("train", "clims", "--out", tmp_path / "clims", *start, "--otm", 8)
    _, card = load_model(tmp_path / "clims" / "clims")
    assert card["method"] == "CLIMS" and card["otm"] == 8
    run("masks", trained, "--out", tmp_path / "seeds", "--min-confidence", 0.4)
    learns = ("--masks", tmp_path / "seeds", "--epochs", 1)
    run("train", "affinity", "--out", tmp_path / "affinity", *learns, "--radius", 3)
    walk = ("--affinity", tmp_path / "affinity" / "affinity")
    walked = "random walk, PSA's affinity"
    for name, rule in (("sc-cam", "(1 - max)^16"), ("clims", "constant 0.2")):
        run("masks", tmp_path / name / name, "--out", tmp_path / f"{name}-walked", *walk, "--maps")
        protocol = json.loads((tmp_path / f"{name}-walked" / "protocol.json").read_text())
        assert (protocol["background"], protocol["refinement"]) == (rule, walked)
    run("train", "segmenter", "--out", tmp_path / "seg", *learns)
    segmenter = Segmenter.load(tmp_path / "seg" / "segmenter", device="cpu")
    assert segmenter.taught_by == "CAM, cam.safetensors, constant 0.15, none"
    run("masks", tmp_path / "seg" / "segmenter", "--out", tmp_path / "m", "--split", "val")
    capsys.readouterr()
    run("evaluate", tmp_path / "m", "--split", "val")
    assert "mIoU" in capsys.readouterr().out


def test_two_processes_write_one_training(trained, tmp_path):
    words = "-m torch.distributed.run --standalone --nproc-per-node 2 -m wsss_kit train cam"
    words += " --data paper --limit 8 --epochs 1 --batch-size 4 --device cpu --out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = run_python(*words.split(), tmp_path, env=environment, timeout=200)
    assert printed.count("are written") == 1
    losses = [load_model(path)[1]["losses"] for path in (tmp_path / "cam", trained)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    config = (tmp_path / CONFIG).read_text()
    assert config == (trained.parent / CONFIG).read_text()


def test_photographs_are_cropped_as_published(voc, tmp_path, monkeypatch):
    given = {}

    def fit(self, samples, **options):
        given.update(options, backbone=self.backbone, weights=self.weights, n=len(samples))
        raise ValueError("enough")

    for variant in (CAM, module.SCCAM):
        monkeypatch.setattr(variant, "fit", functools.wraps(variant.fit)(fit))
    for what, crop in (("cam", 512), ("sc-cam", 224)):
        with pytest.raises(ValueError, match="enough"):
            train_method(what, tmp_path / what, root=voc, device="cpu")
        assert given["crop"] == crop and given["n"] == 4
        assert (given["backbone"], given["weights"]) == ("resnet50", "imagenet")
    with pytest.raises(ValueError, match="enough"):
        train_method("cam", tmp_path / "own", root=voc, device="cpu", backbone="resnet18", crop=64)
    assert (given["backbone"], given["weights"], given["crop"]) == ("resnet18", None, 64)


def test_a_training_that_goes_on_validates_as_it_did(tmp_path):
    options = {**PAPER, "limit": 4, "train_backbone": False}
    for out, validate in (("none", 0), ("some", 3)):
        train_method("cam", tmp_path / out, validate=validate, **options)
        (tmp_path / out / "validation.csv").unlink(missing_ok=True)
        train_method("cam", tmp_path / out, resume=True, epochs=3)
    assert not (tmp_path / "none" / "validation.csv").exists()
    assert read_csv(tmp_path / "some" / "validation.csv")["images"].unique().tolist() == [3]


def test_words_of_a_command_line(monkeypatch):
    """What is not given does not arrive, so that a training that goes on keeps what it has."""
    requested = {}

    @functools.wraps(train_method)
    def train(what, **options):
        requested.update(options, what=what)

    monkeypatch.setattr(module, "train_method", train)

    def given(words):
        requested.clear()
        assert main(["train", *words.split()]) == 0
        return {name: value for name, value in requested.items() if name != "what"}

    assert given("cam") == {} and requested == {"what": "cam"}
    words = "--learning-rate 1e-3 --scales=1,0.5 --flip false --weights imagenet --epochs 8"
    usual = {"learning_rate": 1e-3, "scales": [1, 0.5], "weights": "imagenet", "epochs": 8}
    assert given(f"cam {words}") == {**usual, "flip": False}
    others = {"flip": True, "scales": [1, 0.5], "train_backbone": False, "weights": "a,b"}
    assert given("cam --flip --scales 1 0.5 --no-train-backbone --weights a,b") == others
    assert given("sc-cam --epochs 8,2 --flip=true") == {"epochs": [8, 2], "flip": True}
    assert given("sc-cam --epochs 8 --long-side 320 640") == {"epochs": 8, "long_side": [320, 640]}
    assert given('sc-cam --baseline {"epochs":2}') == {"baseline": {"epochs": 2}}


def test_a_training_that_is_refused_leaves_its_folder_free(tmp_path):
    with pytest.raises(ValueError, match="epochs is 0, expected"):
        train_method("cam", tmp_path, **{**PAPER, "epochs": 0})
    assert not list(tmp_path.glob("c[ah]*.safetensors"))
    assert train_method("cam", tmp_path, **{**PAPER, "limit": 4, "train_backbone": False}).exists()
