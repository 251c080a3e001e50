"""Honest numbers: ground-truth masks enter here and nowhere else.

``evaluate`` compares and reports; `BackgroundRule` and its sweep choose, on a validation split, the
one number between maps and masks.
"""

from wsss_kit.evaluation.background import (
    CONSTANTS,
    CRF_RULES,
    POWERS,
    BackgroundRule,
    Chosen,
    best_rule,
    choose_rule,
    predict_masks,
    sweep_background,
)
from wsss_kit.evaluation.confusion import ERROR_KINDS, ConfusionMatrix
from wsss_kit.evaluation.error_kinds import (
    boundary_band,
    error_map,
    error_shares,
    error_sources,
    spills,
)
from wsss_kit.evaluation.published_numbers import (
    Published,
    beside_published,
    explain_gap,
    published,
    published_rows,
)
from wsss_kit.evaluation.report import Protocol, Report
from wsss_kit.evaluation.scoring import Comparison, compare_reports, evaluate
