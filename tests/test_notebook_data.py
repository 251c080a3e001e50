"""`DATA` of the notebooks: the same shape of answer for all three, and no image in two splits."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.voc_layout import build_voc
from wsss_kit.classes import VOC_CLASSES
from wsss_kit.clip import load_clip
from wsss_kit.methods.cam import CAM
from wsss_kit.notebook_data import (
    make_clims,
    make_sc_cam,
    open_data,
    teach_segmenter,
    train_affinity_net,
)
from wsss_kit.prompts import Prompts
from wsss_kit.segmentation import PRESETS


def save(path, value, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (5, 4), value).save(path)


@pytest.fixture
def voc(tmp_path):
    return build_voc(tmp_path, (16, 20), {"train": 6, "val": 3})


@pytest.fixture
def folder(tmp_path):
    rows = ["file,labels"]
    for i in range(12):
        save(tmp_path / f"p{i}.png", (10 * i, 0, 0), "RGB")
        rows.append(f"p{i}.png,{'dog' if i % 2 else 'cat'}")
        if i < 10:
            save(tmp_path / "masks" / f"p{i}.png", 1 + i % 2, "L")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def names_of(data):
    return {split: [s.name for s in getattr(data, split)] for split in ("train", "val", "test")}


def test_voc_chooses_on_the_end_of_train_and_scores_on_val(voc):
    data = open_data("voc", n_train=3, n_val=2, n_test=2, root=voc)
    train, val, test = (("train", (0, 1, 2)), ("train", (4, 5)), ("val", (0, 1)))
    expected = [[f"{split}_{i}" for i in numbers] for split, numbers in (train, val, test)]
    assert list(names_of(data).values()) == expected and data.classes == VOC_CLASSES
    assert [list(data.val_masks), list(data.test_masks)] == expected[1:]
    assert data.test_masks["val_1"].unique().tolist() == [0, 1 + VOC_CLASSES.index("dog")]
    assert str(data.protocol("test")).startswith("VOC 2012 val, ")
    assert str(data.protocol("val")).startswith("VOC 2012 train, its end, ")


def test_a_folder_is_dealt_out_by_its_masks(folder, monkeypatch):
    monkeypatch.setenv("WSSS_KIT_FOLDER", str(folder))
    data = open_data("folder")
    assert names_of(data) == {
        "train": ["p2", "p3", "p4", "p7", "p8", "p9", "p10", "p11"],
        "val": ["p1", "p6"],
        "test": ["p0", "p5"],
    }
    assert list(data.test_masks) == ["p0", "p5"] and data.classes == ("cat", "dog")
    sample = data.train[1]  # p3
    assert sample.labels.tolist() == [0, 1]
    assert np.isclose(sample.image[0].mean().item(), 30 / 255)
    assert torch.equal(data.val_masks["p1"], torch.full((4, 5), 2))
    monkeypatch.setenv("HOME", str(folder.parent))
    data = open_data("folder", root=f"~/{folder.name}", classes=("dog", "cat"))
    assert list(data.test_masks) == ["p0", "p5"]
    assert data.classes == ("dog", "cat") and data.train[1].labels.tolist() == [1, 0]


def test_a_folder_without_masks_opens_and_says_what_is_missing(folder):
    shutil.rmtree(folder / "masks")
    data = open_data("folder", root=folder)
    assert [len(part) for part in names_of(data).values()] == [6, 3, 3]
    with pytest.raises(KeyError, match=r"no mask for 'p0': expected it at .*masks/p0\.png"):
        data.test_masks["p0"]


def test_a_folder_that_is_too_small_is_refused(folder):
    (folder / "labels.csv").write_text("file,labels\np0.png,cat\n")
    with pytest.raises(ValueError, match=r"leaves no image for train"):
        open_data("folder", root=folder)


def test_clims_gets_the_words_and_the_clip_of_the_data(voc, folder, monkeypatch):
    given = []
    tiny = load_clip("paper", device="cpu")
    monkeypatch.setattr(
        "wsss_kit.notebook_data.load_clip", lambda *a, **k: given.append((a, k)) or tiny
    )
    cam = CAM("paper", preset="clean", device="cpu")
    paper = make_clims(open_data("paper", n_train=1, n_val=1, n_test=1), cam, cbs=0.0)
    assert (paper.preset, paper.cbs, paper.otm, paper.backbone) == ("clean", 0.0, None, cam)
    assert paper.prompts == Prompts.paper(method="clims")
    photographs = make_clims(open_data("voc", n_train=3, n_val=2, n_test=2, root=voc), cam)
    assert (photographs.preset, photographs.scales) == ("reference", None)
    assert photographs.prompts == Prompts.voc(method="clims")
    mine = make_clims(open_data("folder", root=folder), cam, btm=2.0)
    assert mine.prompts.classes == ("cat", "dog") and mine.btm == 2.0
    assert mine.prompts.templates == Prompts.voc(method="clims").templates
    large = (("ViT-B-32-quickgelu",), {"weights": "openai"})
    assert given == [(("paper",), {}), large, large]


def test_sc_cam_looks_for_as_many_subcategories_as_the_data_has(voc):
    cam = CAM("paper", preset="clean", device="cpu")
    paper = make_sc_cam(open_data("paper", n_train=1, n_val=1, n_test=1), cam, rounds=1)
    assert (paper.preset, paper.n_subcategories, paper.rounds) == ("clean", 3, 1)
    photographs = make_sc_cam(open_data("voc", n_train=3, n_val=2, n_test=2, root=voc), cam)
    assert (photographs.preset, photographs.n_subcategories) == ("reference", None)
    assert photographs.backbone is paper.backbone is cam


def test_an_affinity_for_each_data_set(voc):
    data = open_data("paper", n_train=2, n_val=1, n_test=1)
    seeds = {name: torch.zeros(96, 96, dtype=torch.int64) for name in data.train.names}
    net = train_affinity_net(data, data.train, seeds)
    assert (net.backbone, net.radius, len(net.losses_)) == ("paper", 5, 6)
    data = open_data("voc", n_train=2, n_val=1, n_test=1, root=voc)
    seeds = {s.name: torch.full((16, 20), 255) for s in data.train}  # cropped beyond their borders
    with pytest.warns(UserWarning, match="every loss of AffinityNet was 0"):
        net = train_affinity_net(data, data.train, seeds, backbone="resnet18")
    assert (net.backbone, net.stride, net.losses_) == ("resnet18", 8, [0.0] * 3)


def test_a_segmenter_for_each_data_set(voc, monkeypatch):
    monkeypatch.setitem(PRESETS["deeplab"], "crop", 65)  # which is not what this is about
    data = open_data("paper", n_train=2, n_val=1, n_test=1)
    net = teach_segmenter(data, data.train, data.train.masks, taught_by="ground truth", epochs=1)
    assert (net.network, net.classes, net.taught_by) == ("small", data.classes, "ground truth")
    data = open_data("voc", n_train=2, n_val=1, n_test=1, root=voc)
    masks = {s.name: torch.full((16, 20), 3) for s in data.train}
    net = teach_segmenter(
        *(data, data.train, masks), taught_by="threes", epochs=1, backbone="resnet18"
    )
    assert (net.network, net.backbone, net.classes) == ("deeplab_v2", "resnet18", VOC_CLASSES)
    assert len(net.losses_) == 1 and net(torch.rand(1, 3, 33, 40)).shape == (1, 21, 33, 40)
