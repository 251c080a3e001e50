"""What is measured with the true parts, places and sub-types of the world, counted by hand."""

import math

import pytest
import torch

from wsss_kit import paperworld as measures
from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.words import HOME, STUFF


@pytest.fixture(scope="module")
def world():
    return PaperWorld(6, split="val", size=64)


def test_mass_pixel_by_pixel(world):
    random = torch.Generator().manual_seed(0)
    maps = {name: torch.rand(8, 64, 64, generator=random) for name in world.names}
    mass = dict.fromkeys(measures.PLACES, 0.0)
    for sample in world:
        mask, stuff = world.masks[sample.name].tolist(), world.stuff[sample.name].tolist()
        for c, name in enumerate(PAPER_CLASSES):
            if not sample.labels[c]:
                continue
            values = maps[sample.name][c].tolist()
            for y in range(64):
                for x in range(64):
                    at_home = stuff[y][x] == STUFF.index(HOME[name])
                    place = "usual background" if at_home else "other background"
                    if mask[y][x]:
                        place = "object" if mask[y][x] == c + 1 else "other object"
                    mass[place] += values[y][x]
    whole = sum(mass.values())
    result = measures.mass_shares(maps, world)
    assert list(result) == list(measures.PLACES) and sum(result.values()) == pytest.approx(1)
    assert result == pytest.approx({place: value / whole for place, value in mass.items()})
    assert all(value > 0 for value in result.values())  # the images show all four


def test_maps_of_absent_classes_do_not_count(world):
    maps = {s.name: 1 - s.labels[:, None, None].expand(8, 64, 64) for s in world}
    assert all(math.isnan(share) for share in measures.mass_shares(maps, world).values())


def test_maps_that_do_not_fit(world):
    maps = {name: torch.zeros(8, 64, 64) for name in world.names}
    name = world.names[2]
    with pytest.raises(ValueError, match=f"no maps for '{name}'"):
        measures.mass_shares({n: m for n, m in maps.items() if n != name}, world)


def test_parts_pixel_by_pixel(world):
    """Random masks, counted one pixel at a time."""
    random = torch.Generator().manual_seed(0)
    masks = {name: torch.randint(0, 4, (64, 64), generator=random) for name in world.names}
    masks[world.names[0]][:50] = 255
    right, all_of = [0, 0, 0], [0, 0, 0]
    for name in world.names:
        columns = (masks[name], world.masks[name], world.parts[name])
        rows = zip(*(column.flatten().tolist() for column in columns), strict=True)
        for ours, truth, part in rows:
            all_of[part] += 1
            right[part] += ours == truth
    result = measures.part_recall(masks, world)
    assert list(result) == list(measures.PARTS)
    assert list(result.values()) == pytest.approx([right[k] / all_of[k] for k in (1, 2)])


def test_only_the_body(world):
    masks = {n: world.masks[n] * (world.parts[n] == 1) for n in world.names}
    assert measures.part_recall(masks, world) == {"body": 1.0, "signature part": 0.0}


def test_a_part_that_nobody_shows():
    torn = PaperWorld(4, split="val", torn=1.0)
    result = measures.part_recall(torn.masks, torn)
    assert result["body"] == 1 and math.isnan(result["signature part"])


def test_masks_that_do_not_fit(world):
    name = world.names[3]
    with pytest.raises(ValueError, match=f"no mask for '{name}'; expected one for each of Paper"):
        measures.part_recall({n: world.masks[n] for n in world.names if n != name}, world)
    with pytest.raises(ValueError, match=rf"mask of '{name}' has shape \(2, 2\), expected \(64"):
        measures.part_recall({**world.masks, name: torch.zeros(2, 2)}, world)


def test_labels_say_what_the_world_says():
    world, names = PaperWorld(60, split="train"), measures.subtype_names()
    labels = measures.subtype_labels(world)
    assert labels.shape == (60, 24) == (60, len(set(names)))
    for name, row in zip(world.names, labels, strict=True):
        names_of_image = {names[j] for j in row.nonzero().flatten().tolist()}
        assert names_of_image == {f"{style} {parent}" for parent, style in world.subtypes[name]}
    parents = labels.unflatten(1, (8, 3)).amax(2)
    assert torch.equal(parents, torch.stack([sample.labels for sample in world]))
