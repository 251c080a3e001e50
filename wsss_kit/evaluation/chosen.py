"""From maps to a report: the background rule chosen on one split, the masks scored on another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wsss_kit.evaluation.background import (
    CONSTANTS,
    CRF_RULES,
    POWERS,
    BackgroundRule,
    MapsOf,
    Refine,
    best_rule,
    predict_masks,
    sweep_background,
)
from wsss_kit.evaluation.report import Protocol, Report
from wsss_kit.evaluation.scoring import evaluate
from wsss_kit.paperworld import PaperWorld


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
    if rules is None:
        rules = CONSTANTS + POWERS if refine is None else CRF_RULES
    options = {"refine": refine, "shown": shown}
    swept = sweep_background(
        maps_of, val, val.masks, rules=rules, what=f"{what}: rule on val", **options
    )
    rule = best_rule(swept)
    masks = predict_masks(maps_of, test, rule, what=f"{what}: masks on test", **options)
    protocol = Protocol(
        f"PaperWorld seed {test.seed}",
        test.split,
        resolution=f"{test.size}x{test.size}",
        background=f"{rule}, chosen on {len(val)} val pictures",
        refinement=refinement,
        preset=preset,
    )
    return masks, evaluate(masks, test.masks, classes=test.classes, protocol=protocol)
