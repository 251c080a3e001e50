"""Weights of trained methods that ship with the package: made again, and those that are there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from wsss_kit.commands import train as training
from wsss_kit.evaluation import CONSTANTS, sweep_background
from wsss_kit.files import load_model
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.recipes import cam_maps

SMALL = {"n_train": 8, "n_val": 3}


class Shipped(NamedTuple):
    """A method whose weights come with the package."""

    cls: type
    name: str
    command: str
    train: str
    weights: Path
    gain: float


SHIPPED = [
    pytest.param(Shipped(*each), id=each[1])
    for each in (
        (CLIMS, "CLIMS", "paper-clims", "train_paper_clims", CLIMS.SHIPPED, 0.15),
        (SCCAM, "SC-CAM", "paper-sc-cam", "train_paper_sc_cam", SCCAM.SHIPPED, 0.05),
    )
]


@pytest.fixture(scope="module", params=SHIPPED)
def made(request, tmp_path_factory):
    """What the command of one of the methods writes, from a few images."""
    folder = tmp_path_factory.mktemp("made")
    return request.param, getattr(training, request.param.train)(folder, seed=3, **SMALL)


def test_the_card_says_how_it_was_made_and_what_came_of_it(made):
    method, path = made
    tensors, card = load_model(path)
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert card["seed"] == 3 and card["base"]
    assert "train, 8 images" in card["trained_on"] and "val, 3 images" in card["measured"]["on"]
    world = PaperWorld(3, split="val")
    maps_of = functools.partial(cam_maps, method=method.cls.load(path, device="cpu"))
    swept = sweep_background(maps_of, world, world.masks, rules=CONSTANTS, shown=False)
    recorded = card["measured"][method.name]
    assert recorded["mean_iou"] == pytest.approx(max(swept.values()), abs=5e-4)
    assert swept[next(r for r in swept if str(r) == recorded["background"])] == max(swept.values())


def test_a_run_that_was_stopped_goes_on(made, monkeypatch):
    """Everything trained already: the same weights once more, without a step."""
    method, path = made
    before, train = load_model(path)[0], getattr(training, method.train)
    monkeypatch.setattr(method.cls, "loss", lambda *_: pytest.fail("trained twice"))
    again = load_model(train(path.parent, seed=3, **SMALL))[0]
    assert all(torch.equal(again[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match=r"seed"):
        train(path.parent, seed=4, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("method", SHIPPED)
def test_the_shipped_card_repeats(method):
    recorded, val = load_model(method.weights)[1]["measured"], PaperWorld(100, split="val")
    maps_of = functools.partial(cam_maps, method=method.cls.load("paper", device="cpu"))
    swept = sweep_background(maps_of, val, val.masks, rules=CONSTANTS, shown=False)
    assert max(swept.values()) == pytest.approx(recorded[method.name]["mean_iou"], abs=0.005)
    assert max(swept.values()) >= recorded["CAM"]["mean_iou"] + method.gain
