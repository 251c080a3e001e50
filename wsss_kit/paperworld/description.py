"""The description of an image: its bands of background, things and holes; and the dice that choose.

A description is all that captions and labels are made from, so neither ever depends on pixels.
Positions and sizes are in units of the image's side, y downwards.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from wsss_kit.classes import PAPER_CLASSES

Item = TypeVar("Item")


class Dice:
    """A stream of random choices named by a text, the same on every platform and version.

    Python promises that ``random.Random(text).random()`` keeps its sequence for good; NumPy's
    generators and Python's own ``choice`` and ``shuffle`` do not promise that. So everything the
    world decides goes through ``random()`` alone.

    Args:
        name: any text; equal names give equal streams.

    Example:
        >>> Dice("web/0/7").integer(10) == Dice("web/0/7").integer(10)
        True
    """

    def __init__(self, name: str) -> None:
        self._random = random.Random(name).random

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high); a reversed range is allowed."""
        return low + (high - low) * self._random()

    def bell(self, spread: float) -> float:
        """Return a number near 0 with standard deviation ``spread``, never beyond three of them."""
        return spread * 2.0 * (self._random() + self._random() + self._random() - 1.5)

    def integer(self, bound: int) -> int:
        """Return an integer in 0 .. bound - 1."""
        return int(self._random() * bound)

    def pick(self, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
        """Return one of the items, evenly or by weights that sum to 1."""
        if weights is None:
            return items[self.integer(len(items))]
        mark = self._random()
        for item, weight in zip(items, weights, strict=True):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def draw(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return ``count`` different items in random order."""
        pool = list(items)
        return [pool.pop(self.integer(len(pool))) for _ in range(count)]


@dataclass(frozen=True)
class Band:
    """A strip of background from ``top`` down to the next band."""

    stuff: str
    top: float


@dataclass(frozen=True)
class Thing:
    """One object: its class and sub-type, the middle and ground of its frame, its width.

    A torn one is drawn without its signature part.
    """

    name: str
    subtype: str
    x: float
    ground: float
    width: float
    mirrored: bool
    turn: float
    torn: bool = False


@dataclass(frozen=True)
class Hole:
    """An ellipse of the image that is cut away, leaving ``light`` of it."""

    x: float
    y: float
    rx: float
    ry: float
    light: float


@dataclass(frozen=True)
class Scene:
    """The description of one image.

    Args:
        kind: one of ``KINDS``.
        bands: background from top to bottom; empty for a cut-out on plain paper.
        things: objects, the farthest first.
        plain: RGB of the plain paper behind a cut-out.
        holes: cut away from the whole image.
        background_holes: cut away from the background, behind the objects.
        light: brightness of the whole image, 1 for daylight.
    """

    kind: str
    bands: tuple[Band, ...] = ()
    things: tuple[Thing, ...] = ()
    plain: tuple[float, float, float] | None = None
    holes: tuple[Hole, ...] = ()
    background_holes: tuple[Hole, ...] = ()
    light: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the image, in the order of the class list."""
        present = {thing.name for thing in self.things}
        return tuple(name for name in PAPER_CLASSES if name in present)
