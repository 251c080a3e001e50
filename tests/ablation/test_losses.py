"""The losses of CLIMS, joined one after the other on a world of a few pictures."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from wsss_kit.ablation import LOSS_STEPS, ablate_losses
from wsss_kit.clip import load_clip
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

FIT = {"epochs": 1, "batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def parts():
    train, val, test = (PaperWorld(6, split=split, size=64) for split in ("train", "val", "test"))
    cam = CAM("paper", weights="web", preset="clean", scales=(1.0,), device="cpu")
    cam.fit(train, train_backbone=False, progress=False)
    return load_clip("paper", device="cpu"), cam, train, val, test


def test_every_step_is_trained_from_the_same_cam_and_measured(parts):
    clip, cam, train, val, test = parts
    options = {"prompts": Prompts.paper(method="clims"), "preset": "clean", "scales": (1.0,)}
    steps = ablate_losses(*parts, fit=FIT, shown=False, **options)
    assert list(steps) == list(LOSS_STEPS) == ["CAM", "OTM", "+ BTM", "+ REG", "+ CBS"]
    assert steps["CAM"].method is cam
    for name, step in steps.items():
        assert step.report.protocol.n_images == 6 and step.report.protocol.split == "test"
        assert "chosen on 6 val pictures" in step.report.protocol.background
        assert sum(step.mass.values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in (*step.mass.values(), *step.recall.values()))
        if name != "CAM":
            alone = CLIMS(clip, cam, **options, **LOSS_STEPS[name]).fit(train, **FIT)
            assert torch.equal(alone.head_, step.method.head_)
    heads = [step.method.head_ for step in steps.values()]
    assert all(not torch.equal(a, b) for a, b in pairwise(heads))


def test_steps_of_ones_own(parts):
    options = {"prompts": Prompts.paper(method="clims"), "preset": "clean", "scales": (1.0,)}
    steps = ablate_losses(*parts, steps={"all": {}}, fit=FIT, shown=False, **options)
    assert list(steps) == ["all"]
    with pytest.raises(ValueError, match="otm is -1"):
        ablate_losses(*parts, steps={"bad": {"otm": -1}}, fit=FIT, shown=False, **options)
