"""Plain CAM on one's own images and on real photographs, by one command."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from wsss_kit import CAM, PaperWorld
from wsss_kit.commands.photographs import predict_all, run_baseline, train_heads
from wsss_kit.evaluation import BackgroundRule, predict_masks
from wsss_kit.files import call_function
from wsss_kit.pipeline import Pipeline


class Colours(nn.Module):
    """A backbone that sees mean colours: enough to tell red images from blue ones."""

    out_channels = 6

    def forward(self, images):
        colours = nn.functional.avg_pool2d(images, 4)
        return torch.cat([colours, 1 - colours], dim=1)


@pytest.fixture
def folder(tmp_path):
    """Twelve images with a red or a blue square on grey, labelled and masked."""
    rows, random = ["file,labels"], np.random.RandomState(0)
    (tmp_path / "masks").mkdir()
    for i in range(12):
        image = np.full((40, 48, 3), 128, np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        y, x = random.randint(0, 20), random.randint(0, 28)
        image[y : y + 20, x : x + 20] = (220, 20, 20) if i % 2 else (20, 20, 220)
        mask[y : y + 20, x : x + 20] = 2 if i % 2 else 1
        Image.fromarray(image).save(tmp_path / f"p{i:02d}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"p{i:02d}.png")
        rows.append(f"p{i:02d}.png,{'red' if i % 2 else 'blue'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_folder_of_images_from_labels_to_a_table(folder, tmp_path, capsys):
    out = tmp_path / "out"
    reports = run_baseline("folder", folder, backbone=Colours(), seeds=(0, 1), out=out)
    printed = capsys.readouterr().out
    assert [r.classes for r in reports] == [("background", "blue", "red")] * 2
    assert "blue" in printed and "constant 0.25" in printed and "seed 1" in printed
    assert (out / "report.html").exists() and (out / "head-seed-1.safetensors").exists()
    mean = 100 * sum(r.mean_iou for r in reports) / 2
    assert f"Mean of 2 seeds: {mean:.1f} mIoU." in printed
    assert min(r.mean_iou for r in reports) > 0.5  # squares of one colour are easy
    options = {"backbone": Colours(), "seeds": (0,), "out": tmp_path / "crf"}
    (refined,) = run_baseline("folder", folder, crf=True, **options)
    assert [r.protocol.refinement for r in (reports[0], refined)] == ["none", "dense CRF"]
    assert not (reports[0].matrix == refined.matrix).all()


def test_all_heads_at_once_are_each_by_itself():
    world, rule = PaperWorld(3, split="val"), BackgroundRule(threshold=0.3)
    cams = train_heads(Colours(), PaperWorld(6), (0, 1))
    for cam, masks in zip(cams, predict_all(cams, world, rule, crf=True), strict=True):
        alone = predict_masks(Pipeline(cam, crf=True), world, rule, shown=False)
        assert list(masks) == list(alone)
        assert all(torch.equal(masks[name], mask) for name, mask in alone.items())


def test_a_backbone_from_a_file(tmp_path, monkeypatch):
    path = tmp_path / "trunk.py"
    (tmp_path / "beside.py").write_text("channels = 5\n")
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from torch import nn\nimport beside\n\n@dataclass\nclass Options:\n    channels: int\n\n"
        "def make():\n    return nn.Conv2d(3, Options(beside.channels).channels, 1)\n"
        "import sys\nsys.path.insert(0, 'its own')\n"
    )
    monkeypatch.setattr(sys, "path", [*(before := sys.path)])
    assert call_function(f"{path}:make").out_channels == 5
    assert sys.path == ["its own", *before]
    with pytest.raises(ValueError, match="no function 'other'"):
        call_function(f"{path}:other")
    path.write_text("import sys\ndef make():\n    sys.exit(3)\n")
    with pytest.raises(ValueError, match=r":make failed \(SystemExit: 3\); mend it"):
        call_function(f"{path}:make")
    with pytest.raises(FileNotFoundError, match="is missing"):
        call_function(f"{tmp_path}/none.py:make")
    with pytest.raises(ValueError, match=r"no name that is known here; expected FILE\.py:FUNCTION"):
        call_function("mobilenet:make")


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(("crf", "least"), [(False, 0.47), (True, 0.525)])
def test_plain_cam_on_real_photographs(voc_root, tmp_path, crf, least):
    """The sample's 149 val images, mean of three seeds, background 0.25: measured 47.3, 52.9."""
    backbone = Path(voc_root).parent / "mobilenet_v2_imagenet" / "backbone.py"
    if not backbone.exists():
        pytest.skip(f"{backbone} is not there: it lies beside the sample")
    options = {"backbone": f"{backbone}:load_trunk", "crf": crf, "out": tmp_path}
    scored = ["cat", "cow", "dog", "horse", "person", "sheep"]
    reports = run_baseline("voc", voc_root, scored=scored, **options)
    assert len(reports) == 3
    assert np.mean([r.mean_iou for r in reports]) >= least


def test_a_backbone_in_training_mode_is_pooled_in_evaluation_mode():
    world, backbone = PaperWorld(3, split="train"), nn.Sequential(Colours(), nn.BatchNorm2d(6))
    backbone.train().out_channels = 6
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    (cam,) = train_heads(backbone, world, (0,))
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    alone = CAM(backbone.eval(), scales=cam.scales, preset="clean")
    alone.fit(world, train_backbone=False, progress=False)
    assert torch.equal(alone.head_, cam.head_)
