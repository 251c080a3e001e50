"""The classifier that a trained method starts from: a fitted CAM, or one that is trained first."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wsss_kit.classes import Sample
from wsss_kit.classifier.network import build_classifier
from wsss_kit.classifier.recipe import CLASSIFIER, check_recipe
from wsss_kit.classifier.train import sgd, train_classifier
from wsss_kit.methods.base import CAMMethod

Backbone = str | nn.Module | CAMMethod
"""A name, a module, or a fitted CAM, whose trunk and head are copied."""


def baseline_recipe(
    start: Backbone,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    preset: str,
    weights: str | Path | None,
) -> dict[str, Any] | None:
    """How the classifier is trained first; None where a fitted one is there.

    Args:
        start: what the method was given.
        values: of the method's own training: ``crop``, ``long_side``, ``seed`` and ``shown`` are
            shared.
        given: ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones.
        preset: ``"clean"``, or any other for the released recipe.
        weights: of a named trunk.

    Raises:
        ValueError: if something else is given, or anything beside a fitted CAM.
    """
    if isinstance(start, CAMMethod):
        if given:
            raise ValueError(
                f"baseline is {dict(given)} and backbone a fitted CAM; give one of the two"
            )
        return None
    unknown = set(given) - {"epochs", "batch_size", "learning_rate"}
    if unknown:
        raise ValueError(
            f"baseline names {', '.join(sorted(unknown))}, expected epochs, batch_size or "
            "learning_rate"
        )
    shared = ("crop", "long_side", "seed", "shown")
    usual = CLASSIFIER["clean" if preset == "clean" else "reference"]
    recipe = {**usual, **{key: values[key] for key in shared}, **given}
    check_recipe(recipe)
    pretrained = weights is not None or isinstance(start, nn.Module)
    return {**recipe, "pretrained": pretrained}


def begin(
    start: Backbone,
    classes: Sequence[str],
    *,
    stride: int | None,
    weights: str | Path | None,
    seed: int,
    device: str,
) -> tuple[nn.Module, Tensor]:
    """A trunk and a head (C, D) to train on: copies of a fitted CAM's, or new ones.

    Raises:
        RuntimeError: if the CAM is not fitted.
        ValueError: if it knows other classes.
    """
    if not isinstance(start, CAMMethod):
        options = {"stride": stride, "weights": weights, "seed": seed, "device": device}
        return build_classifier(start, len(classes), **options)
    if not hasattr(start, "head_"):
        raise RuntimeError("the CAM to start from is not fitted; call its fit(samples)")
    if tuple(start.classes_) != tuple(classes):
        raise ValueError(
            f"the CAM to start from knows {', '.join(start.classes_[:4])}, … and what is to be "
            f"learned is {', '.join(classes[:4])}, …; expected the same classes"
        )
    return copy.deepcopy(start.backbone_), start.head_.detach().clone().requires_grad_()


def train_baseline(
    trunk: nn.Module, head: Tensor, samples: Sequence[Sample], recipe: Mapping[str, Any]
) -> None:
    """Train the classifier by `baseline_recipe`, in place."""
    train_classifier(
        trunk,
        head,
        samples,
        recipe,
        optimiser=sgd(head, recipe, trunk),
        first_epoch=0,
        after_epoch=lambda epoch, loss: None,
    )


def started_from(start: Backbone, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """What tells one beginning from another, for a checkpoint: ``start`` and ``baseline``.

    Args:
        start: what the method was given; a fitted CAM is known by its head.
        recipe: from `baseline_recipe`.
    """
    fitted = None
    if isinstance(start, CAMMethod):
        head = start.head_.detach().float().cpu().contiguous()
        fitted = hashlib.sha256(head.numpy().tobytes()).hexdigest()[:16]
    trained = None if recipe is None else {k: v for k, v in recipe.items() if k != "shown"}
    return {"start": fitted, "baseline": trained}


def described(start: Backbone, weights: Any, stride: int | None) -> dict[str, Any]:
    """What a card says of the trunk: ``backbone``, ``weights`` and ``stride``."""
    if isinstance(start, CAMMethod):
        start, weights, stride = start.backbone, start.weights, start.stride
    return {
        "backbone": start if isinstance(start, str) else type(start).__name__,
        "weights": None if weights is None else str(weights),
        "stride": stride,
    }


def constructor_arguments(
    card: Mapping[str, Any], names: Sequence[str], *, own_trunk: bool
) -> dict[str, Any]:
    """Arguments that rebuild a saved method, without ``weights``: the trunk's are in the file.

    Args:
        card: as saved.
        names: of the arguments on it.
        own_trunk: whether the trunk is the caller's module, which has its stride already.
    """
    saved = {key: card[key] for key in names}
    saved["scales"] = None if saved["scales"] is None else tuple(saved["scales"])
    saved["weights"] = None
    if own_trunk:
        saved["stride"] = None
    return saved
