"""Shares of the maps' mass, on maps whose shares are known."""

from __future__ import annotations

import math

import pytest
import torch

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.measures import PLACES, mass_shares
from wsss_kit.paperworld.words import HOME, STUFF


@pytest.fixture(scope="module")
def world():
    return PaperWorld(6, split="val", size=64)


def test_pixel_by_pixel(world):
    random = torch.Generator().manual_seed(0)
    maps = {name: torch.rand(8, 64, 64, generator=random) for name in world.names}
    mass = dict.fromkeys(PLACES, 0.0)
    for sample in world:
        mask, stuff = world.masks[sample.name].tolist(), world.stuff[sample.name].tolist()
        for c, name in enumerate(PAPER_CLASSES):
            if not sample.labels[c]:
                continue
            values = maps[sample.name][c].tolist()
            for y in range(64):
                for x in range(64):
                    if mask[y][x] == c + 1:
                        place = "object"
                    elif mask[y][x]:
                        place = "other object"
                    elif stuff[y][x] == STUFF.index(HOME[name]):
                        place = "usual background"
                    else:
                        place = "other background"
                    mass[place] += values[y][x]
    whole = sum(mass.values())
    result = mass_shares(maps, world)
    assert list(result) == list(PLACES) and sum(result.values()) == pytest.approx(1)
    assert result == pytest.approx({place: value / whole for place, value in mass.items()})
    assert all(value > 0 for value in result.values())  # the images show all four


def test_maps_of_absent_classes_do_not_count(world):
    maps = {s.name: 1 - s.labels[:, None, None].expand(8, 64, 64) for s in world}
    assert all(math.isnan(share) for share in mass_shares(maps, world).values())


def test_maps_that_do_not_fit(world):
    maps = {name: torch.zeros(8, 64, 64) for name in world.names}
    name = world.names[2]
    with pytest.raises(ValueError, match=f"no maps for '{name}'"):
        mass_shares({n: m for n, m in maps.items() if n != name}, world)
    with pytest.raises(ValueError, match=rf"maps of '{name}' have shape \(8, 4, 4\), expected"):
        mass_shares({**maps, name: torch.zeros(8, 4, 4)}, world)
    with pytest.raises(ValueError, match=f"the maps of '{name}' ranges from 0 to 3"):
        mass_shares({**maps, name: torch.zeros(8, 64, 64).index_fill(0, torch.tensor(1), 3)}, world)
