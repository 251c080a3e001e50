"""Regions painted pixel by pixel: values stay, and every eye tells the kinds of error apart."""

import io
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from wsss_kit.evaluation import ERROR_KINDS
from wsss_kit.plot import regions
from wsss_kit.plot.regions import ERROR_STYLES, Style, paint_regions

SEEN = {
    "everybody": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""Of linear RGB, at full severity (Machado, Oliveira and Fernandes, 2009)."""
APART = 20.0
"""Smallest distance in CIELAB; 2 is just noticed, side by side."""
LIGHT = [0.2126, 0.7152, 0.0722]


def linear(rgb):
    rgb = np.asarray(rgb, float)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIELAB of linear RGB under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], LIGHT, [0.0193, 0.1192, 0.9505]]
    xyz = np.asarray(to_xyz) @ np.clip(light, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one, other, eyes):
    seen = [lab(np.asarray(SEEN[eyes]) @ linear(to_rgb(colour))) for colour in (one, other)]
    return float(np.linalg.norm(seen[0] - seen[1]))


@pytest.mark.parametrize("eyes", SEEN)
def test_kinds_of_error_are_told_apart_by_colour(eyes):
    colours = [style.colour for style in ERROR_STYLES.values()]
    assert min(distance(*pair, eyes) for pair in combinations(colours, 2)) > APART
    # the measure knows who sees red and green as one
    assert (distance("#00c000", "#c08000", eyes) < 50) == (eyes in ("protanopia", "deuteranopia"))


def test_kinds_of_error_are_told_apart_by_hatches_alone():
    assert list(ERROR_STYLES) == list(ERROR_KINDS)  # paint_errors counts on the order
    drawn = [regions.hatching(style.hatch, (48, 48)) for style in ERROR_STYLES.values()]
    assert all(0.02 < each.mean() < 0.5 for each in drawn)
    assert all((one != other).mean() > 0.05 for one, other in combinations(drawn, 2))
    in_red = {regions.css_of(style._replace(colour="red")) for style in ERROR_STYLES.values()}
    assert len(in_red) == 4


@pytest.mark.parametrize("grey", np.linspace(0, 1, 11))
@pytest.mark.parametrize("eyes", SEEN)
def test_an_error_stands_out_from_the_image_around_it(grey, eyes):
    """Whatever grey the image has, in the colours as they are mixed with it."""
    values = np.zeros((96, 96), int)
    values[30:66, 30:66] = 1
    for style in ERROR_STYLES.values():
        shown = paint_regions(np.full((96, 96, 3), grey), values, {1: style})
        row = [np.asarray(SEEN[eyes]) @ linear(pixel) for pixel in shown[48, 26:36]]
        light = np.clip(np.asarray(row) @ LIGHT, 0, 1) + 0.05
        assert light.max() / light.min() > 4.5  # WCAG's ratio, in the line around the region


@pytest.mark.parametrize("size", [(96, 96), (375, 500), (500, 333), (1, 900), (13, 7)])
def test_an_image_fits_its_box_and_keeps_its_proportions(size):
    h, w = regions.fitted(size, (300, 520))
    assert h <= 300 and w <= 520 and (h == 300 or w == 520)
    if min(h, w) > 10:
        assert h / w == pytest.approx(size[0] / size[1], rel=0.01)


def test_masks_keep_their_values_and_small_images_their_pixels(rng):
    mask = torch.randint(0, 4, (5, 7), generator=rng)
    large, styles = np.full((150, 210, 3), 0.5), {v: Style(f"#{v}{v}0000") for v in range(4)}
    painted = paint_regions(large, mask, styles, alpha=1)
    middles = painted[15::30, 15::30, 0]  # of the 5 x 7 cells, away from their outlines
    assert middles * 15 == pytest.approx(mask.numpy(), abs=1e-5)
    image = torch.rand(4, 4, 3, generator=rng).numpy()
    large = image.repeat(2, 0).repeat(2, 1)
    assert np.abs(regions.fitted_image(image, (8, 8)) - large).max() < 1 / 255
    assert regions.fitted_image(np.ones((90, 90, 3)), (30, 30)).min() == 1


def test_regions_have_their_colour_inside_and_a_line_around():
    image, values = np.full((20, 20, 3), 0.5), np.zeros((20, 20), int)
    values[5:15, 5:15] = 2
    painted = paint_regions(image, values, {2: Style("#FF0000")}, alpha=0.6)
    assert painted[10, 10] == pytest.approx([0.8, 0.2, 0.2])
    assert painted[0, 0] == pytest.approx([0.5] * 3, abs=1e-6)
    assert (painted[5, 7] == 0).all() and (painted[4, 7] == 1).all()  # dark in a light line
    bare = paint_regions(image, values, {}, alpha=0.6)
    assert bare[10, 10] == pytest.approx([0.5] * 3, abs=1e-6)
    styles = regions.mask_styles([0, 1, 3, 255], np.zeros((9, 3)))
    assert set(styles) == {1, 3, 255} and styles[255].hatch


def test_names_are_written_inside_their_regions():
    mask = torch.zeros(60, 120, dtype=torch.int64)
    mask[:, 60:] = 1
    blank = np.full((240, 480, 3), 1.0)
    changed = (regions.write_names(blank, mask.numpy(), {1: "cow", 2: "cat"}) != blank).any(-1)
    assert changed.any() and not changed[:, :240].any()
    tiny = np.zeros((60, 120), int)
    tiny[0, 0] = 1
    assert (regions.write_names(blank, tiny, {1: "cow"}) == blank).all()
    whole = regions.paint_mask_named(blank, torch.ones(60, 120, dtype=torch.int64), ["a" * 99])
    assert whole.shape == blank.shape  # a long name in a region that fills the image


def test_pixels_come_back_from_the_file(rng):
    pixels = torch.rand(6, 5, 3, generator=rng).numpy()
    result = np.asarray(Image.open(io.BytesIO(regions.pixels_png(pixels)))) / 255
    assert np.abs(result - pixels).max() <= 0.5 / 255 + 1e-6


def test_a_framed_cell_is_the_cell_itself():
    framed = regions.frame_cell(torch.zeros(3, 12, 18), 5, (2, 3))  # cells of 6 by 6, the last
    assert framed[0].nonzero().amin(0).tolist() == [6, 12] and framed[0, 6:, 12:].sum() == 20
    assert framed.sum() == 20  # red, and nothing outside
    with pytest.raises(ValueError, match="cell is 6, expected 0 to 5 on a grid of 2 x 3"):
        regions.frame_cell(torch.zeros(3, 12, 18), 6, (2, 3))
