"""Honest numbers: ground-truth masks enter here and nowhere else.

``evaluate`` compares and reports; `BackgroundRule` and its sweep choose, on a validation split, the
one number between maps and masks.
"""

from wsss_kit.evaluation.background import (
    CONSTANTS,
    CRF_RULES,
    POWERS,
    BackgroundRule,
    best_rule,
    predict_masks,
    sweep_background,
)
from wsss_kit.evaluation.bootstrap import bootstrap_mean_iou
from wsss_kit.evaluation.chosen import score_chosen_rule
from wsss_kit.evaluation.compare import Comparison, compare_reports
from wsss_kit.evaluation.confusion import ConfusionMatrix
from wsss_kit.evaluation.error_kinds import (
    ERROR_KINDS,
    boundary_band,
    boundary_width,
    error_map,
    error_shares,
)
from wsss_kit.evaluation.report import Protocol, Report
from wsss_kit.evaluation.scoring import evaluate

__all__ = [
    "CONSTANTS",
    "CRF_RULES",
    "ERROR_KINDS",
    "POWERS",
    "BackgroundRule",
    "Comparison",
    "ConfusionMatrix",
    "Protocol",
    "Report",
    "best_rule",
    "bootstrap_mean_iou",
    "boundary_band",
    "boundary_width",
    "compare_reports",
    "error_map",
    "error_shares",
    "evaluate",
    "predict_masks",
    "score_chosen_rule",
    "sweep_background",
]
