"""From a description to pixels: image, mask, parts and background kinds, all exact."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsss_kit.classes import IGNORE_INDEX, PAPER_CLASSES
from wsss_kit.paperworld.description import Dice, Hole, Scene
from wsss_kit.paperworld.figures import FIGURES, PAINTED, SIGNATURE, Pen
from wsss_kit.paperworld.papers import SHEET, VARIANTS, paper
from wsss_kit.paperworld.words import STUFF

OVERSAMPLING = 2  # figures are cut on a canvas of twice the side: smooth edges, exact masks
UNITS = 96.0  # papers are printed for an image 96 units wide
_NOISE = 6.0


class Drawing(NamedTuple):
    """One drawn image, height and width H and W.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 0 background, class index + 1 on objects.
        parts: (H, W) uint8, 0 background, 1 body, 2 signature part.
        stuff: (H, W) uint8, index into ``STUFF``, 255 on objects and plain paper.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    stuff: NDArray[np.uint8]


def draw(scene: Scene, dice: Dice, size: int) -> Drawing:
    """Draw a description.

    Args:
        scene: what to draw.
        dice: chooses the sheets, colour shifts, light and grain.
        size: side of the square image in pixels.

    Returns:
        The drawing.
    """
    ground, stuff = _background(scene, dice, size)
    for hole in scene.background_holes:
        _cut(ground, hole)
    small, codes = _clip(ground), np.zeros((size, size), np.uint8)
    if scene.things:
        canvas = small.repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)
        canvas, codes = _things(scene, dice, canvas)
        small = np.asarray(Image.fromarray(canvas).reduce(OVERSAMPLING))
        middle = slice(OVERSAMPLING // 2, None, OVERSAMPLING)
        codes = codes[middle, middle]
    small = small.astype(np.float32)
    for hole in scene.holes:
        _cut(small, hole)
    image = _light(small, dice, scene.light)
    value_of, part_of = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for k, thing in enumerate(scene.things):
        value_of[4 * k + 1 : 4 * k + 4] = PAPER_CLASSES.index(thing.name) + 1
        part_of[4 * k + 1 : 4 * k + 4] = 1
        part_of[4 * k + SIGNATURE] = 2
    mask, parts = value_of[codes], part_of[codes]
    stuff = np.where(mask > 0, np.uint8(IGNORE_INDEX), stuff)
    return Drawing(image, mask, parts, stuff)


def _background(
    scene: Scene, dice: Dice, size: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Lay the bands of paper: image (H, W, 3) and background kinds (H, W)."""
    image = np.full((size, size, 3), scene.plain or 0, np.float32)
    stuff = np.full((size, size), IGNORE_INDEX, np.uint8)
    side, along = round(SHEET * size / UNITS), np.arange(size)
    for band in scene.bands:
        sheet = paper(band.stuff, dice.integer(VARIANTS), side)
        y, x = dice.integer(side - size + 1), dice.integer(side - size + 1)
        piece = sheet[y : y + size, x : x + size].astype(np.float32)
        if dice.chance(0.5):
            piece = piece[:, ::-1]
        tint = np.array([dice.uniform(-10, 10) for _ in range(3)], np.float32)
        piece = piece * np.float32(1 + dice.uniform(-0.14, 0.14)) + tint
        edge = np.zeros(size)
        if band.top:
            x = along * (UNITS / size)
            swing = dice.uniform(0, 2.5) * np.sin(x / dice.uniform(6, 20) + dice.uniform(0, 6))
            slope = dice.uniform(-0.05, 0.05) * (x - UNITS / 2)
            edge = band.top * size + (swing + slope) * (size / UNITS)
        inside = along[:, None] >= edge
        np.copyto(image, piece, where=inside[..., None])
        stuff[inside] = STUFF.index(band.stuff)
    return image, stuff


def _cut(image: NDArray[np.float32], hole: Hole) -> None:
    """Darken the pixels of a hole in place."""
    size = len(image)
    along = (np.arange(size) + 0.5) / size
    away = ((along[:, None] - hole.y) / hole.ry) ** 2 + ((along[None] - hole.x) / hole.rx) ** 2
    image[away < 1] *= np.float32(hole.light)


def _things(
    scene: Scene, dice: Dice, canvas: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw the objects, cover their bodies with papers, tint them and let them cast a shadow."""
    side = len(canvas)
    image, code_map = Image.fromarray(canvas), Image.new("L", (side, side))
    for k, thing in enumerate(scene.things):
        FIGURES[thing.name](Pen(image, code_map, k, thing))
    canvas, codes = np.array(image), np.asarray(code_map)
    for k, thing in enumerate(scene.things):
        # a piece of the style's paper as large as the canvas, printed finer for small objects
        scale = 0.7 if thing.width < 0.5 else 1.0 if thing.width < 0.9 else 1.6
        printed = round(SHEET * side / UNITS / OVERSAMPLING * scale)
        sheet = paper(thing.subtype, dice.integer(2), max(side, printed))
        y, x = dice.integer(len(sheet) - side + 1), dice.integer(len(sheet) - side + 1)
        body = codes == 4 * k + PAINTED
        shades = canvas[body].astype(np.float32) * np.float32(1 / 200)
        canvas[body] = _clip(sheet[y : y + side, x : x + side][body] * shades)
        # one tint for the whole object, its signature part included
        tint = np.array([1 + dice.bell(0.06) for _ in range(3)], np.float32)
        whole = (codes >> 2 == k) & (codes > 0)
        canvas[whole] = _clip(canvas[whole] * (tint * np.float32(dice.uniform(0.88, 1.1))))
    # darken the sheet beside the objects: paper lies a little above it
    down, right = math.ceil(side / 64), math.ceil(side / 128)
    shaded = np.zeros(codes.shape, bool)
    shaded[down:, right:] = codes[:-down, :-right] > 0
    shaded &= codes == 0
    canvas[shaded] = _clip(canvas[shaded] * np.float32(0.72))
    return canvas, codes


def _light(image: NDArray[np.float32], dice: Dice, light: float) -> NDArray[np.uint8]:
    """Light the image from one side, and add grain."""
    size = len(image)
    ramp = (np.arange(size) * (2.0 / max(1, size - 1)) - 1).astype(np.float32)
    x, y = np.float32(dice.uniform(-0.1, 0.1)), np.float32(dice.uniform(-0.1, 0.1))
    level = np.float32(light * (1 + dice.uniform(-0.08, 0.08)))
    bright = image * (level * (1 + x * ramp[None, :] + y * ramp[:, None]))[..., None]
    # a piece of the noise; large images repeat it
    tiles = math.ceil(size / 480)
    sheet = np.tile(_noise_sheet(), (tiles, tiles, 1)) if tiles > 1 else _noise_sheet()
    y, x = dice.integer(33), dice.integer(33)
    if tiles == 1:
        y, x = dice.integer(513 - size), dice.integer(513 - size)
    return _clip(bright + sheet[y : y + size, x : x + size])


@cache
def _noise_sheet() -> NDArray[np.float32]:
    """Return one big sheet of sensor noise, most of it grey."""
    random = np.random.RandomState(7)
    bells = random.randint(0, 256, (4, 512, 512, 4)).sum(0).astype(np.float32)
    bells = (bells - np.float32(510)) * np.float32(1 / 147.8)  # four uniforms: near normal
    return bells[..., :3] * np.float32(_NOISE / 2) + bells[..., 3:] * np.float32(_NOISE)


def _clip(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).astype(np.uint8)
