"""Weights of trained methods that ship with the package: made again, and those that are there."""

from __future__ import annotations

import functools

import pytest
import torch

from wsss_kit.__main__ import main
from wsss_kit.commands import train_methods
from wsss_kit.evaluation import CONSTANTS, sweep_background
from wsss_kit.files import load_model
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clims.method import PAPER_CLIMS
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.mass import mass_shares
from wsss_kit.recipes import cam_maps

SMALL = {"n_train": 8, "n_val": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clims")
    return train_methods.train_paper_clims(folder, seed=3, **SMALL)


def test_the_card_says_how_it_was_made_and_what_came_of_it(made):
    tensors, card = load_model(made)
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert card["seed"] == 3 and card["base"] == train_methods.BASE
    assert "train, 8 pictures" in card["trained_on"] and "val, 3 pictures" in card["measured"]["on"]
    world = PaperWorld(3, split="val")
    maps_of = functools.partial(cam_maps, method=CLIMS.load(made, device="cpu"))
    swept = sweep_background(maps_of, world, world.masks, rules=CONSTANTS, shown=False)
    told = card["measured"]["CLIMS"]
    assert told["mean_iou"] == pytest.approx(max(swept.values()), abs=5e-4)
    assert swept[next(r for r in swept if str(r) == told["background"])] == max(swept.values())


def test_a_run_that_was_stopped_goes_on(made, monkeypatch, capsys):
    """Everything trained already: the same weights once more, without a step."""
    before = load_model(made)[0]
    for where in ("wsss_kit.methods.clims.train.train_step", "wsss_kit.classifier.train.batches"):
        monkeypatch.setattr(where, lambda *_, **__: pytest.fail("trained twice"))
    again = load_model(train_methods.train_paper_clims(made.parent, seed=3, **SMALL))[0]
    assert all(torch.equal(again[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match=r"seed"):
        train_methods.train_paper_clims(made.parent, seed=4, **SMALL)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_methods, "train_paper_clims", stop)
    assert main(["train", "paper-clims", "--out", str(made.parent)]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


def test_the_command_line_takes_the_seed_alone(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        train_methods, "train_paper_clims", lambda *a, **k: calls.append((a, k)) or tmp_path / "w"
    )
    assert main(["train", "paper-clims", "--out", str(tmp_path), "--seed", "2"]) == 0
    assert calls == [((tmp_path,), {"seed": 2})]
    assert main(["train", "paper-clims", "--out", str(tmp_path), "--steps", "2"]) == 2
    assert "takes no --steps, expected --out or --seed" in capsys.readouterr().err


def test_the_shipped_weights_are_small_and_look_at_objects():
    assert PAPER_CLIMS.stat().st_size < 1.5e6
    clims, world = CLIMS.load("paper", device="cpu"), PaperWorld(12, split="test")
    maps = {s.name: cam_maps(s.image[None], s.labels[None], method=clims)[0] for s in world}
    shares = mass_shares(maps, world)
    assert shares["object"] > 0.5 > 0.4 > shares["usual background"]


@pytest.mark.slow
def test_the_shipped_card_repeats():
    told, val = load_model(PAPER_CLIMS)[1]["measured"], PaperWorld(100, split="val")
    maps_of = functools.partial(cam_maps, method=CLIMS.load("paper", device="cpu"))
    swept = sweep_background(maps_of, val, val.masks, rules=CONSTANTS, shown=False)
    assert max(swept.values()) == pytest.approx(told["CLIMS"]["mean_iou"], abs=0.005)
    assert max(swept.values()) >= told["CAM"]["mean_iou"] + 0.15
