"""The command that writes masks: any data set and method, alone or shared by processes."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from tests.commands.test_generate import files
from tests.commands.voc_layout import build_voc
from wsss_kit.__main__ import main
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.commands.generate import read_maps
from wsss_kit.commands.masks import run_masks
from wsss_kit.data import open_dataset
from wsss_kit.evaluation import BackgroundRule, predict_masks
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.notebook_data import make_clip_es, open_data
from wsss_kit.paperworld import PaperWorld
from wsss_kit.recipes import cam_maps, clip_es_masks
from wsss_kit.segmentation import train_segmenter

PAPER = {"data": "paper", "limit": 5, "device": "cpu"}


def test_clip_es_as_the_recipe_has_it(tmp_path):
    options = {"crf": True, "min_confidence": 0.95, "batch_size": 2, "maps": True}
    written = run_masks("clip-es", tmp_path, **PAPER, **options)
    recipe = partial(clip_es_masks, method=make_clip_es(open_data(n_train=1, n_val=1, n_test=1)))
    for sample in PaperWorld(5, split="train"):
        expected = recipe(sample.image[None], sample.labels[None])[0]
        assert (written.masks[sample.name] != expected).float().mean() < 1e-3
        assert list(read_maps(tmp_path, sample.name)) == sample.labels.nonzero()[:, 0].tolist()
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    assert protocol["background"] == "(1 - max)^1"
    assert protocol["refinement"] == "attention affinity, dense CRF"


@pytest.mark.parametrize("name", ["clip-es", "sc-cam", "clims"])
def test_methods_of_the_package_without_a_walk(name, tmp_path, capsys):
    saved, walk = {"sc-cam": SCCAM, "clims": CLIMS}, {}
    if name in saved:
        method = saved[name].load("paper", device="cpu")
    else:
        method, walk = make_clip_es(open_data(n_train=1, n_val=1, n_test=1)), {"affinity": "none"}
    written = run_masks(name, tmp_path, **{**PAPER, "limit": 2}, threshold=0.3, **walk)
    maps_of, world = partial(cam_maps, method=method), PaperWorld(2, split="train")
    rule = BackgroundRule(threshold=0.3)
    expected = predict_masks(maps_of, world, rule, batch_size=1, shown=False)
    assert all(torch.equal(written.masks[name], mask) for name, mask in expected.items())
    assert json.loads((tmp_path / "protocol.json").read_text())["refinement"] == "none"
    other = ["masks", "clip-es", "--data", "paper", "--affinity", "a", "--out", str(tmp_path)]
    assert main(other) == 2 and "affinity is a; expected none" in capsys.readouterr().err


def test_a_segmenter_predicts_at_several_sizes(tmp_path, capsys):
    world = PaperWorld(2, split="train")
    options = {"iterations": 1, "device": "cpu", "progress": False}
    net = train_segmenter(world, world.masks, **options)
    path = net.save(tmp_path / "net")
    views = {"scales": [1, 0.5], "flip": True, "fuse": "max", "crf": True}
    written = run_masks(path, tmp_path / "out", **{**PAPER, "limit": 2}, **views)
    for sample in world:
        expected = net.predict(sample.image[None], **views)
        assert torch.equal(written.masks[sample.name], expected[0])
    assert json.loads((tmp_path / "out" / "protocol.json").read_text())["fuse"] == "max"
    other = ["masks", "clims", "--data", "paper", "--flip", "--out", str(tmp_path / "other")]
    assert main(other) == 2 and "flip belongs to a segmenter" in capsys.readouterr().err


def test_a_saved_method_knows_what_it_is(tmp_path, capsys):
    world = PaperWorld(6, split="train")
    cam = CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")
    path = cam.fit(world, train_backbone=False, epochs=2).save(tmp_path / "cam")
    out = tmp_path / "out"
    arguments = ["masks", str(path), "--data", "paper", "--limit", "3", "--out", str(out)]
    assert main(arguments) == 0
    assert f"{out} holds 3 masks" in capsys.readouterr().out
    assert json.loads((out / "protocol.json").read_text())["background"] == "constant 0.15"
    both = [*arguments, "--threshold", "0.4", "--power", "2"]
    assert main(both) == 2 and "expected exactly one of the two" in capsys.readouterr().err


def test_two_processes_write_what_one_writes(tmp_path):
    command = ["masks", "clip-es", "--data", "paper", "--limit", "6", "--batch-size", "2"]
    command += ["--device", "cpu", "--out"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "wsss_kit", *command, str(tmp_path / "two")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    assert main([*command, str(tmp_path / "one")]) == 0
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    result = {name: data for name, data in files(tmp_path / "two").items() if name != ".lock"}
    assert result == {n: d for n, d in files(tmp_path / "one").items() if n != ".lock"}


def test_data_by_its_name(tmp_path, monkeypatch):
    monkeypatch.delenv("WSSS_KIT_FOLDER", raising=False)
    voc = build_voc(tmp_path / "VOC2012")
    assert open_dataset("voc", voc).split == "train_aug" and len(open_dataset("voc", voc)) == 4
    assert open_dataset("voc", voc, "val", limit=1).names == ("val_0",)
    assert len(open_dataset("paper", limit=3)) == 3
    with pytest.raises(FileNotFoundError, match="no folder data/mine; expected"):
        open_dataset("folder")
    with pytest.raises(ValueError, match="the data set is 'cats', expected one of voc"):
        open_dataset("cats")
    with pytest.raises(FileNotFoundError, match="no pets in"):
        open_dataset("pets", tmp_path)


def test_a_saved_affinity_keeps_its_padding(tmp_path, monkeypatch):
    """Only IRN's released file, which stands for 512 pixels, is read without them for CLIMS."""
    net, loaded, load = AffinityNet(device="cpu", channels=4, pad_to=104), [], AffinityNet.load
    net.losses_ = []

    def loading(*arguments, **options):
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(AffinityNet, "load", loading)
    options = {"data": "paper", "limit": 1, "device": "cpu"}
    run_masks("clims", tmp_path / "out", affinity=net.save(tmp_path / "net"), **options)
    assert loaded[0].pad_to == 104
