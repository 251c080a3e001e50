"""Honest numbers: ground-truth masks enter here and nowhere else.

``evaluate`` compares and reports; `BackgroundRule` and its sweep choose, on a validation split, the
one number between maps and masks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from wsss_kit.evaluation.chosen import Chosen, choose_rule
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
from wsss_kit.evaluation.sources import error_sources, spills

if TYPE_CHECKING:
    from wsss_kit.evaluation.gap import Gap, Reason, explain_gap
    from wsss_kit.evaluation.published_numbers import (
        Published,
        beside_published,
        differences,
        published,
        published_rows,
    )

__all__ = [
    "CONSTANTS",
    "CRF_RULES",
    "ERROR_KINDS",
    "POWERS",
    "BackgroundRule",
    "Chosen",
    "Comparison",
    "ConfusionMatrix",
    "Gap",
    "Protocol",
    "Published",
    "Reason",
    "Report",
    "beside_published",
    "best_rule",
    "bootstrap_mean_iou",
    "boundary_band",
    "boundary_width",
    "choose_rule",
    "compare_reports",
    "differences",
    "error_map",
    "error_shares",
    "error_sources",
    "evaluate",
    "explain_gap",
    "predict_masks",
    "published",
    "published_rows",
    "spills",
    "sweep_background",
]


def __getattr__(name: str) -> Any:
    """Import what compares with published numbers when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "gap" if name in ("Gap", "Reason", "explain_gap") else "published_numbers"
    return getattr(import_module(f"{__name__}.{module}"), name)
