"""What each thing that CLIP-ES's ``plus`` adds to the paper is worth, with and without the CRF."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from wsss_kit.clip import FrozenCLIP
from wsss_kit.evaluation import CONSTANTS, CRF_RULES, POWERS, Report, score_chosen_rule
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import clip_es_crf, clip_es_maps
from wsss_kit.training import progress

LOOK_STEPS: dict[str, dict[str, Any]] = {
    "reference": {"preset": "reference"},
    "clean": {"preset": "clean"},
    "plus": {"preset": "plus"},
    "plus, one size": {"preset": "plus", "scales": (1.0,)},
    "plus, queries for values": {"preset": "plus", "likeness": "queries"},
    "plus, no class distributions": {"preset": "plus", "distribution": False},
    "plus, no mirror image": {"preset": "plus", "flip": False},
}
"""Step -> arguments of `CLIPES`: the published method, ours, what goes past the paper, and that
with one thing less each time."""


class LookStep(NamedTuple):
    """What came of one step, each by the background rule that was best on ``val``.

    Args:
        maps: report over ``test`` of the refined maps as they are.
        crf: the same after the dense CRF.
    """

    maps: Report
    crf: Report


def ablate_looks(
    clip: FrozenCLIP,
    val: PaperWorld,
    test: PaperWorld,
    *,
    prompts: Prompts,
    steps: Mapping[str, Mapping[str, Any]] = LOOK_STEPS,
    shown: bool = True,
) -> dict[str, LookStep]:
    """Score CLIP-ES once for every step.

    Args:
        clip: the model.
        val: chooses each step's two background rules.
        test: is reported.
        prompts: of CLIP-ES.
        steps: name -> arguments of `CLIPES`.
        shown: whether to show bars.

    Returns:
        Name of the step -> `LookStep`, in the order of ``steps``.

    Raises:
        ValueError: as `CLIPES`.
    """
    made = {}
    for name, options in progress(steps.items(), what="looks", shown=shown, total=len(steps)):
        method = CLIPES(clip, prompts=prompts, **options).fit()
        score = partial(
            score_chosen_rule,
            partial(clip_es_maps, method=method),
            val,
            test,
            preset=method.preset,
            shown=False,
        )
        _, maps = score(rules=CONSTANTS + POWERS, refinement="attention affinity")
        _, crf = score(
            rules=[rule for rule in CRF_RULES if rule.threshold is not None],
            refine=partial(clip_es_crf, method=method),
            refinement="attention affinity, dense CRF",
        )
        made[name] = LookStep(maps, crf)
    return made
