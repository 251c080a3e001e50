"""One round of SC-CAM: a classifier that is asked for classes and sub-categories at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checks import check_count
from wsss_kit.classes import Sample
from wsss_kit.classifier.backbones import build_classifier, new_head, restore_classifier
from wsss_kit.classifier.pretrained import device_of
from wsss_kit.classifier.train import (
    batches,
    groups_of,
    own_soft_margin_loss,
    state_of,
    to_training,
)
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.trained import Backbone
from wsss_kit.processes import as_first, own, total
from wsss_kit.training import descend, polynomial_decay, train_epochs

Recipe = Mapping[str, Any]


def make_optimiser(
    backbone: nn.Module, heads: Sequence[Tensor], recipe: Recipe
) -> torch.optim.Optimizer:
    """SGD; heads learn ``head_factor`` times faster, stem and norms only where they are to."""
    return torch.optim.SGD(
        groups_of(backbone, heads, recipe, norms=recipe["trains_norms"]),
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
    backbone: nn.Module,
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
    """Train backbone and both heads on one set of sub-categories, in place.

    Args:
        backbone: (B, 3, H, W) -> (B, D, h, w).
        head: (C, D).
        sub_head: (C * k, D).
        samples: M images with labels.
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
    C, device = len(head), device_of(backbone)
    joined = _Joined(samples, subcategories.cpu())

    def step(images: Tensor, targets: Tensor, random: torch.Generator) -> dict[str, float]:
        if recipe["jitter"] is not None:
            images = jitter(images, recipe["jitter"], random)
        pooled = backbone(images.to(device)).mean((2, 3)).float()  # (B, D)
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

    as_first(state_of(backbone, head, sub_head))
    train_epochs(
        step,
        lambda epoch: batches(joined, epoch, recipe),
        backbone,
        recipe,
        schedule=schedule,
        epochs=range(first_epoch, epochs),
        before=before,
        steps=steps,
        what=f"SC-CAM, round {number + 1}",
        start_epoch=partial(to_training, backbone, fixes_norms=recipe["fixed_batch_norm"]),
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
    """Other brightness, contrast, saturation and hue for every image, in this order.

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


def check_untrained(start: Backbone) -> None:
    """Refuse a beginning from which the backbone before any classifier cannot be had again.

    Raises:
        ValueError: for a fitted CAM on a module.
    """
    if isinstance(start, CAMMethod) and not isinstance(start.backbone, str):
        raise ValueError(
            "preset reference begins every round with the backbone before any classifier, "
            "which a fitted CAM on a module of your own no longer has; give the module itself, or "
            'take preset="clean"'
        )


def untrained(backbone: nn.Module, start: Backbone, n_classes: int) -> dict[str, Tensor]:
    """A backbone's weights as they were before any classifier, a fitted CAM's built anew.

    Args:
        backbone: what ``start`` became.
        start: what the method was given.
        n_classes: C.

    Returns:
        ``backbone.NAME`` -> tensor on the CPU.
    """
    if isinstance(start, CAMMethod):
        options = {"stride": start.stride, "weights": start.weights, "device": "cpu"}
        backbone, _ = build_classifier(start.backbone, n_classes, seed=0, **options)
    return copied({f"backbone.{name}": value for name, value in backbone.state_dict().items()})


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which no training changes."""
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def restart(
    backbone: nn.Module, head: Tensor, origin: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Put backbone and head where every round begins.

    Args:
        backbone: changed in place.
        head: (C, D), changed in place.
        origin: of the backbone and, unless rounds start from the backbone, of the head.
        values: ``starts_from``, ``xavier_heads`` and ``seed``.
    """
    if values["starts_from"] == "trunk":
        options = {"seed": values["seed"], "xavier": values["xavier_heads"]}
        origin = {**origin, "head": new_head(*head.shape, **options)}
    restore_classifier(backbone, head, origin, "the beginning of the run")


def epochs_of_rounds(
    given: int | Sequence[int] | None, usual: int | Sequence[int], rounds: int
) -> list[int]:
    """Epochs of every round: what was given, else the preset's, the last for further rounds.

    Raises:
        ValueError: if a number is no count, or not one a round was given.
    """
    if given is None:
        usual = [usual] if isinstance(usual, int) else list(usual)
        return [usual[min(number, len(usual) - 1)] for number in range(rounds)]
    if isinstance(given, str) or not isinstance(given, Sequence):
        check_count("epochs", given)
        return [given] * rounds
    for count in given:
        check_count("epochs of a round", count)
    if len(given) != rounds:
        raise ValueError(
            f"epochs has {len(given)} numbers for {rounds} rounds, expected one for all, or one a "
            "round"
        )
    return list(given)


def check_subcategories(given: Tensor, labels: Tensor) -> int:
    """How many sub-categories a class has in what was given: (M, C * k) -> k.

    Raises:
        ValueError: if it does not fit the labels.
    """
    (M, C), shape = labels.shape, tuple(given.shape)
    if len(shape) != 2 or shape[0] != M or not shape[1] or shape[1] % C:
        raise ValueError(
            f"subcategories have shape {shape}, expected ({M}, {C} * k): one row an image, k "
            "columns a class"
        )
    k = shape[1] // C
    parents = given.view(M, C, k).amax(2)
    if not ((given == 0) | (given == 1)).all() or (parents.cpu() > labels).any():
        raise ValueError(
            "subcategories hold something else than 0 and 1, or one whose class is not present"
        )
    return k
