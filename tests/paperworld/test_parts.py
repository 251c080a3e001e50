"""Recall of the parts, on masks whose recall is known."""

from __future__ import annotations

import math

import pytest
import torch

from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.measures import PARTS, part_recall


@pytest.fixture(scope="module")
def world():
    return PaperWorld(12, split="val")


def test_pixel_by_pixel(world):
    """Random masks, counted one pixel at a time."""
    random = torch.Generator().manual_seed(0)
    masks = {name: torch.randint(0, 4, (96, 96), generator=random) for name in world.names}
    masks[world.names[0]][:50] = 255
    right, all_of = [0, 0, 0], [0, 0, 0]
    for name in world.names:
        columns = (masks[name], world.masks[name], world.parts[name])
        rows = zip(*(column.flatten().tolist() for column in columns), strict=True)
        for ours, truth, part in rows:
            all_of[part] += 1
            right[part] += ours == truth
    result = part_recall(masks, world)
    assert list(result) == list(PARTS)
    assert list(result.values()) == pytest.approx([right[k] / all_of[k] for k in (1, 2)])


def test_only_the_body(world):
    masks = {n: world.masks[n] * (world.parts[n] == 1) for n in world.names}
    assert part_recall(masks, world) == {"body": 1.0, "signature part": 0.0}


def test_a_part_that_nobody_shows():
    torn = PaperWorld(4, split="val", torn=1.0)
    result = part_recall(torn.masks, torn)
    assert result["body"] == 1 and math.isnan(result["signature part"])


def test_masks_that_do_not_fit(world):
    name = world.names[3]
    with pytest.raises(ValueError, match=f"no mask for '{name}'; expected one for each of Paper"):
        part_recall({n: world.masks[n] for n in world.names if n != name}, world)
    with pytest.raises(
        ValueError, match=rf"mask of '{name}' has shape \(2, 2\), expected \(96, 96"
    ):
        part_recall(
            {n: torch.zeros(2, 2) if n == name else world.masks[n] for n in world.names}, world
        )
