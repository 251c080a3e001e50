"""The training loop: batches, schedule, stops and goes on, what diverges and what does not."""

import csv
import math
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from tests.trainings import LONG, TRAININGS, WORLD, sc_cam, start, state_of
from wsss_kit import engine
from wsss_kit.classes import Sample
from wsss_kit.engine import Diverged, _Batches, generator, rate_factor
from wsss_kit.methods.cam import CAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.segmentation import train_segmenter

EXACTLY = {"atol": 0, "rtol": 0}


class Numbers:
    """Data whose batches are the numbers of the images and a random number of each."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def batch(self, numbers, chance):
        drawn = [torch.rand((), generator=chance(1 + n)) for n in numbers]
        return [torch.tensor(numbers), torch.stack(drawn)]


class Line(nn.Module):
    """One weight; the loss is what it is told, and a little of the weight."""

    def __init__(self, losses=None):
        super().__init__()
        self.weight, self.given, self.seen = nn.Parameter(torch.ones(1)), losses, []

    def parameter_groups(self):
        return [{"params": [self.weight]}]

    def loss(self, numbers, drawn):
        self.seen.append(numbers.tolist())
        given = 1.0 if self.given is None else self.given[len(self.seen) - 1]
        return {"total": self.weight.sum() * 0 + given}


RECIPE = {"batch_size": 3, "learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0, "seed": 0}


# -- batches ----------------------------------------------------------------------------------


def test_every_pass_has_all_images_in_an_order_of_its_own():
    network = Line()
    losses = engine.fit(network, Numbers(7), {**RECIPE, "epochs": 3}, what="line")
    passes = [[n for batch in network.seen[i : i + 3] for n in batch] for i in (0, 3, 6)]
    assert all(sorted(each) == list(range(7)) for each in passes)
    assert passes[0] != passes[1] != passes[2] and len(losses) == 3
    assert [len(batch) for batch in network.seen[:3]] == [3, 3, 1]
    whole = Line()
    engine.fit(whole, Numbers(7), {**RECIPE, "epochs": 3, "drop_last": True}, what="line")
    assert [len(batch) for batch in whole.seen] == [3] * 6
    few = Line()  # a batch that is larger than the data is the data
    engine.fit(few, Numbers(2), {**RECIPE, "epochs": 1, "drop_last": True}, what="line")
    assert [sorted(batch) for batch in few.seen] == [[0, 1]]
    assert generator(1, 2).initial_seed() != generator(2, 1).initial_seed()


def test_iterations_are_steps_of_several_batches_across_passes():
    network = Line()
    recipe = {**RECIPE, "iterations": 4, "accumulate": 2}
    assert len(engine.fit(network, Numbers(7), recipe, what="line")) == 3  # two passes and a part
    assert len(network.seen) == 8


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch_and_see_the_views_of_one(monkeypatch, world):
    alone = _Batches(Numbers(11), {**RECIPE, "batch_size": 4})
    shared = []
    for rank in range(world):
        monkeypatch.setattr(engine, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(engine, "world", lambda: world)
        shared.append(_Batches(Numbers(11), {**RECIPE, "batch_size": 4}))
    for number in range(2 * shared[0].a_pass):
        a_pass, place = divmod(number, shared[0].a_pass)
        numbers, drawn = alone[a_pass * alone.a_pass + place]
        for rank, each in enumerate(shared):
            got = each[number]
            assert torch.equal(got[0], numbers[rank::world])
            assert torch.equal(got[1], drawn[rank::world])
    with pytest.raises(ValueError, match="at least one image of a batch for each"):
        _Batches(Numbers(11), {**RECIPE, "batch_size": 1})


def test_workers_read_the_same_batches():
    seen = []
    for workers in (0, 2):
        network = Line()
        engine.fit(network, Numbers(7), {**RECIPE, "epochs": 2, "workers": workers}, what="line")
        seen.append(network.seen)
    assert seen[0] == seen[1]


# -- schedule; polynomials and their steps are among the golden figures ----------------------


def test_rates_by_hand():
    cosine, late = (
        [rate_factor(step, steps, recipe) for step in range(steps)]
        for steps, recipe in ((4, {"decay": "cosine"}), (10, {"decay": "late", "fall": 0.4}))
    )
    assert cosine == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert late[:7] == [1.0] * 7
    assert late[7:] == pytest.approx([math.sin(math.pi / 2 * k / 4) ** 2 for k in (3, 2, 1)])


# -- divergence -------------------------------------------------------------------------------


def test_a_network_that_knows_nothing_has_a_sound_loss():
    """A first batch that teaches nothing is no measure."""
    recipe = {**RECIPE, "epochs": 2, "sound": 0.7}
    engine.fit(Line([0.0, 0.001, 5.0, 6.0, 6.0, 6.0]), Numbers(9), recipe, what="line")
    for losses, message in (
        ([0.0, 0.001, 5.0, 8.0, 8.0, 8.0], "epoch 2: its loss is 8 and a sound one is 0.7"),
        ([0.5, math.nan, 1.0], "epoch 1: its loss is nan"),
        ([0.5, math.inf, 1.0], "epoch 1: its loss is inf"),
    ):
        with pytest.raises(Diverged, match=f"line, {message}"):
            engine.fit(Line(losses), Numbers(9), recipe, what="line")


def test_images_that_teach_nothing_raise_no_alarm():
    plain = Sample("plain", torch.full((3, 64, 64), 0.5), torch.zeros(8))
    options = {"batch_size": 1, "epochs": 1, "device": "cpu", "progress": False}
    masks = {name: torch.full_like(mask, 255) for name, mask in WORLD.masks.items()}
    masks[WORLD.names[0]] = WORLD.masks[WORLD.names[0]]
    train_segmenter(WORLD, masks, **options)
    fitted = CAM("paper", weights="web", preset="clean", device="cpu")
    fitted.fit([*WORLD], train_backbone=False, batch_size=1, epochs=1, progress=False)
    CAM(fitted, preset="clean").fit([plain, *WORLD], batch_size=1, epochs=1, progress=False)


# -- a stopped training goes on ---------------------------------------------------------------


@pytest.mark.parametrize("name", TRAININGS)
def test_a_stopped_training_goes_on_to_the_same_weights(name, tmp_path, monkeypatch):
    """Stopped when a batch is read, with a checkpoint after every step or after every epoch."""
    start()  # fitted before the count
    train, read = TRAININGS[name], []
    real = _Batches.__getitem__

    def reading(batches, number):
        read.append(number)
        if len(read) == stop:
            raise KeyboardInterrupt
        return real(batches, number)

    monkeypatch.setattr(_Batches, "__getitem__", reading)
    stop = 0
    whole = train()
    n_batches = len(read)
    stops = random.Random(name).sample(range(2, n_batches + 1), min(2, n_batches - 1))
    for stop, after in zip(stops, (-1, 1000), strict=False):
        path = tmp_path / f"run {stop}"
        monkeypatch.setattr(engine, "SAVE_AFTER", after)
        read.clear()
        with pytest.raises(KeyboardInterrupt):
            train(path)
        read.clear()
        stop = 0
        resumed = train(path)
        assert len(read) <= n_batches
        assert resumed.losses_ == whole.losses_ and not resumed.training
        torch.testing.assert_close(state_of(resumed), state_of(whole), **EXACTLY)
    read.clear()
    torch.testing.assert_close(state_of(train(path)), state_of(whole), **EXACTLY)
    assert not read  # what is finished is taken as it is


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_killed_training_goes_on_to_the_same_weights(name, tmp_path):
    """Killed without warning at ten random moments, with a checkpoint after every step."""
    command = [sys.executable, "-m", "tests.trainings", str(tmp_path), name]
    moments, result = random.Random(0), tmp_path / "state.pt"

    def begun(process):
        """Wait for the first checkpoint; return the time."""
        while not list(tmp_path.glob("run*.safetensors")) and process.poll() is None:
            time.sleep(0.005)
        return time.monotonic()

    with subprocess.Popen(command) as process:
        start = begun(process)
    seconds, kills = time.monotonic() - start, 0
    whole = torch.load(result, weights_only=True)
    for _ in range(10):
        for left in tmp_path.iterdir():
            left.unlink()
        with subprocess.Popen(command) as process:
            begun(process)
            time.sleep(moments.uniform(0, 0.8) * seconds)
            process.send_signal(signal.SIGKILL)
        kills += not result.exists()
        subprocess.run(command, check=True)
        torch.testing.assert_close(torch.load(result, weights_only=True), whole, **EXACTLY)
    assert kills >= 5


def test_the_log_beside_a_checkpoint_has_the_losses_of_every_epoch(tmp_path):
    trained = sc_cam(tmp_path / "run", epochs=(1, 2))
    with (tmp_path / "run.losses.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    numbered = [{"epoch": n, **each} for n, each in enumerate(trained.losses_, start=1)]
    assert len(numbered) == 3  # of all rounds
    assert rows == numbered
    assert {p.suffix for p in tmp_path.iterdir()} == {".csv", ".safetensors"}


def test_random_weights_where_there_are_trained_ones_are_named():
    world = PaperWorld(2, split="train", size=32)
    with pytest.warns(UserWarning, match="starts from random weights of 'paper'.*weights='web'"):
        CAM("paper", device="cpu").fit(world, epochs=1, batch_size=2, progress=False)
