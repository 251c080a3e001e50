"""How an affinity learns: what moves, what stays, and that a stopped run goes on to the same."""

from __future__ import annotations

import pytest
import torch

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


def test_the_checkpoint_of_another_run_is_refused(world, seeds, tmp_path):
    small().fit(world, seeds, checkpoint=tmp_path / "run", **RECIPE)
    other = {**seeds, world.names[0]: torch.zeros_like(seeds[world.names[0]])}
    for net, labels, options, named in (
        (small(), seeds, {"learning_rate": 1e-4}, "learning_rate 0.001"),
        (small(), other, {}, "masks"),
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
    assert sorted(read[-12:]) == sorted([*range(6), *range(6)])
    missing = {name: seed for name, seed in seeds.items() if name != world.names[-1]}
    read.clear()
    with pytest.raises(ValueError, match=f"no seed for {world.names[-1]!r}"):
        small().fit(Counted(), missing, crop=48, progress=False)
    assert read in ([0], [0, 0])  # found out before the training
