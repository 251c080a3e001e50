"""One round of SC-CAM: a classifier that learns classes and sub-categories at once."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.engine import columns
from wsss_kit.methods.base import COMMON
from wsss_kit.methods.trained import soft_margin_loss
from wsss_kit.processes import own, total

# Reference: the released network is ResNet-38 (``SCCAM("resnet38", weights=FILE)``), whose last
# blocks drop channels as well; other backbones do not.
PRESETS = columns(
    ("reference", "clean"),
    {
        **COMMON,
        "n_subcategories": (10, 10),
        "rounds": (3, 3),
        "subcategory_weight": (5.0, 5.0),
        # what is clustered: the average over the whole image, or under the class's own map
        "features": ("picture", "own_map"),
        "unit_length": (False, True),  # whether it is scaled to length 1 first
        "k_means": ("sklearn", "torch"),  # whose, see `subcategory_labels`
        # whose map is shown: the parent's, or of each class the largest of its children's
        "read_out": ("parent", "children"),
        "restart_each_round": (True, True),
        # every round begins with the backbone as it was before any classifier (ImageNet's in the
        # paper) and new heads, or with the classifier that gave the first features
        "starts_from": ("trunk", "classifier"),
        # without a fitted CAM the first classifier is trained as a whole, or is a head on the
        # backbone as it stands: one that has learned to tell classes apart has begun to forget
        # what parts them
        "first_classifier": ("whole", "head"),
        "xavier_heads": (True, False),  # new heads: uniform after Xavier, or a small normal
        "scales": ((1.0, 0.5, 1.5, 2.0), (1.0, 0.5, 1.5, 2.0)),
        "flip": (True, True),
        "epochs": ((31, 41, 51), 6),  # of each round, or of all
        # epochs after which the learning rate would be 0, None for the round's own: the released
        # code stops the first rounds early
        "schedule": (61, None),
        "drop_last": (True, False),  # whether a pass's last, partial batch is left out
        "batch_size": (16, 32),
        "learning_rate": (0.01, 0.02),
        "head_factor": (10.0, 10.0),
        "momentum": (5e-4, 0.9),  # the released trainer hands weight decay to SGD's momentum
        "weight_decay": (5e-4, 5e-4),
        "fixed_batch_norm": (True, False),
        # whether the backbone's ``stem`` learns: the first convolution, in ResNet-38 the second
        # block too
        "trains_stem": (False, True),
        "trains_norms": (False, True),  # weights and biases of batch normalisation
        "dropout": (0.5, 0.0),  # of the pooled features
        "jitter": ((0.3, 0.3, 0.3, 0.1), None),  # of brightness, contrast, saturation and hue
        # sides are rounded up to multiples of this when maps are brought to the image's size; None
        # for the backbone's stride
        "round_to": (1, None),
        "sound": (6 * math.log(2), 6 * math.log(2)),
    },
)

FEATURES = ("picture", "own_map")
READ_OUTS = ("parent", "children")


def joint_loss(
    pooled: Tensor,
    head: Tensor,
    sub_head: Tensor,
    labels: Tensor,
    subcategories: Tensor,
    *,
    weight: float,
) -> dict[str, Tensor]:
    """Compute the losses of both heads, each a mean over its outputs or this process's part of it.

    Args:
        pooled: (B, D).
        head: (C, D).
        sub_head: (C * k, D).
        labels: (B, C) of 0 and 1.
        subcategories: (B, C * k) of 0 and 1.
        weight: of the sub-categories' loss.

    Returns:
        ``parent``, ``sub`` and ``total`` -> scalar.
    """
    parent = soft_margin_loss(pooled @ head.T, labels)
    sub = soft_margin_loss(pooled @ sub_head.T, subcategories)
    return {"parent": parent, "sub": sub, "total": parent + weight * sub}


def drop(pooled: Tensor, share: float) -> Tensor:
    """Apply dropout that does not depend on the number of processes: (B, D) -> (B, D).

    `engine.fit` seeds torch's random numbers alike in all processes; each takes its own rows.
    """
    if share == 0:
        return pooled
    whole = int(total(torch.tensor(len(pooled))))
    drawn: Any = torch.rand(whole, pooled.shape[1])
    kept: Any = own(drawn >= share)[: len(pooled)]
    return pooled * kept.to(pooled) / (1 - share)


def jitter(image: Tensor, random: torch.Generator, *, amounts: Sequence[float]) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order.

    Args:
        image: (3, H, W) RGB in [0, 1].
        random: source of the choices.
        amounts: how far the first three factors may be from 1, and the hue, in turns, from 0.
    """
    from torchvision.transforms import functional

    names, middles = ("brightness", "contrast", "saturation", "hue"), (1.0, 1.0, 1.0, 0.0)
    ways = (2 * torch.rand(4, generator=random) - 1).tolist()
    for name, middle, amount, way in zip(names, middles, amounts, ways, strict=True):
        image = getattr(functional, f"adjust_{name}")(image, middle + amount * way)
    return image


def epochs_of_rounds(
    given: int | Sequence[int] | None, usual: int | Sequence[int], rounds: int
) -> list[int]:
    """Return the epochs of every round: those given, or the preset's, its last for further rounds.

    Raises:
        ValueError: if a number is no count, or there is not one for each round.
    """
    if given is None:
        few = [usual] if isinstance(usual, int) else [*usual]
        given = [*few, *few[-1:] * rounds][:rounds]
    elif isinstance(given, str) or not isinstance(given, Sequence):
        check_count("epochs", given)
        given = [given] * rounds
    for count in given:
        check_count("epochs of a round", count)
    if len(given) != rounds:
        raise ValueError(
            f"epochs has {len(given)} numbers for {rounds} rounds, expected one, or one a round"
        )
    return list(given)


def check_subcategories(given: Tensor, labels: Tensor) -> int:
    """Return how many sub-categories a class has in a given division: (M, C * k) -> k.

    Raises:
        ValueError: if it does not fit the labels.
    """
    (M, C), shape = labels.shape, tuple(given.shape)
    if len(shape) != 2 or shape[0] != M or not shape[1] or shape[1] % C:
        raise ValueError(
            f"subcategories have shape {shape}, expected ({M}, {C} * k): k columns a class"
        )
    k = shape[1] // C
    parents = given.view(M, C, k).amax(2)
    if not ((given == 0) | (given == 1)).all() or (parents.cpu() > labels).any():
        raise ValueError(
            "subcategories hold something else than 0 and 1, or one whose class is not present"
        )
    return k
