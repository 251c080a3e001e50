"""What ``plus`` adds to CLIP-ES, on a world of a few pictures."""

from __future__ import annotations

import functools

import pytest

from wsss_kit.ablation import LOOK_STEPS, ablate_looks
from wsss_kit.clip import load_clip
from wsss_kit.evaluation import BackgroundRule, evaluate, predict_masks
from wsss_kit.methods.clip_es import CLIPES, PRESETS
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import clip_es_crf, clip_es_maps


@pytest.fixture(scope="module")
def parts():
    worlds = (PaperWorld(4, split=split, size=64) for split in ("val", "test"))
    return load_clip("paper", device="cpu"), *worlds


def test_every_choice_of_plus_is_switched_off_once():
    plus = {"preset": "plus"}
    less = [set(step) - set(plus) for step in LOOK_STEPS.values() if step["preset"] == "plus"]
    assert less == [set(), {"scales"}, {"likeness"}, {"distribution"}, {"flip"}]
    for options in LOOK_STEPS.values():
        for name, value in options.items():
            assert name == "preset" or value != PRESETS["plus"][name]
    differs = {k for k, v in PRESETS["plus"].items() if v != PRESETS["reference"][k]}
    assert differs == {"round_positions", *set.union(*less)}
    assert PRESETS["plus"]["clamp_boxes"] and not PRESETS["clean"]["clamp_boxes"]


def test_steps_are_scored_with_their_own_rules(parts):
    clip, val, test = parts
    steps = {"reference": LOOK_STEPS["reference"], "plus": LOOK_STEPS["plus"]}
    found = ablate_looks(*parts, prompts=Prompts.paper(), steps=steps, shown=False)
    assert list(found) == list(steps)
    for name, (maps, crf) in found.items():
        assert maps.protocol.preset == crf.protocol.preset == name
        assert maps.protocol.refinement == "attention affinity"
        assert crf.protocol.refinement == "attention affinity, dense CRF"
        assert maps.protocol.split == "test" and maps.protocol.n_images == 4
        method = CLIPES(clip, prompts=Prompts.paper(), preset=name).fit()
        rule, _, _ = crf.protocol.background.partition(",")
        masks = predict_masks(
            functools.partial(clip_es_maps, method=method),
            test,
            BackgroundRule(threshold=float(rule.removeprefix("constant "))),
            refine=functools.partial(clip_es_crf, method=method),
            shown=False,
        )
        again = evaluate(masks, test.masks, classes=test.classes, protocol=maps.protocol)
        assert again.mean_iou == pytest.approx(crf.mean_iou)
    assert found["plus"].maps.mean_iou != found["reference"].maps.mean_iou
