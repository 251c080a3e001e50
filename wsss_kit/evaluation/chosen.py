"""From maps to a report: the background rule chosen on one split, the masks scored on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.evaluation.background import (
    CONSTANTS,
    CRF_RULES,
    POWERS,
    BackgroundRule,
    best_rule,
    predict_masks,
    sweep_background,
)
from wsss_kit.evaluation.report import Protocol, Report
from wsss_kit.evaluation.scoring import evaluate
from wsss_kit.masks import MapsOf, Refine
from wsss_kit.paperworld import PaperWorld


class Chosen(NamedTuple):
    """A background rule, and the masks of other pictures by it.

    Args:
        rule: the best one.
        swept: every rule that was tried -> its mIoU in [0, 1] where it was chosen.
        masks: name -> (H, W) int64.
        said: the rule in the words of a protocol.
    """

    rule: BackgroundRule
    swept: Mapping[BackgroundRule, float]
    masks: dict[str, Tensor]
    said: str


def choose_rule(
    maps_of: MapsOf,
    val: Sequence[Sample],
    val_masks: Mapping[str, Tensor],
    test: Sequence[Sample],
    *,
    rules: Sequence[BackgroundRule] | None = None,
    refine: Refine | None = None,
    what: str = "",
    shown: bool = True,
) -> Chosen:
    """Choose the background rule on one split and make the masks of another by it.

    Args:
        maps_of: pictures and labels to maps.
        val: chooses the rule.
        val_masks: its ground truth, name to (H, W) int64.
        test: is predicted.
        rules: what to try; None for all rules, or those few that a refinement has time for.
        refine: what happens to the scores after the rule, see `predict_masks`.
        what: name of the method on the progress bars.
        shown: whether to show them.
    """
    if rules is None:
        rules = CONSTANTS + POWERS if refine is None else CRF_RULES
    name = f"{what}: " if what else ""
    options = {"refine": refine, "shown": shown}
    swept = sweep_background(
        maps_of, val, val_masks, rules=rules, what=f"{name}rule on val", **options
    )
    rule = best_rule(swept)
    masks = predict_masks(maps_of, test, rule, what=f"{name}masks on test", **options)
    return Chosen(rule, swept, masks, f"{rule}, chosen on {len(val)} val pictures")


def score_chosen_rule(
    maps_of: MapsOf,
    val: PaperWorld,
    test: PaperWorld,
    *,
    preset: str,
    rules: Sequence[BackgroundRule] | None = None,
    refine: Refine | None = None,
    refinement: str = "none",
    what: str = "",
    shown: bool = True,
) -> tuple[dict[str, Tensor], Report]:
    """Masks of ``test`` by the background rule that was best on ``val``, and their report.

    Args:
        maps_of: pictures and labels to maps.
        val: chooses the rule.
        test: is scored.
        preset: of the method, for the protocol.
        rules: what to try; None for all rules, or those few that a refinement has time for.
        refine: what happens to the scores after the rule, see `predict_masks`.
        refinement: its name, for the protocol.
        what: name of the method on the progress bars.
        shown: whether to show them.

    Returns:
        name -> (H, W) int64, and the report with its protocol.
    """
    options = {"rules": rules, "refine": refine, "what": what, "shown": shown}
    chosen = choose_rule(maps_of, val, val.masks, test, **options)
    protocol = Protocol(
        f"PaperWorld seed {test.seed}",
        test.split,
        resolution=f"{test.size}x{test.size}",
        background=chosen.said,
        refinement=refinement,
        preset=preset,
    )
    return chosen.masks, evaluate(chosen.masks, test.masks, classes=test.classes, protocol=protocol)
