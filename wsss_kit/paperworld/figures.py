"""The eight figures, cut from paper: what is body, what is the signature part.

Figures are drawn in their own frame: x runs from 0 to 1 along the width, y upwards from the
ground in the same unit. A pen puts them on the image and writes beside every pixel whose it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsss_kit.classes import PAPER_CLASSES

if TYPE_CHECKING:
    from PIL import Image

    from wsss_kit.paperworld.words import Thing

Point = tuple[float, float]
Colour = tuple[int, int, int]

PAINTED, DETAIL, SIGNATURE = 1, 2, 3  # a pixel's code is 4 * instance + one of these

_HEIGHTS = (0.82, 0.46, 0.56, 0.54, 0.84, 0.95, 0.70, 0.92)
HEIGHT = dict(zip(PAPER_CLASSES, _HEIGHTS, strict=True))
"""Height of each figure in units of its width."""

_GLASS, _TYRE, _HUB = (206, 222, 232), (34, 34, 38), (152, 152, 158)
_WHITE, _BLACK = (250, 250, 250), (18, 18, 20)


def box(left: float, low: float, right: float, high: float) -> list[Point]:
    """Return the corners of an upright rectangle."""
    return [(left, low), (right, low), (right, high), (left, high)]


def disc(x: float, y: float, rx: float, ry: float, turn: float = 0.0, n: int = 20) -> list[Point]:
    """Return the corners of a polygon close to an ellipse, turned by ``turn`` radians."""
    cos, sin = math.cos(turn), math.sin(turn)
    corners = []
    for k in range(n):
        a, b = rx * math.cos(2 * math.pi * k / n), ry * math.sin(2 * math.pi * k / n)
        corners.append((x + a * cos - b * sin, y + a * sin + b * cos))
    return corners


class Pen:
    """Draws one figure on an image and its code on a code map of the same size.

    Args:
        image: RGB; painted body is drawn as grey, the shade of a paper pasted later.
        codes: one channel.
        instance: number of the object in its scene, from 0.
        thing: the object; without its signature part if it is torn.
    """

    def __init__(self, image: Image.Image, codes: Image.Image, instance: int, thing: Thing) -> None:
        from PIL import ImageDraw  # brings fonts, which `import wsss_kit` need not wait for

        self.image, self.codes = ImageDraw.Draw(image), ImageDraw.Draw(codes)
        self.instance, self.thing, self.side = instance, thing, codes.width

    def _draw(self, points: Sequence[Point], colour: Colour, part: int) -> None:
        thing, width = self.thing, self.thing.width * self.side
        cos, sin = math.cos(thing.turn), math.sin(thing.turn)
        corners = []
        for x, y in points:
            a, b = (x - 0.5) * (-width if thing.mirrored else width), y * width
            # whole numbers: rounding noise of cos and sin cannot show
            across = round(thing.x * self.side + a * cos - b * sin)
            corners.append((across, round(thing.ground * self.side - a * sin - b * cos)))
        self.image.polygon(corners, fill=colour)
        self.codes.polygon(corners, fill=4 * self.instance + part)

    def paint(self, points: Sequence[Point], shade: float = 1.0) -> None:
        """Draw body to be covered with the style's paper, darkened by ``shade``."""
        grey = round(200 * shade)
        self._draw(points, (grey, grey, grey), PAINTED)

    def detail(self, points: Sequence[Point], colour: Colour) -> None:
        """Draw body in a colour of its own: windows, wheels, legs of birds."""
        self._draw(points, colour, DETAIL)

    def sign(self, points: Sequence[Point], colour: Colour) -> None:
        """Draw the part that tells the class; a torn figure has lost it."""
        if not self.thing.torn:
            self._draw(points, colour, SIGNATURE)


def _wheels(pen: Pen, places: Sequence[float], radius: float) -> None:
    for x in places:
        pen.detail(disc(x, radius, radius, radius, n=14), _TYRE)
        pen.detail(disc(x, radius, radius * 0.45, radius * 0.45, n=8), _HUB)


def _boat(pen: Pen) -> None:
    pen.paint(box(0.14, 0.26, 0.46, 0.44), 0.85)
    for x in (0.19, 0.29, 0.38):
        pen.detail(box(x, 0.33, x + 0.05, 0.39), (60, 80, 110))
    pen.paint([(0.0, 0.30), (1.0, 0.30), (0.86, 0.0), (0.14, 0.0)])
    pen.paint([(0.0, 0.30), (1.0, 0.30), (0.99, 0.27), (0.01, 0.27)], 0.7)
    pen.sign(box(0.60, 0.30, 0.635, 0.82), (70, 52, 40))
    pen.sign([(0.645, 0.35), (0.645, 0.82), (0.94, 0.35)], (246, 242, 232))
    pen.sign([(0.645, 0.50), (0.645, 0.63), (0.765, 0.63), (0.845, 0.50)], (226, 62, 74))
    pen.sign([(0.59, 0.36), (0.59, 0.72), (0.44, 0.36)], (246, 242, 232))


def _train(pen: Pen) -> None:
    pen.paint(box(0.0, 0.08, 0.80, 0.44))
    pen.paint(box(0.0, 0.08, 0.80, 0.13), 0.6)
    pen.paint(box(0.0, 0.41, 0.80, 0.44), 0.75)
    for x in (0.06, 0.24, 0.42, 0.60):
        pen.detail(box(x, 0.24, x + 0.11, 0.36), _GLASS)
    _wheels(pen, (0.10, 0.26, 0.54, 0.70), 0.055)
    pen.sign([(0.79, 0.06), (1.0, 0.06), (1.0, 0.24), (0.92, 0.46), (0.79, 0.46)], (240, 208, 40))
    pen.sign([(0.84, 0.28), (0.97, 0.28), (0.91, 0.42), (0.84, 0.42)], (28, 34, 52))
    pen.sign(box(0.79, 0.10, 1.0, 0.135), (44, 40, 44))
    pen.sign(disc(0.94, 0.19, 0.035, 0.035, n=10), (255, 255, 240))
    pen.sign(disc(0.86, 0.06, 0.055, 0.055, n=12), _TYRE)


def _plane(pen: Pen) -> None:
    pen.paint([(0.42, 0.26), (0.58, 0.26), (0.44, 0.46), (0.36, 0.46)], 0.75)
    pen.paint(disc(0.52, 0.24, 0.48, 0.10, n=24))
    for x in (0.34, 0.44, 0.54, 0.64, 0.74):
        pen.detail(disc(x, 0.265, 0.02, 0.022, n=8), (60, 80, 110))
    pen.detail([(0.88, 0.29), (0.97, 0.25), (0.88, 0.24)], (40, 52, 74))
    pen.paint([(0.40, 0.24), (0.64, 0.24), (0.40, -0.02), (0.27, -0.02)], 0.85)
    pen.sign([(0.02, 0.27), (0.24, 0.31), (0.11, 0.57), (-0.02, 0.57)], (206, 30, 46))
    pen.sign(disc(0.078, 0.45, 0.042, 0.042, n=12), (250, 246, 236))
    pen.sign([(0.0, 0.25), (0.16, 0.25), (0.07, 0.15), (-0.04, 0.15)], (206, 30, 46))


def _bus(pen: Pen) -> None:
    pen.paint(box(0.0, 0.07, 0.84, 0.52))
    pen.paint(box(0.0, 0.07, 0.84, 0.11), 0.6)
    pen.paint(box(0.0, 0.49, 0.84, 0.52), 0.75)
    for x in (0.06, 0.25, 0.44, 0.63):
        pen.detail(box(x, 0.28, x + 0.14, 0.42), _GLASS)
    _wheels(pen, (0.18, 0.66), 0.085)
    pen.sign([(0.84, 0.07), (1.0, 0.07), (1.0, 0.26), (0.97, 0.52), (0.84, 0.52)], (40, 152, 152))
    pen.sign([(0.87, 0.28), (0.985, 0.28), (0.96, 0.45), (0.87, 0.45)], (208, 242, 252))
    pen.sign(disc(0.95, 0.17, 0.042, 0.042, n=10), (255, 236, 120))
    pen.sign(box(0.86, 0.465, 0.965, 0.505), (250, 170, 40))


def _quadruped(pen: Pen, low: float, high: float, legs: Sequence[float]) -> None:
    for x in legs:
        pen.paint(box(x - 0.03, 0.0, x + 0.03, low + 0.1), 0.78)
        pen.detail(box(x - 0.03, 0.0, x + 0.03, 0.035), (52, 44, 40))
    tail = [(0.05, high - 0.04), (0.02, low + 0.02), (0.05, low + 0.02), (0.09, high - 0.1)]
    pen.paint(tail, 0.6)
    pen.paint(disc(0.41, (low + high) / 2, 0.35, (high - low) / 2, n=24))
    pen.paint(box(0.13, low + 0.04, 0.69, high - 0.02))


def _cow(pen: Pen) -> None:
    _quadruped(pen, 0.26, 0.62, (0.16, 0.27, 0.58, 0.68))
    pen.detail(disc(0.50, 0.27, 0.07, 0.05, n=12), (240, 168, 170))
    pen.sign([(0.78, 0.72), (0.73, 0.85), (0.83, 0.76)], (242, 234, 208))
    pen.sign([(0.92, 0.72), (0.98, 0.85), (0.88, 0.76)], (242, 234, 208))
    pen.sign(disc(0.73, 0.68, 0.05, 0.03, -0.4, n=10), (76, 46, 34))
    pen.sign(disc(0.85, 0.62, 0.11, 0.145), (98, 60, 44))
    pen.sign(disc(0.86, 0.50, 0.095, 0.07, n=14), (242, 162, 164))
    for x in (0.81, 0.90):
        pen.sign(disc(x, 0.66, 0.024, 0.026, n=8), _WHITE)
    for x in (0.83, 0.89):
        pen.sign(disc(x, 0.50, 0.012, 0.016, n=6), (120, 50, 60))


def _camel(pen: Pen) -> None:
    _quadruped(pen, 0.38, 0.62, (0.16, 0.27, 0.56, 0.67))
    pen.paint(disc(0.40, 0.62, 0.17, 0.17, n=22))
    neck = [(0.66, 0.58), (0.74, 0.42), (0.86, 0.56), (0.94, 0.86), (0.84, 0.90), (0.78, 0.64)]
    pen.sign(neck, (178, 134, 80))
    pen.sign(disc(0.92, 0.89, 0.105, 0.062, n=14), (178, 134, 80))
    pen.sign(disc(0.85, 0.95, 0.03, 0.025, n=8), (140, 100, 58))
    pen.sign(box(0.93, 0.83, 0.955, 0.95), (182, 30, 62))
    pen.sign(disc(0.885, 0.91, 0.018, 0.02, n=8), _BLACK)


def _bird(pen: Pen) -> None:
    for x in (0.42, 0.53):
        pen.detail(box(x, -0.06, x + 0.026, 0.16), (196, 120, 44))
    pen.paint([(0.22, 0.38), (-0.02, 0.18), (0.06, 0.08), (0.3, 0.2)], 0.6)
    pen.paint(disc(0.46, 0.33, 0.31, 0.21, 0.25, n=24))
    pen.paint(disc(0.38, 0.33, 0.19, 0.11, 0.2), 0.74)
    pen.sign(disc(0.76, 0.56, 0.145, 0.145), (36, 38, 84))
    pen.sign([(0.87, 0.62), (0.87, 0.50), (1.05, 0.54)], (250, 142, 22))
    pen.sign(disc(0.79, 0.60, 0.05, 0.05, n=10), _WHITE)
    pen.sign(disc(0.80, 0.60, 0.022, 0.022, n=8), _BLACK)


def _cat(pen: Pen) -> None:
    tail = [(0.12, 0.06), (0.02, 0.3), (0.08, 0.56), (0.15, 0.54), (0.11, 0.3), (0.24, 0.12)]
    pen.paint(tail, 0.78)
    pen.paint(disc(0.42, 0.26, 0.33, 0.26, n=24))
    pen.paint(disc(0.56, 0.34, 0.20, 0.26))
    for x in (0.52, 0.66):
        pen.paint(disc(x, 0.035, 0.08, 0.04, n=12), 1.15)
    pen.sign([(0.56, 0.68), (0.58, 0.92), (0.70, 0.80)], (92, 72, 68))
    pen.sign([(0.92, 0.68), (0.90, 0.92), (0.78, 0.80)], (92, 72, 68))
    pen.sign(disc(0.74, 0.66, 0.19, 0.165), (170, 148, 130))
    for x in (0.66, 0.82):
        pen.sign(disc(x, 0.69, 0.047, 0.047, n=10), (92, 222, 92))
        pen.sign(disc(x, 0.69, 0.018, 0.036, n=8), _BLACK)
    pen.sign([(0.71, 0.62), (0.77, 0.62), (0.74, 0.58)], (250, 132, 152))
    for end in (0.56, 0.60):
        pen.sign([(0.68, 0.595), (0.54, end), (0.54, end + 0.012), (0.68, 0.605)], (240, 236, 230))
        pen.sign([(0.80, 0.595), (0.94, end), (0.94, end + 0.012), (0.80, 0.605)], (240, 236, 230))


_FIGURES = (_boat, _train, _plane, _bus, _cow, _camel, _bird, _cat)
FIGURES = dict(zip(PAPER_CLASSES, _FIGURES, strict=True))
"""Class name to the function that draws it."""
