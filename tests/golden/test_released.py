"""The released code of CLIMS, SC-CAM, PSA, IRN and DeepLab, by figures recorded from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests.programs import run_python
from wsss_kit.affinity_net import half_plane, inner_pairs
from wsss_kit.engine import batch_norms
from wsss_kit.methods.cam import CAM

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def lines():
    """What `compare_released` prints, a line a comparison."""
    root = FOLDER.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return run_python(FOLDER / "compare_released.py", cwd=root, env=environment).splitlines()


@pytest.mark.parametrize(
    ("what", "n"), [("clims", 24), ("sc_cam", 10), ("psa", 4), ("irn", 6), ("deeplab", 9)]
)
def test_nothing_differs(lines, what, n):
    """But for the logits of DeepLab's ResNet, which is torchvision's here."""
    compared = [line for line in lines if line[5:].startswith(what)]
    assert len(compared) >= n
    for line in compared:
        assert line.startswith("D10" if "deeplab_logits" in line else "ok "), line


def test_what_the_classifier_of_clims_does_not_train():
    card = json.loads((FOLDER / "released" / "cam_baseline.json").read_text())
    cam = CAM("resnet50")
    cam.build([f"class {c}" for c in range(20)], 0)
    learning = {id(p) for group in cam.parameter_groups() for p in group["params"]}
    still = [name for name, p in cam.named_parameters() if id(p) not in learning]
    stem = {"resnet50.conv1.": "backbone_.stem.0.", "resnet50.bn1.": "backbone_.stem.1."}
    expected = {
        new + name.removeprefix(old)
        for name in card["parameters_that_do_not_learn"]
        for old, new in stem.items()
        if name.startswith(old)
    }
    assert set(still) == expected and len(learning) == card["number_that_learn"]
    assert [group.get("lr_scale", 1) for group in cam.parameter_groups()] == [1, 10]
    cam.weights = "imagenet"  # a start from trained weights keeps all statistics
    assert cam.values()["momentum"] == card["momentum"]
    assert len(cam.fixed()) == len(batch_norms(cam.backbone_)) > 0


def test_the_number_of_pairs_that_psa_draws():
    """At its training size of 56 x 56 cells, as counted in its code."""
    every = torch.ones(1, 34, 56, 56)
    assert int(inner_pairs(every, half_plane(5)).sum()) == 84_864
