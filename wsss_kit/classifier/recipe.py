"""How a classifier is trained by default, and which numbers make no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsss_kit.checks import check_count, check_positive

CLASSIFIER: dict[str, dict[str, Any]] = {
    "reference": {
        "epochs": 5,
        "batch_size": 16,
        "learning_rate": 0.1,
        "head_factor": 10.0,
        "momentum": 1e-4,
        "weight_decay": 1e-4,
        "fixed_batch_norm": True,
    },
    "clean": {
        "epochs": 12,
        "batch_size": 32,
        "learning_rate": 0.05,
        "head_factor": 2.0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "fixed_batch_norm": False,
    },
}
"""Reference: the released trainers hand weight decay to SGD's momentum, so that the real momentum
is 1e-4, and keep batch normalisation fixed. ``clean`` uses momentum 0.9 and trains it."""

HEAD_ALONE: dict[str, Any] = {
    "epochs": 60,
    "batch_size": 32,
    "learning_rate": 1.0,
    "head_factor": 1.0,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}
"""What every preset trains a head by on a trunk that stays as it is."""


def check_recipe(values: Mapping[str, Any]) -> None:
    """Refuse a recipe whose numbers make no training.

    Args:
        values: ``epochs``, ``batch_size``, ``learning_rate``, ``seed``, ``crop`` and ``long_side``.

    Raises:
        ValueError: naming the number and what was expected.
    """
    for name in ("epochs", "batch_size"):
        check_count(name, values[name])
    check_positive("learning_rate", values["learning_rate"])
    check_count("seed", values["seed"], least=0)
    if values["crop"] is not None:
        check_count("crop", values["crop"])
    if values["long_side"] is not None:
        pair = values["long_side"]
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"long_side is {pair!r}, expected two numbers, shortest and longest")
        shortest, longest = pair
        check_count("the shortest long_side", shortest)
        check_count("the longest long_side", longest, least=shortest)
