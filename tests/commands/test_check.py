"""A data set looked at: whatever would stop a run or falsify its numbers is named."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.commands.voc_layout import save_mask
from wsss_kit.__main__ import main
from wsss_kit.classes import VOC_CLASSES
from wsss_kit.commands.download import check_data, run_check
from wsss_kit.data import load_voc, load_voc_masks
from wsss_kit.paperworld import PaperWorld

COW, DOG = VOC_CLASSES.index("cow") + 1, VOC_CLASSES.index("dog") + 1


def draw(root, name, values, size=(48, 64)):
    mask = np.zeros(size, np.uint8)
    for i, value in enumerate(values):
        mask[:, i] = value
    save_mask(root / "SegmentationClass" / f"{name}.png", mask)


def looked(root):
    return check_data(load_voc(root, "train_aug"), load_voc_masks(root, "train_aug"), shown=False)


def test_a_data_set_that_is_right(voc, capsys):
    result = looked(voc)
    assert not result.errors and (result.n_images, result.n_masks) == (4, 4)
    assert len(result.remarks["classes that no image is labelled with"]) == 18
    assert main(["check", "voc", "--root", str(voc)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


def test_what_stops_a_run_is_wrong(voc, capsys):
    photographs = voc / "JPEGImages"
    (photographs / "train_aug_0.jpg").write_bytes(b"no image")
    shutil.copy(photographs / "train_aug_1.jpg", photographs / "train_aug_3.jpg")
    draw(voc, "train_aug_2", [COW], size=(10, 10))
    draw(voc, "train_aug_1", [DOG, COW])
    errors = looked(voc).errors
    assert "train_aug_0: ValueError" in errors["images that cannot be read"][0]
    assert errors["images that are there twice"] == ["train_aug_1 = train_aug_3"]
    assert "10x10" in errors["masks that cannot be read"][0]
    assert errors["classes drawn but not labelled"] == ["train_aug_1: cow"]
    assert main(["check", "voc", "--root", str(voc)]) == 1
    message = capsys.readouterr().out
    assert "wrong: images that are there twice: 1" in message and "nothing is wrong" not in message


def test_what_may_be_meant_so_is_remarked(voc):
    draw(voc, "train_aug_0", [255])
    draw(voc, "train_aug_1", [255] * 64)
    (voc / "SegmentationClass" / "train_aug_2.png").unlink()
    (voc / "Annotations" / "train_aug_3.xml").write_text("<annotation></annotation>")
    draw(voc, "train_aug_3", [0])
    seen = looked(voc)
    assert seen.remarks["classes labelled but not drawn"][0] == "train_aug_0: cow"
    assert seen.remarks["images without a label"] == ["train_aug_3"]
    assert seen.errors["masks that ignore everything"] == ["train_aug_1"]
    assert seen.errors["masks with 255 and no class: are objects drawn as 255?"] == ["train_aug_0"]
    assert seen.n_masks == 3


def test_small_images_and_many_problems_are_shortened(voc):
    for i in range(4):
        path = voc / "JPEGImages" / f"train_aug_{i}.jpg"
        Image.fromarray(np.full((20, 30, 3), 50 * i, np.uint8)).save(path)
        draw(voc, f"train_aug_{i}", [COW if i % 2 == 0 else DOG], size=(20, 30))
    result = looked(voc)
    assert len(result.remarks["images smaller than 32 pixels"]) == 4 and not result.errors
    result.errors["anything"].extend(str(i) for i in range(9))
    assert "  and 4 more" in str(result)


def test_data_without_masks_and_the_embedded_world(voc, capsys):
    shutil.rmtree(voc / "SegmentationClass")
    assert run_check("voc", root=voc).n_masks == 0
    assert run_check("paper", limit=3).n_masks == 3
    assert "3 images, 3 masks" in capsys.readouterr().out


def test_data_without_an_image():
    with pytest.raises(ValueError, match="there is no image"):
        check_data(PaperWorld(1)[:0])
