"""Controls: what they show is what was asked for, and moves with them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.paperworld import PaperWorld
from wsss_kit.widgets import ThresholdPicker


@pytest.fixture
def world():
    return PaperWorld(6, split="val")


@pytest.fixture
def maps(world):
    """Two methods with random maps."""
    random = torch.Generator().manual_seed(0)
    return {m: {n: torch.rand(8, 96, 96, generator=random) for n in world.names} for m in "ab"}


@pytest.fixture
def picker(world, maps):
    return ThresholdPicker(world, maps, world.masks, world.classes)


def expected(world, maps, picker):
    c = world.classes.index(picker.name.value)
    above = maps[picker.method.value][picker.picture.value][c] > picker.threshold.value
    truth = world.masks[picker.picture.value] == c + 1
    iou = ((above & truth).sum() / (above | truth).sum()).item()
    return above, f"{100 * above.float().mean():.0f} % of", f"true mask {100 * iou:.0f} %"


def test_every_control_moves_the_picture_and_the_words(world, maps, picker):
    seen = set()
    two = next(s.name for s in world if s.labels.sum() == 2)
    moves = [
        lambda: setattr(picker.threshold, "value", 0.6),
        lambda: setattr(picker.method, "value", "b"),
        lambda: setattr(picker.picture, "value", two),
        lambda: setattr(picker.name, "value", picker.name.options[1]),
    ]
    for move in (lambda: None, *moves):
        move()
        _, share, iou = expected(world, maps, picker)
        assert share in picker.words.value and picker.words.value.endswith(iou)
        assert f"{picker.method.value}, {picker.name.value}:" in picker.words.value
        seen.add(picker.view.value)
    assert len(seen) == 5


def test_what_exceeds_the_threshold_stays_bright(world, maps, picker):
    above, *_ = expected(world, maps, picker)
    shown = np.asarray(Image.open(io.BytesIO(picker.view.value)).convert("RGB"))
    assert shown.shape == (300, 600, 3)
    right = np.asarray(Image.fromarray(shown[:, 300:]).resize((96, 96), Image.Resampling.NEAREST))
    image = world[0].image.movedim(0, -1).numpy()
    wanted = np.where(above[..., None], image, 0.25 * image)
    assert np.abs(right / 255 - wanted).mean() < 0.02


def test_classes_are_those_of_the_picture(world, picker):
    for sample in world:
        picker.picture.value = sample.name
        present = [world.classes[c] for c in sample.labels.nonzero().flatten().tolist()]
        assert list(picker.name.options) == present and picker.name.value == present[0]


def test_ignored_pixels_do_not_count(world):
    name = world.names[0]
    c = int(world[0].labels.argmax())
    maps = {"m": {name: torch.ones(8, 96, 96)}}
    truth = torch.full((96, 96), 255)
    truth[:10] = c + 1
    picker = ThresholdPicker(world[:1], maps, {name: truth}, world.classes)
    assert picker.words.value.endswith("IoU with the true mask 100 %")


def test_nothing_to_pick(world, maps):
    bare = [s._replace(labels=torch.zeros(8)) for s in world]
    for samples, given in ((bare, maps), ([], maps), (world, {})):
        with pytest.raises(ValueError, match=r"there are \d methods and \d pictures with a class"):
            ThresholdPicker(samples, given, world.masks, world.classes)
