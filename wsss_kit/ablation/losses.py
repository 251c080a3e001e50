"""What each loss of CLIMS does to a map: the losses joined one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from wsss_kit.clip import FrozenCLIP
from wsss_kit.evaluation import CONSTANTS, Report, score_chosen_rule
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.clims import CLIMS
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.mass import mass_shares
from wsss_kit.paperworld.parts import part_recall
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps
from wsss_kit.training import progress

LOSS_STEPS: dict[str, dict[str, float] | None] = {
    "CAM": None,
    "OTM": {"btm": 0.0, "reg": 0.0, "cbs": 0.0},
    "+ BTM": {"reg": 0.0, "cbs": 0.0},
    "+ REG": {"cbs": 0.0},
    "+ CBS": {},
}
"""Step -> weights of losses that are switched off; None for the CAM that all start from. In the
order of the paper's figure: the object's parts are found, enlarged, held back, and freed of the
background that comes with them."""


class LossStep(NamedTuple):
    """What came of one step.

    Args:
        method: the CAM, or the CLIMS trained with the step's losses.
        report: over ``test``, by the background rule that was best on ``val``.
        mass: place -> share of the maps' mass, see `mass_shares`.
        recall: part -> share of its pixels found, see `part_recall`.
    """

    method: CAMMethod
    report: Report
    mass: dict[str, float]
    recall: dict[str, float]


def ablate_losses(
    clip: FrozenCLIP,
    cam: CAMMethod,
    train: PaperWorld,
    val: PaperWorld,
    test: PaperWorld,
    *,
    prompts: Prompts,
    steps: Mapping[str, Mapping[str, float] | None] = LOSS_STEPS,
    fit: Mapping[str, Any] | None = None,
    shown: bool = True,
    **options: Any,
) -> dict[str, LossStep]:
    """Train CLIMS once for every step, from the same fitted CAM, and measure each.

    Args:
        clip: the evaluator.
        cam: a fitted `CAM`.
        train: pictures and labels to train on.
        val: chooses each step's background rule.
        test: what is reported.
        prompts: of CLIMS.
        steps: name -> loss weights that differ from the preset's, None for the CAM itself.
        fit: arguments of `CLIMS.fit`.
        shown: whether to show bars.
        **options: further arguments of `CLIMS`, such as ``preset="clean"``.

    Returns:
        Name of the step -> `LossStep`, in the order of ``steps``.

    Raises:
        ValueError: as `CLIMS` and its `fit`.
    """
    made = {}
    for name, weights in progress(steps.items(), what="losses", shown=shown, total=len(steps)):
        method = cam
        if weights is not None:
            method = CLIMS(clip, cam, prompts=prompts, **{**options, **weights})
            method.fit(train, **{"progress": shown, **(fit or {})})
        made[name] = _measure(method, val, test)
    return made


def _measure(method: CAMMethod, val: PaperWorld, test: PaperWorld) -> LossStep:
    maps_of = partial(cam_maps, method=method)
    options = {"rules": CONSTANTS, "preset": method.preset, "shown": False}
    masks, report = score_chosen_rule(maps_of, val, test, **options)
    maps = {s.name: maps_of(s.image[None], s.labels[None])[0] for s in test}
    return LossStep(method, report, mass_shares(maps, test), part_recall(masks, test))
