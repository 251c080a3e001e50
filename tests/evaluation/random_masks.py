"""Random targets and predictions, and ``evaluate`` on them."""

import numpy as np
import torch

from wsss_kit.evaluation import Protocol, evaluate

CLASSES = ("cow", "camel", "cat")
PROTOCOL = Protocol("random masks", "val")


def random_masks(n=6, n_values=4, seed=0, wrong=0.3):
    """Blocks of classes with 255 among them, and predictions that are wrong in places."""
    rng = np.random.default_rng(seed)
    predicted, target = {}, {}
    for number in range(n):
        mask = np.kron(rng.integers(0, n_values, (4, 6)), np.ones((5, 5), np.int64))
        drawn = rng.random(mask.shape) < wrong
        guess = np.where(drawn, rng.integers(0, n_values, mask.shape), mask)
        guess[rng.random(mask.shape) < 0.05] = 255
        mask[rng.random(mask.shape) < 0.1] = 255
        predicted[f"p{number}"], target[f"p{number}"] = map(torch.from_numpy, (guess, mask))
    return predicted, target


def scored(predicted, target, **options):
    return evaluate(predicted, target, **{"classes": CLASSES, "protocol": PROTOCOL, **options})
