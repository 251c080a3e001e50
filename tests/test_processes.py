"""Two processes on one training: what one would have done, within the error of floats."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.shared_training import trained
from wsss_kit import processes
from wsss_kit.checkpoints import load_checkpoint
from wsss_kit.files import load_model
from wsss_kit.processes import own, own_device, own_views, place_in_run, totals
from wsss_kit.training import augment, skip_augment
from wsss_kit.views import random_view, skip_view


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Losses of every training: alone, and of each of two processes; and their folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = trained(tmp_path_factory.mktemp("alone"))
    torch.set_num_threads(threads)
    folder = tmp_path_factory.mktemp("both")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.shared_training", str(folder)],
            env={**os.environ, **together, "OMP_NUM_THREADS": "1", "RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        for process in started:
            _, message = process.communicate(timeout=300)
            assert process.returncode == 0, message[-3000:]
    finally:
        for process in started:  # one that waits for another that has failed
            process.kill()
    both = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return [alone, *both], folder


WHAT = (
    *("CAM", "crops", "head alone", "SC-CAM", "CLIMS", "CLIMS, reference", "affinity"),
    *("segmenter, plain", "segmenter, balanced"),
    *("head of CAM", "head of SC-CAM", "head of CLIMS", "statistics"),
)


@pytest.mark.parametrize("what", WHAT)
def test_two_processes_learn_what_one_learns(runs, what):
    (alone, first, second), _ = runs
    # AdamW's first steps follow the sign of gradients, also of those that are next to nothing
    near = 1e-3 if what == "affinity" else 2e-5
    assert len(alone[what]) > 0
    assert first[what] == pytest.approx(alone[what], rel=near, abs=1e-6)
    assert second[what] == pytest.approx(first[what], rel=1e-7, abs=1e-9)


def test_every_training_is_compared(runs):
    assert sorted(runs[0][0]) == sorted(WHAT)


def test_the_first_process_writes_checkpoints(runs):
    _, card = load_model(runs[1] / "cam")
    assert card["epoch"] == 2 and card["losses"] == runs[0][1]["CAM"]
    assert not list(runs[1].glob(".*.tmp"))


@pytest.mark.parametrize("crop", [None, 20, 40, 90])
@pytest.mark.parametrize("long_side", [None, (30, 60)])
def test_skipping_an_image_takes_the_chance_of_seeing_it(crop, long_side):
    for size in ((24, 40), (64, 30), (40, 40), (5, 7)):
        seen, skipped = (torch.Generator().manual_seed(3) for _ in range(2))
        augment(torch.rand(3, *size), seen, crop=crop, long_side=long_side)
        skip_augment(skipped, long_side=long_side)
        assert torch.equal(seen.get_state(), skipped.get_state())


@pytest.mark.parametrize("crop", [None, 20, 90])
@pytest.mark.parametrize("scales", [(), (1.0,), (0.5, 1.0, 1.5)])
def test_skipping_a_masked_image_takes_the_chance_of_seeing_it(crop, scales):
    for size in ((24, 40), (90, 90)):
        seen, skipped = (torch.Generator().manual_seed(5) for _ in range(2))
        mask = torch.zeros(size, dtype=torch.int64)
        random_view(torch.rand(3, *size), mask, seen, crop=crop, scales=scales)
        skip_view(skipped, crop=crop, scales=scales)
        assert torch.equal(seen.get_state(), skipped.get_state())


def test_the_parts_of_a_batch_are_the_batch(monkeypatch):
    monkeypatch.setattr(processes, "world", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        assert list(own(range(5))) == list(range(5))[rank::3]
        skipped = []
        (views,) = own_views(
            [7, 8, 9, 10, 11], lambda n: (torch.tensor([n]),), lambda s=skipped: s.append(1)
        )
        parts.append(views[:, 0].tolist())
        assert len(views) + len(skipped) == 5
    assert parts == [[7, 10], [8, 11], [9]]
    taken = []  # of the last process, in a batch of two: chance is taken twice all the same
    (none,) = own_views(
        [7, 8], lambda n: (taken.append(n), torch.zeros(3, n))[1:], lambda: taken.append(None)
    )
    assert none.shape == (0, 3, 7) and taken == [7, None]


def test_alone_nothing_is_shared():
    assert totals({"loss": 2.0}) == {"loss": 2.0}
    layer = nn.BatchNorm2d(2)
    with processes.norms_of_whole_batches(layer):
        assert "forward" not in vars(layer)


@pytest.mark.parametrize("told", [("x", "2"), ("2", "2"), ("0", "0"), ("-1", "2")])
def test_an_odd_place_is_refused(monkeypatch, told):
    monkeypatch.setenv("RANK", told[0]), monkeypatch.setenv("WORLD_SIZE", told[1])
    with pytest.raises(ValueError, match=r"RANK .* expected 0 to WORLD_SIZE - 1 as torchrun"):
        place_in_run()


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("RANK", "5"), monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device() == own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu" and own_device("cuda:3") == "cuda:3"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device() == "auto"


def test_no_checkpoint_is_none(tmp_path):
    variant = {"method": "CAM", "version": 1, "keys": (), "classes": (), "run": {}, "epochs": 1}
    assert load_checkpoint(tmp_path / "none", **variant) is None


def test_normalisation_by_hand_is_torchs(monkeypatch):
    torch.manual_seed(0)
    theirs, ours = nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, momentum=0.3)
    images = torch.rand(4, 3, 5, 6, requires_grad=True)
    again = images.detach().clone().requires_grad_()
    with torch.no_grad():
        for layer in (theirs, ours):
            layer.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
    weights = torch.rand(4, 3, 5, 6)
    (theirs(images) * weights).sum().backward()
    (processes._normalised(ours, again) * weights).sum().backward()
    assert torch.allclose(again.grad, images.grad, atol=1e-5)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, atol=1e-4)
    ours.eval(), theirs.eval()
    assert torch.equal(processes._normalised(ours, images), ours(images))
