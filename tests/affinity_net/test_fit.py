"""How an affinity learns: what moves, what stays, and that a stopped run goes on to the same."""

from __future__ import annotations

import pytest
import torch

from wsss_kit import checkpoints
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.paperworld import PaperWorld


@pytest.fixture(scope="module")
def world():
    return PaperWorld(6, split="train")


@pytest.fixture(scope="module")
def seeds(world):
    return dict(world.masks)


def small(**options):
    return AffinityNet(device="cpu", levels=2, channels=4, **options)


RECIPE = {"epochs": 3, "batch_size": 4, "progress": False}


@pytest.mark.parametrize(("trains", "fixes"), [(True, False), (True, True), (False, False)])
def test_a_frozen_backbone_stays_and_fixed_norms_keep_their_statistics(world, seeds, trains, fixes):
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.fit(world, seeds, train_backbone=trains, fixes_norms=fixes, **RECIPE)
    moved = {name for name, value in net.state_dict().items() if not value.equal(before[name])}
    assert {name for name in moved if name.startswith("project.")} == {
        name for name in before if name.startswith("project.")
    }
    assert bool({n for n in moved if n.startswith("trunk.")}) is trains
    assert bool({n for n in moved if "running" in n}) is (trains and not fixes)
    assert all(p.requires_grad for p in net.parameters()) and not net.training


@pytest.mark.parametrize("trains", [True, False])
def test_a_stopped_run_goes_on_to_the_same_weights(world, seeds, tmp_path, monkeypatch, trains):
    options = {**RECIPE, "train_backbone": trains, "seed": 2}
    whole = small().fit(world, seeds, **options)
    saved = []

    def stop_after_two(*args, **options):
        real(*args, **options)
        saved.append(options["epoch"])
        if len(saved) == 2:
            raise KeyboardInterrupt

    real = checkpoints.save_checkpoint
    monkeypatch.setattr(checkpoints, "save_checkpoint", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        small().fit(world, seeds, checkpoint=tmp_path / "run", **options)
    assert saved == [1, 2]
    net = small().fit(world, seeds, checkpoint=tmp_path / "run", **options)
    assert saved == [1, 2, 3] and net.losses_ == whole.losses_
    for name, value in whole.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    done = small().fit(world, seeds, checkpoint=tmp_path / "run", **options)
    assert saved == [1, 2, 3] and done.losses_ == whole.losses_ and not done.training


def test_the_checkpoint_of_another_run_is_refused(world, seeds, tmp_path):
    small().fit(world, seeds, checkpoint=tmp_path / "run", **RECIPE)
    other = {**seeds, world.names[0]: torch.zeros_like(seeds[world.names[0]])}
    for net, labels, options, named in (
        (small(), seeds, {"learning_rate": 1e-4}, "learning_rate 0.001"),
        (small(), other, {}, "seeds"),
        (small(radius=4), seeds, {}, "radius 5"),
        (small(), seeds, {"crop": 64}, "crop None"),
    ):
        with pytest.raises(ValueError, match=f"checkpoint of a run with {named}"):
            net.fit(world, labels, checkpoint=tmp_path / "run", **{**RECIPE, **options})


def test_cropped_images_are_read_when_their_turn_comes(world, seeds):
    read = []

    class Counted:
        names = world.names
        classes = world.classes

        def __len__(self):
            return len(world)

        def __getitem__(self, number):
            if number >= len(world):
                raise IndexError(number)
            read.append(number)
            return world[number]

    small().fit(Counted(), seeds, crop=48, epochs=2, batch_size=4, progress=False)
    assert sorted(read) == sorted([*range(6), *range(6)])
    missing = {name: seed for name, seed in seeds.items() if name != world.names[-1]}
    read.clear()
    with pytest.raises(ValueError, match=f"no seed for {world.names[-1]!r}"):
        small().fit(Counted(), missing, crop=48, progress=False)
    assert not read  # found out before anything was read
