"""One round of SC-CAM: a classifier that is asked for classes and sub-categories at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.classes import Sample
from wsss_kit.classifier.pretrained import device_of
from wsss_kit.classifier.train import (
    batches,
    groups_of,
    own_soft_margin_loss,
    state_of,
    to_training,
)
from wsss_kit.processes import as_first, own, total
from wsss_kit.training import descend, polynomial_decay, train_epochs

Recipe = Mapping[str, Any]


def make_optimiser(
    trunk: nn.Module, heads: Sequence[Tensor], recipe: Recipe
) -> torch.optim.Optimizer:
    """SGD; heads learn ``head_factor`` times faster, stem and norms only where they are to."""
    return torch.optim.SGD(
        groups_of(trunk, heads, recipe, norms=recipe["trains_norms"]),
        lr=recipe["learning_rate"],
        momentum=recipe["momentum"],
        weight_decay=recipe["weight_decay"],
    )


def joint_loss(
    pooled: Tensor,
    head: Tensor,
    sub_head: Tensor,
    labels: Tensor,
    subcategories: Tensor,
    *,
    weight: float,
) -> dict[str, Tensor]:
    """The losses of both heads, each a mean over its outputs, or this process's part of it.

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
    parent = own_soft_margin_loss(pooled @ head.T, labels)
    sub = own_soft_margin_loss(pooled @ sub_head.T, subcategories)
    return {"parent": parent, "sub": sub, "total": parent + weight * sub}


def train_round(
    trunk: nn.Module,
    head: Tensor,
    sub_head: Tensor,
    samples: Sequence[Sample],
    subcategories: Tensor,
    recipe: Recipe,
    *,
    optimiser: torch.optim.Optimizer,
    number: int,
    epochs: int,
    first_epoch: int,
    before: int,
    after_epoch: Callable[[int, dict[str, float]], None],
) -> None:
    """Train trunk and both heads on one set of sub-categories, in place.

    Args:
        trunk: (B, 3, H, W) -> (B, D, h, w).
        head: (C, D).
        sub_head: (C * k, D).
        samples: M pictures with labels.
        subcategories: (M, C * k) of 0 and 1.
        recipe: a preset's values with ``seed``, ``shown``, ``crop`` and ``long_side``.
        optimiser: from `make_optimiser`, with its moments where a run is resumed.
        number: of the round, from 0.
        epochs: of the round.
        first_epoch: epochs of the round done before.
        before: epochs of earlier rounds, so that each has an order of its own.
        after_epoch: called with the epoch's number in the round and its mean losses.

    Raises:
        Diverged: if the loss runs away.
    """
    steps = -(-len(samples) // recipe["batch_size"])
    schedule = polynomial_decay(
        optimiser, steps * (recipe["schedule"] or epochs), first=first_epoch * steps
    )
    C, device = len(head), device_of(trunk)
    joined = _Joined(samples, subcategories.cpu())

    def step(images: Tensor, targets: Tensor, random: torch.Generator) -> dict[str, float]:
        if recipe["jitter"] is not None:
            images = jitter(images, recipe["jitter"], random)
        pooled = trunk(images.to(device)).mean((2, 3)).float()  # (B, D)
        pooled, targets = drop(pooled, recipe["dropout"], random), targets.to(device)
        losses = joint_loss(
            pooled,
            head,
            sub_head,
            targets[:, :C],
            targets[:, C:],
            weight=recipe["subcategory_weight"],
        )
        return descend(losses, optimiser)

    as_first(state_of(trunk, head, sub_head))
    train_epochs(
        step,
        lambda epoch: batches(joined, epoch, recipe),
        trunk,
        seed=recipe["seed"],
        learning_rate=recipe["learning_rate"],
        schedule=schedule,
        epochs=range(first_epoch, epochs),
        before=before,
        steps=steps,
        what=f"SC-CAM, round {number + 1}",
        shown=recipe["shown"],
        start_epoch=partial(to_training, trunk, fixes_norms=recipe["fixed_batch_norm"]),
        after_epoch=after_epoch,
    )


class _Joined(Sequence[Sample]):
    """Samples whose labels are those of the classes and, after them, of the sub-categories."""

    def __init__(self, samples: Sequence[Sample], subcategories: Tensor) -> None:
        self.samples, self.subcategories = samples, subcategories

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        labels = torch.cat([sample.labels.float().cpu(), self.subcategories[index]])
        return sample._replace(labels=labels)


def drop(pooled: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Dropout whose choices come from a generator: (B, D) -> (B, D)."""
    if share == 0:
        return pooled
    whole = int(total(torch.tensor(len(pooled))))
    kept = own(torch.rand(whole, pooled.shape[1], generator=random) >= share)
    return pooled * kept.to(pooled) / (1 - share)


def jitter(images: Tensor, amounts: Sequence[float], random: torch.Generator) -> Tensor:
    """Other brightness, contrast, saturation and hue for every picture, in this order.

    Args:
        images: (B, 3, H, W) RGB in [0, 1].
        amounts: how far the first three factors may be from 1, and the hue, in turns, from 0.
        random: source of the choices.
    """
    from torchvision.transforms import functional as colour

    changes = (
        colour.adjust_brightness,
        colour.adjust_contrast,
        colour.adjust_saturation,
        colour.adjust_hue,
    )
    changed = []
    whole = int(total(torch.tensor(len(images))))
    drawn_for_all = [2 * torch.rand(4, generator=random) - 1 for _ in range(whole)]
    for image, drawn in zip(images, own(drawn_for_all), strict=True):
        for adjust, middle, amount, way in zip(
            changes, (1.0, 1.0, 1.0, 0.0), amounts, drawn.tolist(), strict=True
        ):
            image = adjust(image, middle + amount * way)
        changed.append(image)
    return torch.stack(changed) if changed else images
