"""Train a classifier on image-level labels: a backbone, global average pooling, a linear head.

A recipe is a dictionary with the numbers of a run: ``epochs``, ``batch_size``, ``learning_rate``,
``head_factor``, ``momentum``, ``weight_decay``, ``seed``, ``shown`` (progress bar) and, where the
backbone is trained, ``crop``, ``long_side``, ``fixed_batch_norm`` and ``pretrained``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.checks import check_count, check_image, check_positive
from wsss_kit.classes import Sample
from wsss_kit.classifier.pretrained import device_of, fix_batch_norm
from wsss_kit.processes import as_first, each, own_views, share
from wsss_kit.training import (
    augment,
    check_loss,
    descend,
    labels_of,
    polynomial_decay,
    progress,
    skip_augment,
    train_epochs,
)

Recipe = Mapping[str, Any]

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
"""Training by default. Reference: the released trainers pass weight decay as SGD's momentum, so
that the real momentum is 1e-4, and keep batch normalisation fixed."""

HEAD_ALONE: dict[str, Any] = {
    "epochs": 60,
    "batch_size": 32,
    "learning_rate": 1.0,
    "head_factor": 1.0,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}
"""Training of a head on a fixed backbone, in every preset."""


def check_recipe(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a recipe with numbers out of range.

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


def sgd(head: Tensor, recipe: Recipe, backbone: nn.Module | None = None) -> torch.optim.SGD:
    """Create SGD for a head and perhaps a backbone, which learns ``head_factor`` times slower."""
    rate = recipe["learning_rate"]
    groups = [{"params": [head], "lr": rate * recipe["head_factor"]}]
    if backbone is not None:
        groups.append({"params": list(backbone.parameters()), "lr": rate})
    return torch.optim.SGD(
        groups, lr=rate, momentum=recipe["momentum"], weight_decay=recipe["weight_decay"]
    )


def groups_of(
    backbone: nn.Module, heads: Sequence[Tensor], recipe: Recipe, *, norms: bool = True
) -> list[dict[str, Any]]:
    """Create parameter groups: heads learn ``head_factor`` times faster, a stem if it is trained.

    Args:
        backbone: the backbone; its ``stem``, if it has one, is fixed unless ``trains_stem``.
        heads: beside the backbone.
        recipe: with ``learning_rate``, ``head_factor`` and ``trains_stem``.
        norms: whether weights and biases of batch normalisation learn.
    """
    fixed: list[nn.Module] = []
    if not recipe["trains_stem"]:
        fixed.append(getattr(backbone, "stem", nn.Module()))
    if not norms:
        fixed += [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    kept = {id(p) for layer in fixed for p in layer.parameters()}
    rate = recipe["learning_rate"]
    return [
        {"params": [p for p in backbone.parameters() if id(p) not in kept], "lr": rate},
        {"params": list(heads), "lr": rate * recipe["head_factor"]},
    ]


def train_classifier(
    backbone: nn.Module,
    head: Tensor,
    samples: Sequence[Sample],
    recipe: Recipe,
    *,
    optimiser: torch.optim.SGD,
    first_epoch: int,
    after_epoch: Callable[[int, float], None],
) -> None:
    """Train backbone and head with a multi-label soft-margin loss.

    Args:
        backbone: (B, 3, H, W) -> (B, D, h, w); changed in place.
        head: (C, D); changed in place.
        samples: images with labels.
        recipe: see the module.
        optimiser: from `sgd`, with its moments where a run is resumed.
        first_epoch: epochs done before.
        after_epoch: called with the epoch's number and mean loss, to log and to save.

    Raises:
        Diverged: if the loss diverges; the last epoch is then neither logged nor saved.
    """
    steps = -(-len(samples) // recipe["batch_size"])
    schedule = polynomial_decay(
        optimiser,
        steps * recipe["epochs"],
        warmup=0 if recipe["pretrained"] else min(30, steps),
        first=first_epoch * steps,
    )

    def step(images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, float]:
        pooled = backbone(images.to(head.device)).mean((2, 3))  # (B, D)
        loss = own_soft_margin_loss(pooled @ head.T, labels.to(head.device))
        return descend({"total": loss}, optimiser)

    as_first(state_of(backbone, head))
    train_epochs(
        step,
        lambda epoch: batches(samples, epoch, recipe),
        backbone,
        recipe,
        schedule=schedule,
        epochs=range(first_epoch, recipe["epochs"]),
        steps=steps,
        what="CAM classifier",
        start_epoch=partial(
            to_training, backbone, fixes_norms=recipe["fixed_batch_norm"] and recipe["pretrained"]
        ),
        after_epoch=lambda epoch, losses: after_epoch(epoch, losses["total"]),
    )


@torch.no_grad()
def pool_features(backbone: nn.Module, samples: Sequence[Sample], *, shown: bool = True) -> Tensor:
    """Compute pooled features of every image and of its flip: (M, 2, D) float32.

    The backbone goes to evaluation mode: its batch statistics do not change.

    Raises:
        ValueError: if an image is not (3, H, W) RGB in [0, 1].
    """
    backbone.eval()

    def pooled(sample: Sample) -> Tensor:  # (2, D)
        check_image(sample.image, f"image {sample.name!r}")
        views = torch.stack([sample.image, sample.image.flip(-1)]).to(device_of(backbone))
        return backbone(views).mean((2, 3)).float()

    return each(samples, pooled, bar=partial(progress, what="features", shown=shown))


def train_head(head: Tensor, features: Tensor, labels: Tensor, recipe: Recipe) -> list[float]:
    """Train a head alone on pooled features.

    Args:
        head: (C, D); changed in place.
        features: (M, 2, D) from `pool_features`; each epoch takes one of the two at random.
        labels: (M, C).
        recipe: see the module.

    Returns:
        Mean loss of every epoch.

    Raises:
        Diverged: if the loss runs away.
    """
    M, labels = len(features), labels.to(features.device)
    optimiser = sgd(head, recipe)
    steps = -(-M // recipe["batch_size"])
    schedule = polynomial_decay(optimiser, steps * recipe["epochs"])
    random = torch.Generator().manual_seed(recipe["seed"])
    losses: list[float] = []
    began = None
    for epoch in progress(range(recipe["epochs"]), what="CAM head", shown=recipe["shown"]):
        total = 0.0
        for rows in torch.randperm(M, generator=random).split(recipe["batch_size"]):
            view = torch.randint(0, 2, (len(rows),), generator=random)
            loss = own_soft_margin_loss(features[rows, view] @ head.T, labels[rows])
            loss = descend({"total": loss}, optimiser)["total"]
            schedule.step()
            began = loss if began is None else began
            total += loss
        losses.append(total / steps)
        check_loss(
            losses[-1], began, where=f"epoch {epoch + 1}", learning_rate=recipe["learning_rate"]
        )
    return losses


def own_soft_margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute this process's part of a batch's mean loss; B of (B, C) may be 0."""
    part = share(len(logits))
    return part * F.multilabel_soft_margin_loss(logits, labels) if len(logits) else logits.sum()


def state_of(backbone: nn.Module, *heads: Tensor) -> list[Tensor]:
    """Return all tensors that must be equal in all processes at the start."""
    return [*backbone.parameters(), *backbone.buffers(), *heads]


def to_training(backbone: nn.Module, *, fixes_norms: bool) -> None:
    """Put a backbone into training mode, its batch normalisation fixed or not."""
    backbone.train()
    if fixes_norms:
        fix_batch_norm(backbone)


def batches(
    samples: Sequence[Sample], epoch: int, recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches of one epoch; the same for equal seed and epoch.

    Each of several processes gets its own images of every batch.

    Raises:
        ValueError: if an image is not RGB in [0, 1], a label neither 0 nor 1, or the images of
            a batch differ in size.
    """
    random = torch.Generator().manual_seed(recipe["seed"] * 1_000_003 + epoch)
    crop, long_side = recipe["crop"], recipe["long_side"]
    chosen: list[Sample] = []
    shapes: set[tuple[int, ...]] = set()

    def view(number: int) -> tuple[Tensor]:
        sample = samples[number]
        check_image(sample.image, f"image {sample.name!r}")
        chosen.append(sample)
        image = augment(sample.image, random, crop=crop, long_side=long_side)
        shapes.add(tuple(image.shape))
        if len(shapes) > 1:
            raise ValueError(
                "the images of a batch differ in size; give fit a crop, for example "
                "crop=512, long_side=(320, 640)"
            )
        return (image,)

    for rows in torch.randperm(len(samples), generator=random).split(recipe["batch_size"]):
        chosen.clear(), shapes.clear()
        (images,) = own_views(
            rows.tolist(), view, lambda: skip_augment(random, long_side=long_side)
        )
        yield images, labels_of(chosen)[: len(images)]
