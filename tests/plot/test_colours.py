"""Error maps for every eye: colours apart under simulated colour blindness, hatches without any."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from wsss_kit.evaluation import ERROR_KINDS
from wsss_kit.plot.regions import ERROR_STYLES, hatching, paint_regions

SEEN = {
    "everybody": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Of linear RGB, at full severity (Machado, Oliveira and Fernandes, 2009)."""
PAIRS = list(combinations(ERROR_KINDS, 2))
APART = 20.0
"""Least distance in CIELAB; 2 is just noticed, side by side."""


def linear(rgb):
    rgb = np.asarray(rgb, float)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIELAB of linear RGB under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.asarray(to_xyz) @ np.clip(light, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one, other, eyes):
    seen = [lab(np.asarray(SEEN[eyes]) @ linear(to_rgb(colour))) for colour in (one, other)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def contrast(one, other):
    """WCAG's ratio of two colours, 1 to 21."""
    light = sorted(linear(to_rgb(c)) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (one, other))
    return light[1] / light[0]


def test_the_measure_knows_red_from_green_and_who_does_not():
    assert distance("#00c000", "#c08000", "deuteranopia") < distance(
        "#00c000", "#c08000", "everybody"
    )
    assert contrast("black", "white") == pytest.approx(21, abs=0.01)


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_kinds_of_error_are_told_apart_by_colour(eyes, pair):
    one, other = (ERROR_STYLES[variant].colour for variant in pair)
    assert distance(one, other, eyes) > APART


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_and_without_any_colour_by_their_hatches(pair):
    one, other = (hatching(ERROR_STYLES[variant].hatch, (48, 48)) for variant in pair)
    assert (one != other).mean() > 0.05


@pytest.mark.parametrize("grey", np.linspace(0, 1, 11))
@pytest.mark.parametrize("eyes", SEEN)
def test_an_error_stands_out_from_the_image_around_it(grey, eyes):
    """Whatever grey the image has, in the colours as they are mixed with it."""
    values = np.zeros((96, 96), int)
    values[30:66, 30:66] = 1
    for style in ERROR_STYLES.values():
        shown = paint_regions(np.full((96, 96, 3), grey), values, {1: style})
        row = [np.asarray(SEEN[eyes]) @ linear(pixel) for pixel in shown[48, 26:36]]
        light = np.clip(np.asarray(row) @ [0.2126, 0.7152, 0.0722], 0, 1) + 0.05
        assert light.max() / light.min() > 4.5  # WCAG's ratio, in the line around the region
