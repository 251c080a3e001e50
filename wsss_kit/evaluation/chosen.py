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
from wsss_kit.masks import MapsOf, Refine


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
