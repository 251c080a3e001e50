"""From a description to pixels: image, mask, parts and background kinds, all exact.

Textures are printed papers, of the twelve background kinds and of the six body styles. Their
randomness is NumPy's frozen ``RandomState`` and their smoothing Pillow's integer resizing, so they
come out equal everywhere.
"""

import math
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsss_kit.classes import IGNORE_INDEX, PAPER_CLASSES
from wsss_kit.paperworld.figures import FIGURES, PAINTED, SIGNATURE, Pen
from wsss_kit.paperworld.words import ANIMAL_STYLES, STUFF, VEHICLE_STYLES, Dice, Hole, Scene

SHEET = 320  # side of a sheet in units; an image is 96 units wide
VARIANTS = 4  # sheets of each background kind
Paper = NDArray[np.float64]
Colour = tuple[int, int, int]


class _Sheet:
    """Coordinates and noise of one square sheet, and a method for each paper, by its name."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.RandomState(seed)
        self.y, self.x = np.mgrid[:SHEET, :SHEET].astype(np.float64)

    def noise(self, *grains: tuple[int, int, float]) -> Paper:
        """Add smooth noises, each (grain width, grain height, amplitude), mean near 0."""
        total = np.zeros((SHEET, SHEET))
        for width, height, amplitude in grains:
            cells = (max(2, SHEET // height), max(2, SHEET // width))
            grid = self.random.randint(0, 256, cells).astype(np.uint8)
            smooth = Image.fromarray(grid).resize((SHEET, SHEET), Image.Resampling.BICUBIC)
            total += amplitude * (np.asarray(smooth, np.float64) / 74.0 - 1.72)
        return total

    def mixed(
        self, low: Colour, high: Colour, mixture: Paper, *marks: tuple[NDArray[np.bool_], Colour]
    ) -> Paper:
        """Mix two colours, (side, side) shares of the second; put marks of one colour on them."""
        share = np.clip(mixture, 0, 1)[..., None]
        sheet = np.array(low, np.float64) * (1 - share) + np.array(high, np.float64) * share
        for where, colour in marks:
            sheet[where] = colour
        return sheet

    def flat(self, colour: Colour, *marks: tuple[NDArray[np.bool_], Colour]) -> Paper:
        """Put marks on one colour."""
        return self.mixed(colour, colour, np.zeros((SHEET, SHEET)), *marks)

    def water(self) -> Paper:
        waves = np.sin(self.y * 0.55 + 2.2 * self.noise((40, 40, 1.0)) + 0.05 * self.x)
        mixture = 0.5 + 0.28 * waves + self.noise((10, 3, 0.2))
        return self.mixed((34, 92, 150), (112, 168, 204), mixture)

    def sky(self) -> Paper:
        clouds = self.noise((64, 40, 0.7), (24, 18, 0.4), (9, 7, 0.16)) - 0.25
        return self.mixed((112, 170, 232), (246, 248, 252), 0.85 * clouds)

    def rails(self) -> Paper:
        gravel = 0.5 + self.noise((2, 2, 0.4))
        row = self.y % 34
        sleepers = ((self.x + 3 * np.sin(self.y / 30)) % 14 < 5) & (row > 4) & (row < 28)
        marks = [(sleepers, (82, 58, 44))]
        for top in (7, 21):
            marks.append(((row > top) & (row < top + 3.5), (178, 184, 194)))
            marks.append(((row > top + 2.5) & (row < top + 3.5), (108, 110, 118)))
        return self.mixed((120, 110, 100), (160, 150, 140), gravel, *marks)

    def road(self) -> Paper:
        tar = self.noise((2, 2, 0.35), (30, 30, 0.4))
        lines = (self.y % 40 < 3.5) & (self.x % 34 < 20)
        return self.mixed((70, 70, 74), (98, 98, 102), 0.5 + tar, (lines, (228, 224, 204)))

    def grass(self) -> Paper:
        blades = self.noise((2, 9, 0.32), (30, 30, 0.4))
        return self.mixed((58, 120, 38), (140, 184, 74), 0.5 + blades)

    def sand(self) -> Paper:
        ripples = np.sin(self.y * 0.35 + self.x * 0.12 + 3 * self.noise((60, 60, 1.0)))
        mixture = 0.5 + 0.25 * ripples + self.noise((2, 2, 0.12))
        return self.mixed((206, 172, 112), (240, 216, 164), mixture)

    def leaves(self) -> Paper:
        mottle = np.round((0.5 + self.noise((7, 7, 0.5), (16, 16, 0.35))) * 4) / 4
        branch = (self.y + 0.5 * self.x + 8 * self.noise((40, 40, 1.0))) % 60 - 30
        return self.mixed((20, 62, 34), (78, 134, 62), mottle, (np.abs(branch) < 2.2, (94, 68, 46)))

    def carpet(self) -> Paper:
        away = np.abs(self.x % 20 - 10) + np.abs(self.y % 20 - 10)
        sheet = self.flat((128, 44, 58), (away < 7, (198, 152, 92)), (away < 3, (128, 44, 58)))
        return sheet * (1 + self.noise((2, 2, 0.06)))[..., None]

    def bricks(self) -> Paper:
        clay = self.noise((9, 9, 0.4), (2, 2, 0.3))
        row = np.floor(self.y / 9)
        mortar = (self.y % 9 < 1.6) | ((self.x + (row % 2) * 9) % 18 < 1.6)
        return self.mixed((150, 78, 58), (186, 110, 82), 0.5 + clay, (mortar, (204, 194, 182)))

    def snow(self) -> Paper:
        drifts = np.sin(self.y * 0.16 + self.x * 0.03 + 3.5 * self.noise((50, 26, 1.0)))
        glints = self.random.randint(0, 70, (SHEET, SHEET)) == 0
        mixture = 0.62 + 0.4 * drifts
        return self.mixed((198, 212, 236), (252, 253, 255), mixture, (glints, (168, 190, 226)))

    def stone(self) -> Paper:
        pitch = 14  # one stone grows around a jittered point of every cell of this side
        cells = SHEET // pitch + 3
        jitter = self.random.randint(0, 1000, (2, cells, cells)) / 1000.0
        tones = self.random.randint(0, 100, (cells, cells)) / 100.0
        row, column = (np.floor(axis / pitch).astype(int) + 1 for axis in (self.y, self.x))
        away, tone = [], []
        for dy, dx in np.ndindex(3, 3):
            r, c = row + dy - 1, column + dx - 1
            y, x = (r - 1 + jitter[0][r, c]) * pitch, (c - 1 + jitter[1][r, c]) * pitch
            away.append(np.sqrt((self.y - y) ** 2 + (self.x - x) ** 2))
            tone.append(tones[r, c])
        order = np.argsort(np.stack(away), axis=0, kind="stable")[:2]
        first, second = np.take_along_axis(np.stack(away), order, 0)
        nearest = np.take_along_axis(np.stack(tone), order[:1], 0)[0] + self.noise((3, 3, 0.12))
        joints = (second - first < 1.7, (66, 68, 72))
        return self.mixed((112, 116, 120), (172, 172, 168), nearest, joints)

    def fog(self) -> Paper:
        return self.mixed((158, 160, 170), (196, 198, 206), 0.5 + self.noise((90, 14, 0.45)))

    def wooden(self) -> Paper:
        grain = 0.5 + self.noise((16, 2, 0.35))
        return self.mixed((138, 88, 48), (184, 128, 74), grain, (self.y % 7 < 1.2, (88, 54, 30)))

    def red(self) -> Paper:
        paint = 0.5 + self.noise((12, 12, 0.4))
        shift = 6 * (np.floor(self.y / 10) % 2)
        dots = ((self.x + shift) % 12 - 6) ** 2 + (self.y % 10 - 5) ** 2 < 3.4
        return self.mixed((188, 40, 38), (206, 54, 48), paint, (dots, (248, 226, 206)))

    def striped(self) -> Paper:
        return self.flat((232, 232, 226), (self.y % 9 < 4.2, (50, 92, 176)))

    def spotted(self) -> Paper:
        return self.flat((238, 236, 230), (self.noise((11, 10, 1.0)) > 0.42, (44, 40, 42)))

    def golden(self) -> Paper:
        fur = 0.5 + self.noise((10, 10, 0.4))
        stripes = (self.x + 0.6 * self.y) % 13 < 3.0
        return self.mixed((212, 146, 50), (230, 172, 70), fur, (stripes, (170, 98, 34)))

    def grey(self) -> Paper:
        hide = 0.5 + self.noise((3, 6, 0.4))
        shift = 4 * (np.floor(self.x / 8) % 2)
        rings = (self.x % 8 - 4) ** 2 + ((self.y + shift) % 8 - 2) ** 2
        marks = ((rings > 11) & (rings < 17), (190, 198, 210))
        return self.mixed((92, 100, 116), (118, 126, 140), hide, marks)


_ORDER = (*STUFF, *VEHICLE_STYLES, *ANIMAL_STYLES)


@lru_cache(maxsize=256)
def paper(name: str, variant: int = 0, side: int = SHEET) -> NDArray[np.uint8]:
    """Print a sheet of paper.

    Args:
        name: a background kind (``STUFF``) or a body style.
        variant: which of the ``VARIANTS`` sheets.
        side: pixels to show the sheet at; it is printed at 320 and resized.

    Returns:
        (side, side, 3) uint8 RGB.

    Example:
        >>> paper("water", side=320).shape
        (320, 320, 3)
    """
    sheet = getattr(_Sheet(1000 * (1 + _ORDER.index(name)) + variant), name)()
    printed = np.clip(np.rint(sheet), 0, 255).astype(np.uint8)
    if side == SHEET:
        return printed
    return np.asarray(Image.fromarray(printed).resize((side, side), Image.Resampling.BICUBIC))


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


def _clip(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).astype(np.uint8)
