"""Weights of trained methods that ship with the package: made again, and those that are there."""

import functools

import pytest
import torch

from wsss_kit.commands import train as training
from wsss_kit.evaluation import CONSTANTS, sweep_background
from wsss_kit.files import load_model
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM, agreement
from wsss_kit.paperworld import PaperWorld, subtype_labels
from wsss_kit.recipes import cam_maps

SMALL = {"n_train": 8, "n_val": 3}
SHIPPED = [(CLIMS, training.train_paper_clims), (SCCAM, training.train_paper_sc_cam)]


@pytest.fixture(scope="module", params=SHIPPED, ids=["CLIMS", "SC-CAM"])
def made(request, tmp_path_factory):
    """What the command of one of the methods writes, from a few images."""
    folder = tmp_path_factory.mktemp("made")
    method, train = request.param
    return method, train, train(folder, seed=3, **SMALL)


def test_the_card_says_how_it_was_made_and_what_came_of_it(made):
    method, _, path = made
    tensors, card = load_model(path)
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert card["seed"] == 3 and card["base"]
    assert "train, 8 images" in card["trained_on"] and "val, 3 images" in card["measured"]["on"]
    world = PaperWorld(3, split="val")
    maps_of = functools.partial(cam_maps, method=method.load(path, device="cpu"))
    swept = sweep_background(maps_of, world, world.masks, rules=CONSTANTS, shown=False)
    recorded = card["measured"]["CLIMS" if method is CLIMS else "SC-CAM"]
    assert recorded["mean_iou"] == pytest.approx(max(swept.values()), abs=5e-4)
    assert swept[next(r for r in swept if str(r) == recorded["background"])] == max(swept.values())


def test_a_run_that_was_stopped_goes_on(made, monkeypatch):
    """Everything trained already: the same weights once more, without a step."""
    method, train, path = made
    before = load_model(path)[0]
    monkeypatch.setattr(method, "loss", lambda *_: pytest.fail("trained twice"))
    again = load_model(train(path.parent, seed=3, **SMALL))[0]
    assert all(torch.equal(again[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match=r"seed"):
        train(path.parent, seed=4, **SMALL)


def test_the_shipped_sc_cam_is_small_and_has_found_the_subtypes():
    assert max(method.SHIPPED.stat().st_size for method, _ in SHIPPED) < 1.5e6
    sc_cam, world = SCCAM.load("paper", device="cpu"), PaperWorld(1000, split="train")
    truth, recorded = subtype_labels(world), load_model(SCCAM.SHIPPED)[1]["nmi_with_true_subtypes"]
    result = [agreement(each, truth, n_classes=8).mean_nmi for each in sc_cam.rounds_]
    assert result == pytest.approx(recorded, abs=1e-3)
    assert result == sorted(result) and result[-1] >= 0.7 and len(result) == 3
