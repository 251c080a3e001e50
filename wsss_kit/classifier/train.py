"""Train a classifier on image-level labels: a backbone, global average pooling, a linear head.

A recipe is a dictionary with the numbers of a run: ``epochs``, ``batch_size``, ``learning_rate``,
``head_factor``, ``momentum``, ``weight_decay``, ``seed``, ``shown`` (progress bar) and, where the
backbone is trained, ``crop``, ``long_side``, ``fixed_batch_norm`` and ``pretrained``.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.checks import check_count, check_given, check_image, check_positive
from wsss_kit.classes import Sample
from wsss_kit.processes import each, own, own_views, total
from wsss_kit.training import (
    augment,
    batch_norms,
    check_loss,
    columns,
    descend,
    device_of,
    labels_of,
    polynomial_decay,
    progress,
    skip_augment,
)

Recipe = Mapping[str, Any]

CLASSIFIER = columns(
    ("reference", "clean"),
    {
        "epochs": (5, 12),
        "batch_size": (16, 32),
        "learning_rate": (0.1, 0.05),
        "head_factor": (10.0, 2.0),
        "momentum": (1e-4, 0.9),
        "weight_decay": (1e-4, 5e-4),
        "fixed_batch_norm": (True, False),
    },
)
"""Training by default. Reference: the released trainers pass weight decay as SGD's momentum, so
that the real momentum is 1e-4, and keep batch normalisation fixed."""

HEAD_ALONE = {"epochs": 60, "batch_size": 32, "learning_rate": 1.0, "head_factor": 1.0}
HEAD_ALONE |= {"momentum": 0.9, "weight_decay": 1e-4}
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
    check_given(check_count, crop=values["crop"])
    if values["long_side"] is not None:
        pair = values["long_side"]
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"long_side is {pair!r}, expected two numbers, shortest and longest")
        shortest, longest = pair
        check_count("the shortest long_side", shortest)
        check_count("the longest long_side", longest, least=shortest)


def optimiser_of(groups: Iterable[Any], recipe: Recipe) -> torch.optim.Optimizer:
    """Create SGD, or AdamW where the recipe says ``"adamw"``, for parameters or their groups."""
    options = {"lr": recipe["learning_rate"], "weight_decay": recipe["weight_decay"]}
    if recipe.get("optimiser") == "adamw":
        return torch.optim.AdamW(groups, **options)
    return torch.optim.SGD(groups, momentum=recipe["momentum"], **options)


def head_group(heads: Sequence[Tensor], recipe: Recipe) -> dict[str, Any]:
    """Create the parameter group of heads, which learn ``head_factor`` times faster."""
    return {"params": list(heads), "lr": recipe["learning_rate"] * recipe["head_factor"]}


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
    fixed = [] if recipe["trains_stem"] else [getattr(backbone, "stem", nn.Module())]
    fixed += [] if norms else batch_norms(backbone)
    kept = {id(p) for layer in fixed for p in layer.parameters()}
    learning = [p for p in backbone.parameters() if id(p) not in kept]
    return [{"params": learning, "lr": recipe["learning_rate"]}, head_group(heads, recipe)]


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
    optimiser = optimiser_of([head_group([head], recipe)], recipe)
    steps = -(-M // recipe["batch_size"])
    schedule = polynomial_decay(optimiser, steps * recipe["epochs"])
    random = torch.Generator().manual_seed(recipe["seed"])
    losses, began, rate = [], None, recipe["learning_rate"]
    for epoch in progress(range(recipe["epochs"]), what="CAM head", shown=recipe["shown"]):
        summed = 0.0
        for rows in torch.randperm(M, generator=random).split(recipe["batch_size"]):
            view = torch.randint(0, 2, (len(rows),), generator=random)
            loss = own_soft_margin_loss(features[rows, view] @ head.T, labels[rows])
            loss = descend({"total": loss}, optimiser)["total"]
            schedule.step()
            began = loss if began is None else began
            summed += loss
        losses.append(summed / steps)
        check_loss(losses[-1], began, where=f"epoch {epoch + 1}", learning_rate=rate)
    return losses


def own_soft_margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute this process's part of a batch's mean loss; B of (B, C) may be 0."""
    whole = max(1.0, total(torch.tensor(float(len(logits)))).item())
    if not len(logits):
        return logits.sum()
    return len(logits) / whole * F.multilabel_soft_margin_loss(logits, labels)


class LabelledImages:
    """Training images and their labels: batches of random views, see `training.train_epochs`.

    Args:
        samples: M images with labels.
        recipe: with ``crop`` and ``long_side``.
        more_labels: (M, K) further columns of the labels.
    """

    def __init__(
        self, samples: Sequence[Sample], recipe: Recipe, more_labels: Tensor | None = None
    ) -> None:
        self.samples, self.more_labels = samples, more_labels
        self.crop, self.long_side = recipe["crop"], recipe["long_side"]

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, numbers: Sequence[int], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return augmented images (B, 3, h, w) of this process and their labels (B, C).

        Raises:
            ValueError: if an image is not RGB in [0, 1], a label neither 0 nor 1, or the images of
                a batch differ in size.
        """
        chosen: list[Sample] = []

        def view(number: int) -> tuple[Tensor]:
            sample = self.samples[number]
            check_image(sample.image, f"image {sample.name!r}")
            chosen.append(sample)
            return (augment(sample.image, random, crop=self.crop, long_side=self.long_side),)

        skip = partial(skip_augment, random, long_side=self.long_side)
        (images,) = own_views(numbers, view, skip)
        labels = labels_of(chosen)[: len(images)]
        if self.more_labels is not None:
            labels = torch.cat([labels, self.more_labels[own(numbers)]], 1)
        return images, labels
