"""What SC-CAM's choices do: features, read-out, k, weight and rounds, one training for each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from wsss_kit.evaluation import CONSTANTS, Report, score_chosen_rule
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.sc_cam import READ_OUTS, SCCAM, Agreement, agreement
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.parts import part_recall
from wsss_kit.paperworld.subtypes import subtype_labels
from wsss_kit.recipes import cam_maps
from wsss_kit.training import progress

TRUE = "true sub-types"
"""The step that trains on what the world knows instead of on clusters."""

SUBCATEGORY_STEPS: dict[str, dict[str, Any]] = {
    "control": {"subcategory_weight": 0.0, "rounds": 1},
    "whole picture": {"features": "picture"},
    "own map": {"features": "own_map"},
    TRUE: {"rounds": 1},
}
"""Step -> arguments of `SCCAM`. The control trains as long as one round does, and a round that
restarts is all that a network has been trained; it has no use for its children. ``"whole picture"``
are the published features, and the parent's map is the published read-out."""


class SubcategoryStep(NamedTuple):
    """What came of one step, after one of its rounds, by one read-out.

    Args:
        report: over ``test``, by the background rule that was best on ``val``.
        recall: part -> share of its pixels found, see `part_recall`.
        found: how far the round's clusters of ``train`` agree with the true sub-types.
    """

    report: Report
    recall: dict[str, float]
    found: Agreement


def ablate_subcategories(
    cam: CAMMethod,
    train: PaperWorld,
    val: PaperWorld,
    test: PaperWorld,
    *,
    steps: Mapping[str, Mapping[str, Any]] = SUBCATEGORY_STEPS,
    fit: Mapping[str, Any] | None = None,
    shown: bool = True,
    **options: Any,
) -> dict[tuple[str, int, str], SubcategoryStep]:
    """Train SC-CAM once for every step, from the same fitted CAM; measure every round of each.

    A grid over k, weight and rounds is ``steps={"k = 2": {"n_subcategories": 2}, ...}``; the rounds
    of a step come without a training of their own.

    Args:
        cam: a fitted `CAM`.
        train: pictures and labels to train on.
        val: chooses each background rule.
        test: what is reported.
        steps: name -> arguments of `SCCAM` that differ; ``"true sub-types"`` trains on these.
        fit: arguments of `SCCAM.fit`.
        shown: whether to show bars.
        **options: further arguments of `SCCAM`, for all steps, such as ``preset="clean"``.

    Returns:
        (step, round from 1, read-out) -> `SubcategoryStep`, in the order of ``steps``.

    Raises:
        ValueError: as `SCCAM` and its `fit`.
    """
    truth, measured = subtype_labels(train), {}
    for name, own in progress(steps.items(), what="steps", shown=shown, total=len(steps)):
        method = SCCAM(cam, **{**options, **own})

        def measure(number: int, method: SCCAM, name: str = name) -> None:
            found = agreement(method.subcategories_, truth, n_classes=len(train.classes))
            shown_before = method.read_out
            for read_out in ("parent",) if method.subcategory_weight == 0 else READ_OUTS:
                method.read_out = read_out
                measured[name, number, read_out] = _measure(method, val, test, found)
            method.read_out = shown_before

        known = {"subcategories": truth} if name == TRUE else {}
        arguments = {"progress": shown, **(fit or {}), **known}
        method.fit(train, **arguments, on_round=measure)
    return measured


def _measure(method: SCCAM, val: PaperWorld, test: PaperWorld, found: Agreement) -> SubcategoryStep:
    maps_of = partial(cam_maps, method=method)
    options = {"rules": CONSTANTS, "preset": method.preset, "shown": False}
    masks, report = score_chosen_rule(maps_of, val, test, **options)
    return SubcategoryStep(report, part_recall(masks, test), found)
