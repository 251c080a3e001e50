"""Drawing: figures with a body and a signature part, and masks where they are drawn."""

import numpy as np
import pytest

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.drawing import draw
from wsss_kit.paperworld.words import SUBTYPES, Band, Dice, Scene, Thing


def scene_of(*names):
    things = (Thing(name, SUBTYPES[name][0], 0.3, 0.9, 0.6, False, 0.0) for name in names)
    return Scene("scene", (Band("fog", 0.0),), tuple(things))


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
