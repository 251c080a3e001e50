"""Dice: the same numbers for ever, on every platform."""

from __future__ import annotations

import random
from collections import Counter

import pytest

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


def test_equal_names_give_equal_streams_and_others_do_not():
    def stream(name):
        dice = Dice(name)
        return [dice.uniform(0, 1) for _ in range(5)]

    assert stream("web/0/7") == stream("web/0/7") != stream("web/0/8")


def test_the_global_random_state_plays_no_part():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    Dice("any").draw("abcdef", 3)
    assert random.random() == expected


def test_ranges():
    dice = Dice("ranges")
    assert {dice.integer(3) for _ in range(100)} == {0, 1, 2}
    assert all(2 <= dice.uniform(2, 5) < 5 for _ in range(100))
    assert all(2 < dice.uniform(5, 2) <= 5 for _ in range(100))
    assert not any(dice.chance(0) for _ in range(100)) and all(dice.chance(1) for _ in range(100))
    bells = [dice.bell(0.1) for _ in range(4000)]
    deviation = (sum(b * b for b in bells) / len(bells)) ** 0.5
    assert max(map(abs, bells)) <= 0.3 and deviation == pytest.approx(0.1, rel=0.05)


def test_weights():
    dice = Dice("weights")
    counts = Counter(dice.pick("abc", (0.7, 0.3, 0.0)) for _ in range(2000))
    assert counts["c"] == 0
    assert counts["a"] / 2000 == pytest.approx(0.7, abs=0.04)  # four standard deviations
    assert {dice.pick("ab", (0.0, 1.0)) for _ in range(50)} == {"b"}
    even = Counter(dice.pick("abcd") for _ in range(2000))
    assert min(even.values()) / 2000 > 0.21 and max(even.values()) / 2000 < 0.29
    with pytest.raises(ValueError):
        dice.pick("abc", (0.1, 0.2))


def test_drawing_repeats_nothing_and_leaves_the_items_alone():
    items = list("abcdef")
    orders = set()
    for k in range(200):
        drawn = Dice(f"draw/{k}").draw(items, 3)
        assert len(drawn) == len(set(drawn)) == 3 and set(drawn) <= set(items)
        orders.add(tuple(drawn))
    assert items == list("abcdef")
    assert len(orders) > 70  # of 120 possible orders
    assert Dice("none").draw(items, 0) == []
