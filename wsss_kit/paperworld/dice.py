"""Random choices that come out the same on every platform and with every library version.

Python promises that ``random.Random(text).random()`` keeps its sequence for good; NumPy's
generators and Python's own ``choice`` and ``shuffle`` do not promise that. So everything the
world decides goes through ``random()`` alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """A stream of choices named by a text.

    Args:
        name: any text; equal names give equal streams.

    Example:
        >>> Dice("web/0/7").integer(10) == Dice("web/0/7").integer(10)
        True
    """

    def __init__(self, name: str) -> None:
        self._random = random.Random(name).random

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high); a reversed range is allowed."""
        return low + (high - low) * self._random()

    def bell(self, spread: float) -> float:
        """A number near 0 with standard deviation ``spread``, never beyond three of them."""
        return spread * 2.0 * (self._random() + self._random() + self._random() - 1.5)

    def integer(self, bound: int) -> int:
        """An integer in 0 .. bound - 1."""
        return int(self._random() * bound)

    def pick(self, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
        """One of the items, evenly or by weights that sum to 1."""
        if weights is None:
            return items[self.integer(len(items))]
        mark = self._random()
        for item, weight in zip(items, weights, strict=True):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def draw(self, items: Sequence[Item], count: int) -> list[Item]:
        """``count`` different items in random order."""
        pool = list(items)
        return [pool.pop(self.integer(len(pool))) for _ in range(count)]
