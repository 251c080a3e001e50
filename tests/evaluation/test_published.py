"""Published numbers as data, and the usual reasons why ours is another one."""

import pytest
import torch

from wsss_kit.classes import VOC_CLASSES
from wsss_kit.evaluation import (
    Protocol,
    beside_published,
    evaluate,
    explain_gap,
    published,
    published_rows,
)

SIZE = (330, 500)


def reported(target=None, predicted=None, *, n=3, size=SIZE, scored=None, **stated):
    """A report on images that are half cow (10) and half background."""
    if target is None:
        target = torch.zeros(size, dtype=torch.int64)
        target[:, : size[1] // 2] = 10
    predicted = target if predicted is None else predicted
    stated = {"data": "VOC 2012", "split": "train", **stated}
    masks = [{f"p{i}": mask for i in range(n)} for mask in (predicted, target)]
    options = {"classes": VOC_CLASSES, "n_bootstrap": 20, "scored": scored}
    return evaluate(*masks, protocol=Protocol(**stated), **options)


def reasons(report, row):
    return explain_gap(report, published(row)).reasons


def test_rows_have_units_and_stand_as_published():
    rows = {row.name: row for row in published_rows()}
    assert len(rows) == len(published_rows()) == 61
    for group, values in {
        "clip-es/train": {"maps": 58.6, "affinity": 70.8, "crf": 75.0},
        "clip-es": {"val/imagenet": 71.1, "test/coco": 73.9, "coco-val": 45.4},
        "clims": {"train/walk": 70.5, "val/coco": 70.4},
        "clims-later": {"train/irn": 74.1, "test/resnet38": 73.4},
        "sc-cam": {"train/maps": 50.9, "train/walk": 63.4, "val": 66.1, "test": 65.9},
        "psa": {"val/walk": 60.2},
    }.items():
        found = {name: rows[f"{group}/{name}"] for name in values}
        assert {name: row.value for name, row in found.items()} == values
        assert {row.unit for row in found.values()} == {"mIoU, percent"}
    boards = [row for row in rows.values() if row.name.startswith("leaderboard/")]
    assert len([r for r in boards if r.method == "CLIMS"]) == 10
    assert len([r for r in boards if r.method == "SC-CAM"]) == 10
    assert not any("rank" in str(row).lower().replace("random", "") for row in boards)
    glas = rows["leaderboard/sc-cam/glas"]
    assert glas.value == 0.7152 and "fraction" in glas.unit and glas.percent is None
    assert rows["clims-later/coco-train/maps"].percent == pytest.approx(42)
    with pytest.raises(ValueError, match="no published row 'clip-es', expected one of clip-es/tr"):
        published("clip-es")


def test_the_table_says_what_does_not_compare():
    report = reported(refinement="attention affinity, dense CRF", background="power 1", n=2)
    table = beside_published(report, method="CLIP-ES", what="masks")
    row = table.loc["clip-es/train/crf"]
    assert row["published"] == 75 and row["difference"] == pytest.approx(25)
    assert row["same protocol?"] == "n_images: 2, there 1464"
    everything = beside_published(report, method="CLIP-ES")
    assert "split: train, there val" in everything.loc["clip-es/val/coco", "same protocol?"]
    assert (everything["ours"] == 100).all() and "glas" not in str(everything)
    with pytest.raises(ValueError, match="nothing is published of method 'PSA'"):
        beside_published(report, method="PSA")


def test_a_published_protocol_is_the_same_when_it_is():
    report = reported(refinement="attention affinity, dense CRF", background="power 1")
    object.__setattr__(report.protocol, "n_images", 1464)
    table = beside_published(report, method="CLIP-ES", what="masks")
    assert table.loc["clip-es/train/crf", "same protocol?"] == "yes"
    assert not explain_gap(report, published("clip-es/train/crf")).reasons
    assert "no usual reason was found" in str(explain_gap(report, published("clip-es/train/crf")))


def test_the_usual_reasons_are_found_one_by_one():
    full = {"refinement": "attention affinity, dense CRF", "background": "power 1"}
    usual = set(reasons(reported(**full), "clip-es/train/crf"))
    assert usual == {"few images"}

    def more(**changes):
        result = reasons(reported(**{**full, **changes}), "clip-es/train/crf")
        return {name: message for name, message in result.items() if name not in usual}

    aug = more(split="train_aug")
    assert set(aug) == {"wrong split"} and "68.7 instead of 75.0" in aug["wrong split"]
    assert set(more(resolution="24x24 cells", stride=16)) == {"low resolution"}
    assert not more(resolution="feature-rich display")
    assert "1 size (512x512)" in more(size=(512, 512))["resized ground truth"]
    assert "comes after" in more(refinement="none")["refinement left out"]
    assert set(more(refinement="attention affinity")) == {"refinement left out"}
    longer = "attention affinity, dense CRF, PAMR"
    assert set(more(refinement=longer)) == {"another refinement"}
    assert not more(background="(1 - max)^1")
    assert set(more(background="constant 0.3")) == {"background rule"}
    assert set(more(scored=("cow",))) == {"other classes"}


def test_reasons_that_only_figures_show():
    target = torch.zeros(SIZE, dtype=torch.int64)
    target[:, :250] = 10

    def found(predicted):
        return reasons(reported(target, predicted), "clims/train/maps")

    doubtful = target.clone()
    doubtful[:33] = 255
    assert "10.0 % of the scored pixels are predicted 255" in found(doubtful)["predicted 255"]
    assert "only background" in found(torch.zeros_like(target))
    small = target.clone()
    small[:, 100:250] = 0
    assert "a precision of 100 and a recall of 40: lower" in found(small)["background too strong"]
    large = target.clone()
    large[:, 250:480] = 10
    assert "raise the background" in found(large)["background too weak"]
    neutral = target.masked_fill(target == 0, 255)  # 255 in the target is no doubt of ours
    report = reported(neutral, target)
    assert report.protocol.predicted_255 == 0 and report.settings["sizes"] == [SIZE]


def test_the_gap_reads_as_a_sentence():
    gap = explain_gap(reported(split="train_aug"), published("clims/train/maps"))
    first, *lines = str(gap).splitlines()
    assert first == "100.0 where 56.6 is published, +43.4 points:"
    assert len(lines) == len(gap.reasons) and all(line.startswith("- ") for line in lines)
    with pytest.raises(ValueError, match="leaderboard/sc-cam/glas is fraction"):
        explain_gap(reported(), published("leaderboard/sc-cam/glas"))
