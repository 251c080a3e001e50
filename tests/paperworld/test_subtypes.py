"""True sub-types as labels."""

from __future__ import annotations

import torch

from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.measures import subtype_labels, subtype_names


def test_labels_say_what_the_world_says():
    world, names = PaperWorld(60, split="train"), subtype_names()
    labels = subtype_labels(world)
    assert labels.shape == (60, 24) == (60, len(set(names)))
    for name, row in zip(world.names, labels, strict=True):
        names_of_image = {names[j] for j in row.nonzero().flatten().tolist()}
        assert names_of_image == {f"{style} {parent}" for parent, style in world.subtypes[name]}


def test_parents_are_the_labels_of_the_images():
    world = PaperWorld(60, split="train")
    parents = subtype_labels(world).unflatten(1, (8, 3)).amax(2)
    assert torch.equal(parents, torch.stack([sample.labels for sample in world]))
