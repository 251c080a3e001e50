"""Printed papers: the textures of the twelve background kinds and of the six body styles.

All randomness is NumPy's frozen ``RandomState`` and all smoothing is Pillow's integer resizing,
so the papers come out equal everywhere.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsss_kit.paperworld.words import ANIMAL_STYLES, STUFF, VEHICLE_STYLES

SHEET = 320  # side of a sheet in units; a picture is 96 units wide
VARIANTS = 4  # sheets of each background kind
Paper = NDArray[np.float64]
Colour = tuple[int, int, int]


class _Sheet:
    """Coordinates and noise of one square sheet."""

    def __init__(self, seed: int, side: int) -> None:
        self.random = np.random.RandomState(seed)
        self.side = side
        self.y, self.x = np.mgrid[:side, :side].astype(np.float64)

    def noise(self, *grains: tuple[int, int, float]) -> Paper:
        """Sum of smooth noises, each (grain width, grain height, amplitude), mean near 0."""
        total = np.zeros((self.side, self.side))
        for width, height, amplitude in grains:
            cells = (max(2, self.side // height), max(2, self.side // width))
            grid = self.random.randint(0, 256, cells).astype(np.uint8)
            smooth = Image.fromarray(grid).resize((self.side, self.side), Image.Resampling.BICUBIC)
            total += amplitude * (np.asarray(smooth, np.float64) / 74.0 - 1.72)
        return total

    def flat(self, colour: Colour) -> Paper:
        return np.broadcast_to(np.array(colour, np.float64), (self.side, self.side, 3)).copy()

    def between(self, low: Colour, high: Colour, mixture: Paper) -> Paper:
        share = np.clip(mixture, 0, 1)[..., None]
        return np.array(low, np.float64) * (1 - share) + np.array(high, np.float64) * share


def _water(s: _Sheet) -> Paper:
    waves = np.sin(s.y * 0.55 + 2.2 * s.noise((40, 40, 1.0)) + 0.05 * s.x)
    return s.between((34, 92, 150), (112, 168, 204), 0.5 + 0.28 * waves + s.noise((10, 3, 0.2)))


def _sky(s: _Sheet) -> Paper:
    clouds = s.noise((64, 40, 0.7), (24, 18, 0.4), (9, 7, 0.16)) - 0.25
    return s.between((112, 170, 232), (246, 248, 252), 0.85 * clouds)


def _rails(s: _Sheet) -> Paper:
    sheet = s.between((120, 110, 100), (160, 150, 140), 0.5 + s.noise((2, 2, 0.4)))
    row = s.y % 34
    sleepers = (((s.x + 3 * np.sin(s.y / 30)) % 14) < 5) & (row > 4) & (row < 28)
    sheet[sleepers] = (82, 58, 44)
    for top in (7, 21):
        sheet[(row > top) & (row < top + 3.5)] = (178, 184, 194)
        sheet[(row > top + 2.5) & (row < top + 3.5)] = (108, 110, 118)
    return sheet


def _road(s: _Sheet) -> Paper:
    sheet = s.between((70, 70, 74), (98, 98, 102), 0.5 + s.noise((2, 2, 0.35), (30, 30, 0.4)))
    sheet[((s.y % 40) < 3.5) & ((s.x % 34) < 20)] = (228, 224, 204)
    return sheet


def _grass(s: _Sheet) -> Paper:
    blades = 0.5 + s.noise((2, 9, 0.32), (30, 30, 0.4))
    return s.between((58, 120, 38), (140, 184, 74), blades)


def _sand(s: _Sheet) -> Paper:
    ripples = np.sin(s.y * 0.35 + s.x * 0.12 + 3 * s.noise((60, 60, 1.0)))
    return s.between((206, 172, 112), (240, 216, 164), 0.5 + 0.25 * ripples + s.noise((2, 2, 0.12)))


def _leaves(s: _Sheet) -> Paper:
    mottle = 0.5 + s.noise((7, 7, 0.5), (16, 16, 0.35))
    sheet = s.between((20, 62, 34), (78, 134, 62), np.round(mottle * 4) / 4)
    branch = np.abs((s.y + 0.5 * s.x + 8 * s.noise((40, 40, 1.0))) % 60 - 30) < 2.2
    sheet[branch] = (94, 68, 46)
    return sheet


def _carpet(s: _Sheet) -> Paper:
    diamonds = (np.abs(s.x % 20 - 10) + np.abs(s.y % 20 - 10)) < 7
    hearts = (np.abs(s.x % 20 - 10) + np.abs(s.y % 20 - 10)) < 3
    sheet = s.flat((128, 44, 58))
    sheet[diamonds] = (198, 152, 92)
    sheet[hearts] = (128, 44, 58)
    return sheet * (1 + s.noise((2, 2, 0.06)))[..., None]


def _bricks(s: _Sheet) -> Paper:
    row = np.floor(s.y / 9)
    mortar = ((s.y % 9) < 1.6) | (((s.x + (row % 2) * 9) % 18) < 1.6)
    sheet = s.between((150, 78, 58), (186, 110, 82), 0.5 + s.noise((9, 9, 0.4), (2, 2, 0.3)))
    sheet[mortar] = (204, 194, 182)
    return sheet


def _snow(s: _Sheet) -> Paper:
    drifts = np.sin(s.y * 0.16 + s.x * 0.03 + 3.5 * s.noise((50, 26, 1.0)))
    sheet = s.between((198, 212, 236), (252, 253, 255), 0.62 + 0.4 * drifts)
    sheet[s.random.randint(0, 70, (s.side, s.side)) == 0] = (168, 190, 226)
    return sheet


def _stone(s: _Sheet) -> Paper:
    pitch = 14  # one stone grows around a jittered point of every cell of this side
    cells = s.side // pitch + 3
    jitter = s.random.randint(0, 1000, (2, cells, cells)) / 1000.0
    tones = s.random.randint(0, 100, (cells, cells)) / 100.0
    row, column = (np.floor(axis / pitch).astype(int) + 1 for axis in (s.y, s.x))
    away, tone = [], []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            r, c = row + dy, column + dx
            y, x = (r - 1 + jitter[0][r, c]) * pitch, (c - 1 + jitter[1][r, c]) * pitch
            away.append(np.sqrt((s.y - y) ** 2 + (s.x - x) ** 2))
            tone.append(tones[r, c])
    order = np.argsort(np.stack(away), axis=0, kind="stable")[:2]
    first, second = np.take_along_axis(np.stack(away), order, 0)
    nearest = np.take_along_axis(np.stack(tone), order[:1], 0)[0]
    sheet = s.between((112, 116, 120), (172, 172, 168), nearest + s.noise((3, 3, 0.12)))
    sheet[second - first < 1.7] = (66, 68, 72)
    return sheet


def _fog(s: _Sheet) -> Paper:
    return s.between((158, 160, 170), (196, 198, 206), 0.5 + s.noise((90, 14, 0.45)))


def _wooden(s: _Sheet) -> Paper:
    grain = 0.5 + s.noise((16, 2, 0.35))
    sheet = s.between((138, 88, 48), (184, 128, 74), grain)
    sheet[(s.y % 7) < 1.2] = (88, 54, 30)
    return sheet


def _red(s: _Sheet) -> Paper:
    sheet = s.between((188, 40, 38), (206, 54, 48), 0.5 + s.noise((12, 12, 0.4)))
    dots = ((s.x + 6 * (np.floor(s.y / 10) % 2)) % 12 - 6) ** 2 + (s.y % 10 - 5) ** 2 < 3.4
    sheet[dots] = (248, 226, 206)
    return sheet


def _striped(s: _Sheet) -> Paper:
    sheet = s.flat((232, 232, 226))
    sheet[(s.y % 9) < 4.2] = (50, 92, 176)
    return sheet


def _spotted(s: _Sheet) -> Paper:
    sheet = s.flat((238, 236, 230))
    sheet[s.noise((11, 10, 1.0)) > 0.42] = (44, 40, 42)
    return sheet


def _golden(s: _Sheet) -> Paper:
    sheet = s.between((212, 146, 50), (230, 172, 70), 0.5 + s.noise((10, 10, 0.4)))
    sheet[((s.x + 0.6 * s.y) % 13) < 3.0] = (170, 98, 34)
    return sheet


def _grey(s: _Sheet) -> Paper:
    sheet = s.between((92, 100, 116), (118, 126, 140), 0.5 + s.noise((3, 6, 0.4)))
    scales = (s.x % 8 - 4) ** 2 + ((s.y + 4 * (np.floor(s.x / 8) % 2)) % 8 - 2) ** 2
    sheet[(scales > 11) & (scales < 17)] = (190, 198, 210)
    return sheet


_PRINTS = {
    "water": _water,
    "rails": _rails,
    "sky": _sky,
    "road": _road,
    "grass": _grass,
    "sand": _sand,
    "leaves": _leaves,
    "carpet": _carpet,
    "bricks": _bricks,
    "snow": _snow,
    "stone": _stone,
    "fog": _fog,
    "wooden": _wooden,
    "red": _red,
    "striped": _striped,
    "spotted": _spotted,
    "golden": _golden,
    "grey": _grey,
}
_ORDER = (*STUFF, *VEHICLE_STYLES, *ANIMAL_STYLES)


@lru_cache(maxsize=256)
def paper(name: str, variant: int = 0, side: int = SHEET) -> NDArray[np.uint8]:
    """A sheet of printed paper.

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
    sheet = _PRINTS[name](_Sheet(1000 * (1 + _ORDER.index(name)) + variant, SHEET))
    printed = np.clip(np.rint(sheet), 0, 255).astype(np.uint8)
    if side != SHEET:
        printed = np.asarray(
            Image.fromarray(printed).resize((side, side), Image.Resampling.BICUBIC)
        )
    return printed
