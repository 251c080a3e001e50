"""Two processes on one training: what one would have done, within the error of floats."""

import json
import os
import socket

import pytest
import torch
from torch import nn

from tests.programs import run_python
from tests.trainings import SHARED, TRAININGS, state_of
from wsss_kit import processes
from wsss_kit.files import load_model
from wsss_kit.processes import mean_count, own, own_device, place_in_run, total


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Losses and weights of every training: alone, and of each of two processes; their folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = {}
    for name in SHARED:
        trained = TRAININGS[name]()
        sums = [value.double().sum().item() for value in state_of(trained).values()]
        alone[name] = {"losses": trained.losses_, "sums": sums}
    torch.set_num_threads(threads)
    folder = tmp_path_factory.mktemp("both")
    launched(folder, "all", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")
    both = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return [alone, *both], folder


def launched(folder, name, launcher, *options):
    """Run processes of `tests.trainings`; the launcher's last option takes a port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    trained = ("-m", "tests.trainings", folder, name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run_python("-m", launcher, *options, port, *trained, env=environment)


def numbers(losses):
    """All numbers of a list of losses, the first epoch's first."""
    rows = [each.values() if isinstance(each, dict) else [each] for each in losses]
    return [value for row in rows for value in row]


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_learn_what_one_learns(runs, name):
    (alone, first, second), _ = runs
    expected = numbers(alone[name]["losses"])
    assert len(expected) > 0
    assert numbers(first[name]["losses"]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert second[name] == first[name]
    # AdamW's first steps follow the sign of gradients, also of those that are next to nothing
    near = 1e-1 if name.startswith("affinity") else 1e-2
    assert first[name]["sums"] == pytest.approx(alone[name]["sums"], rel=near, abs=1e-1)


def test_the_first_process_writes_checkpoints(runs):
    _, card = load_model(runs[1] / "CAM")
    assert card["step"] == 4 and [e["total"] for e in card["epochs"]] == runs[0][1]["CAM"]["losses"]
    assert not list(runs[1].glob(".*.tmp"))


@pytest.mark.slow
def test_accelerate_starts_processes_too(tmp_path):
    options = ("--num_processes", "2", "--cpu", "--main_process_port")
    launched(tmp_path, "CAM, crops", "accelerate.commands.launch", *options)
    assert load_model(tmp_path / "run")[1]["step"] == 4


def test_sums_and_parts(monkeypatch):
    assert total(torch.tensor(3.0)) == 3 and mean_count(torch.tensor(3)) == 3
    assert mean_count(torch.tensor(0)) == 1  # nothing to divide
    monkeypatch.setattr(processes, "world", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        assert list(own(range(5))) == list(range(5))[rank::3]


@pytest.mark.parametrize("told", [("x", "2"), ("2", "2"), ("-1", "2"), ("none", "2")])
def test_an_odd_place_is_refused(monkeypatch, told):
    monkeypatch.setenv("RANK", told[0]), monkeypatch.setenv("WORLD_SIZE", told[1])
    if told[0] == "none":
        monkeypatch.delenv("RANK")
    with pytest.raises(
        ValueError, match=rf"RANK .*{told[0]}.* expected 0 to WORLD_SIZE - 1 as torchrun"
    ):
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


def test_normalisation_by_hand_is_torchs():
    """On the images of one process, which is all there are: gradients and statistics."""
    torch.manual_seed(0)
    theirs, ours = nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, momentum=0.3)
    ours.__class__ = processes._SyncBatchNormCPU
    images, weights = torch.rand(2, 4, 3, 5, 6)
    gradients = []
    for layer in (theirs, ours):
        layer.weight.data = torch.tensor([1.0, 2.0, 0.5])
        given = images.clone().requires_grad_()
        (layer(given) * weights).sum().backward()
        gradients.append((given.grad, layer.weight.grad, layer.bias.grad))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-6, rtol=0)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
