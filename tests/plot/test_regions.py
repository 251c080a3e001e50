"""Regions painted pixel by pixel: values stay, outlines are where values change, hatches differ."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.evaluation import ERROR_KINDS
from wsss_kit.plot.regions import (
    ERROR_STYLES,
    Style,
    css_of,
    enlarged,
    enlarged_mask,
    fitted,
    hatching,
    mask_styles,
    paint_mask_named,
    paint_regions,
    pixels_png,
    write_names,
)


@pytest.mark.parametrize("size", [(96, 96), (375, 500), (500, 333), (1, 900), (13, 7)])
def test_an_image_fits_its_box_and_keeps_its_proportions(size):
    h, w = fitted(size, (300, 520))
    assert h <= 300 and w <= 520 and (h == 300 or w == 520)
    if min(h, w) > 10:
        assert h / w == pytest.approx(size[0] / size[1], rel=0.01)


def test_masks_keep_their_values_and_small_images_their_pixels(rng):
    mask = torch.randint(0, 4, (5, 7), generator=rng)
    large = enlarged_mask(mask, (15, 21))
    assert (large == mask.numpy().repeat(3, 0).repeat(3, 1)).all()
    assert (enlarged_mask(large, (5, 7)) == mask.numpy()).all()
    image = torch.rand(4, 4, 3, generator=rng).numpy()
    assert np.abs(enlarged(image, (8, 8)) - image.repeat(2, 0).repeat(2, 1)).max() < 1 / 255
    assert enlarged(np.ones((90, 90, 3)), (30, 30)).min() == 1


def test_hatches_are_told_apart_without_colour():
    drawn = [hatching(style.hatch, (48, 48)) for style in ERROR_STYLES.values()]
    assert list(ERROR_STYLES) == list(ERROR_KINDS)  # paint_errors counts on the order
    assert len({style.hatch for style in ERROR_STYLES.values()}) == 4
    for i, one in enumerate(drawn):
        assert 0.02 < one.mean() < 0.5
        for other in drawn[:i]:
            assert (one != other).mean() > 0.1
    with pytest.raises(ValueError, match=r"hatch is '\+', expected one of"):
        hatching("+", (2, 2))
    assert len({css_of(style) for style in ERROR_STYLES.values()}) == 4


def test_regions_have_their_colour_inside_and_a_line_around():
    image = np.full((20, 20, 3), 0.5)
    values = np.zeros((20, 20), int)
    values[5:15, 5:15] = 2
    painted = paint_regions(image, values, {2: Style("#FF0000")}, alpha=0.6)
    assert painted[10, 10] == pytest.approx([0.8, 0.2, 0.2])
    assert painted[0, 0] == pytest.approx([0.5] * 3, abs=1e-6)
    assert (painted[5, 7] == 0).all() and (painted[4, 7] == 1).all()  # dark in a light line
    bare = paint_regions(image, values, {}, alpha=0.6)
    assert bare[10, 10] == pytest.approx([0.5] * 3, abs=1e-6)


def test_masks_show_background_as_it_is_and_ignored_pixels_hatched():
    assert set(mask_styles([0, 1, 3, 255], 8)) == {1, 3, 255}
    assert mask_styles([255], 8)[255].hatch


def test_names_are_written_inside_their_regions():
    mask = torch.zeros(60, 120, dtype=torch.int64)
    mask[:, 60:] = 1
    blank = np.full((240, 480, 3), 1.0)
    painted = write_names(blank, mask.numpy(), {1: "cow", 2: "cat"})
    changed = (painted != blank).any(-1)
    assert changed.any() and not changed[:, :240].any()
    tiny = torch.zeros(60, 120, dtype=torch.int64)
    tiny[0, 0] = 1
    assert (write_names(blank, tiny.numpy(), {1: "cow"}) == blank).all()
    whole = paint_mask_named(blank, torch.ones(60, 120, dtype=torch.int64), ["a" * 99])
    assert whole.shape == blank.shape  # a long name in a region that fills the image


def test_pixels_come_back_from_the_file(rng):
    pixels = torch.rand(6, 5, 3, generator=rng).numpy()
    result = np.asarray(Image.open(io.BytesIO(pixels_png(pixels)))) / 255
    assert np.abs(result - pixels).max() <= 0.5 / 255 + 1e-6
