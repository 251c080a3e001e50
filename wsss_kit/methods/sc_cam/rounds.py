"""What a round of SC-CAM is: where it begins, how long, on which known sub-categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wsss_kit.checks import check_count
from wsss_kit.classifier.backbones import build_classifier, new_head, restore_classifier
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.trained import Backbone


def check_untrained(start: Backbone) -> None:
    """Refuse a beginning from which the trunk before any classifier cannot be had again.

    Raises:
        ValueError: for a fitted CAM on a module.
    """
    if isinstance(start, CAMMethod) and not isinstance(start.backbone, str):
        raise ValueError(
            "preset reference begins every round with the trunk as it was before any classifier, "
            "which a fitted CAM on a module of your own no longer has; give the module itself, or "
            'take preset="clean"'
        )


def untrained(trunk: nn.Module, start: Backbone, n_classes: int) -> dict[str, Tensor]:
    """A trunk's weights as they were before any classifier, a fitted CAM's built anew.

    Args:
        trunk: what ``start`` became.
        start: what the method was given.
        n_classes: C.

    Returns:
        ``backbone.NAME`` -> tensor on the CPU.
    """
    if isinstance(start, CAMMethod):
        options = {"stride": start.stride, "weights": start.weights, "device": "cpu"}
        trunk, _ = build_classifier(start.backbone, n_classes, seed=0, **options)
    return copied({f"backbone.{name}": value for name, value in trunk.state_dict().items()})


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which no training changes."""
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def restart(
    trunk: nn.Module, head: Tensor, origin: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Put trunk and head where every round begins.

    Args:
        trunk: changed in place.
        head: (C, D), changed in place.
        origin: of the trunk and, unless rounds start from the trunk, of the head.
        values: ``starts_from``, ``xavier_heads`` and ``seed``.
    """
    if values["starts_from"] == "trunk":
        options = {"seed": values["seed"], "xavier": values["xavier_heads"]}
        origin = {**origin, "head": new_head(*head.shape, **options)}
    restore_classifier(trunk, head, origin, "the beginning of the run")


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
            f"subcategories have shape {shape}, expected ({M}, {C} * k): one row a picture, k "
            "columns a class"
        )
    k = shape[1] // C
    parents = given.view(M, C, k).amax(2)
    if not ((given == 0) | (given == 1)).all() or (parents.cpu() > labels).any():
        raise ValueError(
            "subcategories hold something else than 0 and 1, or one whose class is not present"
        )
    return k
