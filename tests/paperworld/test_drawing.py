"""Drawing: exact masks, papers that tile no seam, holes and shadows where they belong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.drawing import VARIANTS, draw, paper
from wsss_kit.paperworld.words import (
    ANIMAL_STYLES,
    STUFF,
    SUBTYPES,
    VEHICLE_STYLES,
    Band,
    Dice,
    Hole,
    Scene,
    Thing,
)


def scene_of(*names, **changes):
    things = tuple(
        Thing(name, SUBTYPES[name][0], 0.3 + 0.4 * k, 0.9, 0.6, False, 0.0)
        for k, name in enumerate(names)
    )
    return replace(Scene("scene", (Band("fog", 0.0),), things), **changes)


@pytest.mark.parametrize("name", PAPER_CLASSES)
def test_every_figure_has_a_body_and_a_signature(name):
    drawing = draw(scene_of(name), Dice("figure"), 96)
    assert drawing.image.shape == (96, 96, 3) and drawing.image.dtype == np.uint8
    assert set(np.unique(drawing.mask)) == {0, PAPER_CLASSES.index(name) + 1}
    signature = (drawing.parts == 2).sum() / (drawing.parts > 0).sum()
    assert 0.08 < signature < 0.6


def test_masks_are_where_the_image_changes():
    """Drawn with and without the object, images differ on the mask and hardly elsewhere."""
    for name in PAPER_CLASSES:
        with_it, without = (
            draw(scene, Dice("same"), 96).image.astype(int)
            for scene in (scene_of(name), scene_of())
        )
        mask = draw(scene_of(name), Dice("same"), 96).mask > 0
        changed = np.abs(with_it - without).max(2) > 40
        assert changed[mask].mean() > 0.5
        grown = np.zeros_like(mask)
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                grown |= np.roll(mask, (dy, dx), (0, 1))
        assert changed[~grown].mean() < 0.01 or np.median(changed[~grown]) == 0


def test_the_nearer_object_covers_the_farther():
    near = scene_of("cat").things[0]
    far = replace(near, name="boat", subtype="red")
    drawing = draw(scene_of(things=(far, near)), Dice("cover"), 96)
    alone = draw(scene_of(things=(near,)), Dice("cover"), 96)
    cat = PAPER_CLASSES.index("cat") + 1
    assert np.array_equal(drawing.mask == cat, alone.mask == cat)


def test_mirroring_and_moving():
    thing = replace(scene_of("cow").things[0], x=0.5)
    straight = draw(scene_of(things=(thing,)), Dice("x"), 96).mask > 0
    mirrored = draw(scene_of(things=(replace(thing, mirrored=True),)), Dice("x"), 96).mask > 0
    overlap = (straight[:, ::-1] & mirrored).sum() / (straight[:, ::-1] | mirrored).sum()
    assert overlap > 0.9 > (straight & mirrored).sum() / (straight | mirrored).sum()
    moved = draw(scene_of(things=(replace(thing, ground=0.8),)), Dice("x"), 96).mask > 0
    rows = [np.flatnonzero(mask.any(1)) for mask in (straight, moved)]
    assert rows[0].max() - rows[1].max() == pytest.approx(0.1 * 96, abs=1.5)


def test_holes_darken_the_image_and_leave_the_mask():
    hole = Hole(0.25, 0.25, 0.2, 0.2, 0.0)
    plain, cut = (draw(scene_of("bus", holes=holes), Dice("hole"), 96) for holes in ((), (hole,)))
    assert cut.image[20:28, 20:28].max() < 40 < plain.image[20:28, 20:28].mean()
    assert np.array_equal(cut.mask, plain.mask) and np.array_equal(cut.stuff, plain.stuff)


def test_background_holes_lie_behind_the_objects():
    hole = Hole(0.5, 0.5, 2.0, 2.0, 0.0)  # all of it
    drawing = draw(scene_of("bus", background_holes=(hole,)), Dice("hole"), 96)
    assert (
        drawing.image[drawing.mask == 0].mean() < 25 < 60 < drawing.image[drawing.mask > 0].mean()
    )


def test_dim_light():
    bright, dim = (draw(scene_of(light=light), Dice("l"), 96).image.mean() for light in (1, 0.5))
    assert dim == pytest.approx(bright / 2, rel=0.05)


def test_bands_stack_from_top_to_bottom():
    scene = Scene("background", (Band("sky", 0.0), Band("sand", 0.5)))
    stuff = draw(scene, Dice("bands"), 96).stuff
    assert (stuff[:38] == STUFF.index("sky")).all() and (stuff[58:] == STUFF.index("sand")).all()
    assert set(np.unique(stuff)) == {STUFF.index("sky"), STUFF.index("sand")}


@pytest.mark.parametrize("name", [*STUFF, *VEHICLE_STYLES, *ANIMAL_STYLES])
def test_papers_are_printed_the_same_every_time(name):
    sheet = paper(name, 0, 160)
    assert sheet.shape == (160, 160, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet, paper.__wrapped__(name, 0, 160))
    assert sheet.std() > 2


def test_papers_differ():
    sheets = {paper(name, v, 80).tobytes() for name in STUFF for v in range(VARIANTS)}
    assert len(sheets) >= len(STUFF) * VARIANTS * 0.7  # regular patterns may repeat
    assert len({paper(name, 0, 80).tobytes() for name in STUFF}) == len(STUFF)
