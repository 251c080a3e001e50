"""Real photographs from the shell: checked, trained on, masks written, scored."""

import json

import pytest

from wsss_kit.__main__ import main
from wsss_kit.commands.download import run_check
from wsss_kit.commands.evaluate import run_evaluate

SCORED = "cat,cow,dog,horse,person,sheep"
BACKBONE = "mobilenet_v2_imagenet/backbone.py"


@pytest.mark.real_data
def test_voc_from_check_to_score(voc_root, tmp_path, capsys):
    """A head on a frozen ImageNet MobileNetV2: 47.3 on all 149 images of the sample's val, with
    437 of train and a constant background of 0.25; here fewer of both, one scale."""
    backbone = voc_root.parent / BACKBONE
    if not backbone.is_file():
        pytest.skip(f"there is no {BACKBONE} beside WSSS_KIT_VOC")
    assert run_check("voc", root=voc_root, split="val", limit=8).errors == {}
    backbone = f"{backbone}:load_trunk"
    words = ["--root", str(voc_root), "--backbone", backbone]
    train = ["train", "cam", *words, "--split", "train", "--limit", "24", "--out"]
    train += [str(tmp_path / "cam"), "--train-backbone", "false", "--preset", "clean"]
    train += ["--scales", "1", "--flip", "false", "--validate", "2"]
    assert main(train) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "cam" / "config.json").read_text())
    assert config["backbone"] == backbone and config["root"] == str(voc_root)
    masks = ["masks", str(tmp_path / "cam" / "cam"), *words, "--split", "val", "--limit", "8"]
    masks += ["--threshold", "0.25", "--batch-size", "4", "--out", str(tmp_path / "masks")]
    assert main(masks) == 0, capsys.readouterr().err
    options = {"root": voc_root, "split": "val", "limit": 8, "scored": SCORED.split(",")}
    report = run_evaluate(tmp_path / "masks", **options)
    assert 0.2 < report.mean_iou < 0.7 and report.iou[0] > 0.6
    assert (tmp_path / "masks" / "report.html").is_file()
