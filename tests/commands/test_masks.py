"""The command that writes masks: any data set and method, alone or shared by processes."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from tests.commands.test_generate import files
from wsss_kit.__main__ import main
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.clip import load_clip
from wsss_kit.commands import read_maps
from wsss_kit.commands.masks import run_masks
from wsss_kit.evaluation import BackgroundRule, predict_masks
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.notebook_data import make_clip_es, open_data
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps, clims_masks, clip_es_masks, sc_cam_masks
from wsss_kit.segmentation import train_segmenter

PAPER = {"data": "paper", "limit": 2, "device": "cpu"}
SAVED = {"sc-cam": SCCAM, "clims": CLIMS}
RECIPES = {"clip-es": clip_es_masks, "sc-cam": sc_cam_masks, "clims": clims_masks}
every_method = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture
def method(name):
    if name in SAVED:
        return SAVED[name].load("paper", device="cpu")
    return make_clip_es(open_data(n_train=1, n_val=1, n_test=1))


@every_method
def test_masks_are_the_recipes(name, method, tmp_path):
    """A saved affinity keeps its padding; only IRN's released file is read without, for CLIMS."""
    net = AffinityNet(device="cpu", channels=4, pad_to=104)
    net.losses_ = []
    walk = {} if name == "clip-es" else {"affinity": net}
    saved = {"affinity": net.save(tmp_path / "net")} if walk else {}
    options = {"crf": True, "min_confidence": 0.6, "batch_size": 2, "maps": True}
    written = run_masks(name, tmp_path / "out", **PAPER, **options, **saved)
    pipeline = Pipeline(method, crf=True, **walk)
    crf = {"crf": True} if walk else {}  # CLIP-ES has it anyway
    recipe = partial(RECIPES[name], method=method, affinity_net=walk.get("affinity"), **crf)
    for sample in PaperWorld(2, split="train"):
        images, labels = sample.image[None], sample.labels[None]
        expected = recipe(images, labels, min_confidence=0.6)[0]
        assert (written.masks[sample.name] != expected).float().mean() < 1e-3
        found, maps = read_maps(tmp_path / "out", sample.name), pipeline.maps(images, labels)[0]
        assert list(found) == sample.labels.nonzero()[:, 0].tolist()
        for c, result in found.items():
            torch.testing.assert_close(result, maps[c], atol=2e-3, rtol=0)
    protocol = json.loads((tmp_path / "out" / "protocol.json").read_text())
    assert protocol["background"] == str(pipeline.rule)
    assert protocol["refinement"] == pipeline.refinement


@every_method
def test_methods_of_the_package_without_a_walk(name, method, tmp_path):
    walk = {} if name in SAVED else {"affinity": "none"}
    written = run_masks(name, tmp_path, **PAPER, threshold=0.3, **walk)
    maps_of, world = partial(cam_maps, method=method), PaperWorld(2, split="train")
    rule = BackgroundRule(threshold=0.3)
    expected = predict_masks(maps_of, world, rule, batch_size=1, shown=False)
    assert all(torch.equal(written.masks[name], mask) for name, mask in expected.items())
    assert json.loads((tmp_path / "protocol.json").read_text())["refinement"] == "none"


def test_prompts_of_a_file_are_of_the_data_sets_classes(tmp_path):
    words = json.loads(Prompts.paper().to_json())
    first, *rest = words["classes"]
    for classes, problem in (
        ([*rest, first], "class 0 of the prompts in .* is 'train', expected 'boat' or a new name"),
        (rest, "have 7 classes, expected 8"),
    ):
        short = {**words, "classes": classes, "synonyms": {}, "class_backgrounds": {}}
        (tmp_path / "p.json").write_text(json.dumps(short))
        with pytest.raises(ValueError, match=problem):
            run_masks("clip-es", tmp_path / "out", prompts=tmp_path / "p.json", **PAPER)
    (tmp_path / "p.json").write_text(json.dumps({**short, "classes": ["ship", *rest]}))
    with pytest.warns(UserWarning, match="says ship for boat"):
        run_masks("clip-es", tmp_path / "out", prompts=tmp_path / "p.json", **PAPER)


def test_masks_depend_on_how_the_same_weights_are_read_out(tmp_path):
    cam = CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")
    cam.fit(PaperWorld(4), train_backbone=False, epochs=1, progress=False).save(tmp_path / "cam")
    run_masks(tmp_path / "cam", tmp_path / "out", **{**PAPER, "limit": 1})
    cam.scales = (0.5, 1.0)
    cam.save(tmp_path / "cam")
    with pytest.raises(ValueError, match="made otherwise"):
        run_masks(tmp_path / "cam", tmp_path / "out", **{**PAPER, "limit": 1})


def test_half_precision_moves_maps_little():
    clips = [load_clip("paper", device="cpu", precision=each) for each in ("auto", "half")]
    assert [clip.dtype for clip in clips] == [torch.float32, torch.float16]
    whole, half = (CLIPES(clip, prompts=Prompts.paper()).fit() for clip in clips)
    asked = [torch.stack(each) for each in list(zip(*PaperWorld(3), strict=True))[1:]]
    for result, expected in zip(half(*asked), whole(*asked), strict=True):
        torch.testing.assert_close(result, expected, atol=5e-3, rtol=0)  # float32 both


def test_a_segmenter_predicts_at_several_sizes(tmp_path):
    world = PaperWorld(2, split="train")
    options = {"iterations": 1, "device": "cpu", "progress": False}
    net = train_segmenter(world, world.masks, **options)
    path = net.save(tmp_path / "net")
    views = {"scales": [1, 0.5], "flip": True, "fuse": "max", "crf": True}
    written = run_masks(path, tmp_path / "out", **PAPER, **views)
    for sample in world:
        expected = net.predict(sample.image[None], **views)
        assert torch.equal(written.masks[sample.name], expected[0])
    assert json.loads((tmp_path / "out" / "protocol.json").read_text())["fuse"] == "max"


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
