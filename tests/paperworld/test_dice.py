"""Dice: the same numbers for ever, on every platform."""

from __future__ import annotations

import random

from wsss_kit.paperworld.words import Dice


def test_frozen_values():
    """Written out: if these change, every image of the world changes with them."""
    dice = Dice("frozen")
    numbers = [dice.uniform(0, 1) for _ in range(4)]
    assert numbers == [
        0.42888342316474926,
        0.39527433335356466,
        0.9179414506387653,
        0.517474895902658,
    ]
    dice = Dice("frozen")
    assert [dice.integer(100) for _ in range(8)] == [42, 39, 91, 51, 67, 12, 73, 42]
    assert dice.uniform(5, 2) == 3.751596767820111
    assert dice.bell(1) == 1.2862412627253068
    assert dice.chance(0.5) is True
    assert dice.pick("abc") == "b"
    assert dice.pick("abc", (0.1, 0.2, 0.7)) == "c"
    assert dice.draw(range(5), 5) == [4, 3, 1, 0, 2]


def test_the_global_random_state_plays_no_part():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    Dice("any").draw("abcdef", 3)
    assert random.random() == expected
