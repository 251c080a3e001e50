"""SC-CAM's choices side by side on a world of a few pictures."""

from __future__ import annotations

import pytest
import torch

from wsss_kit.ablation import SUBCATEGORY_STEPS, ablate_subcategories
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.sc_cam import SCCAM, agreement
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.parts import part_recall
from wsss_kit.paperworld.subtypes import subtype_labels
from wsss_kit.recipes import cam_maps

FIT = {"epochs": 1, "batch_size": 8, "seed": 3}
OPTIONS = {"preset": "clean", "scales": (1.0,), "n_subcategories": 3, "rounds": 2}


@pytest.fixture(scope="module")
def parts():
    train, val, test = (
        PaperWorld(n, split=s, size=64) for n, s in ((24, "train"), (6, "val"), (6, "test"))
    )
    cam = CAM("paper", weights="web", preset="clean", scales=(1.0,), device="cpu")
    return cam.fit(train, train_backbone=False, progress=False), train, val, test


def test_every_round_of_every_step_is_measured_by_both_read_outs(parts):
    cam, train, _, test = parts
    found = ablate_subcategories(*parts, fit=FIT, shown=False, **OPTIONS)
    assert list(SUBCATEGORY_STEPS) == ["control", "whole picture", "own map", "true sub-types"]
    assert set(found) == {
        ("control", 1, "parent"),
        *(
            (step, number, read_out)
            for step in ("whole picture", "own map")
            for number in (1, 2)
            for read_out in ("parent", "children")
        ),
        *(("true sub-types", 1, read_out) for read_out in ("parent", "children")),
    }
    truth = subtype_labels(train)
    for step in found.values():
        assert step.report.protocol.n_images == 6 and step.report.protocol.split == "test"
        assert "chosen on 6 val pictures" in step.report.protocol.background
    assert found["true sub-types", 1, "children"].found.mean_nmi == 1
    alone = SCCAM(cam, **OPTIONS, read_out="children").fit(train, progress=False, **FIT)
    last = found["own map", 2, "children"]
    assert last.found == agreement(alone.subcategories_, truth, n_classes=8)
    threshold = float(last.report.protocol.background.split()[1].rstrip(","))
    masks = {}
    for s in test:
        maps = cam_maps(s.image[None], s.labels[None], method=alone)[0]
        scores = torch.cat([torch.full((1, 64, 64), threshold), maps])
        masks[s.name] = scores.argmax(0)
    assert part_recall(masks, test) == pytest.approx(last.recall, abs=0.02)


def test_a_grid_of_ones_own(parts):
    grid = {f"k = {k}": {"n_subcategories": k, "rounds": 1} for k in (2, 4)}
    found = ablate_subcategories(*parts, steps=grid, fit=FIT, shown=False, **OPTIONS)
    assert {name for name, *_ in found} == {"k = 2", "k = 4"}
    assert len(found) == 4
    with pytest.raises(ValueError, match="n_subcategories is 0"):
        bad = {"none": {"n_subcategories": 0}}
        ablate_subcategories(*parts, steps=bad, fit=FIT, shown=False, **OPTIONS)
