"""Pets: lists, classes of either kind, trimaps as masks, and what is said when something is odd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.data import load_pets, load_pets_masks

TRAIN = ("Abyssinian_1 1 1 1", "Abyssinian_2 1 1 1", "great_pyrenees_7 16 2 9")
TEST = ("Sphynx_3 34 1 12",)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pets"
    (root / "images").mkdir(parents=True)
    (root / "annotations" / "trimaps").mkdir(parents=True)
    for split, lines in (("trainval", TRAIN), ("test", TEST)):
        listed = "\n".join(["#Image CLASS-ID SPECIES BREED ID", *lines])
        (root / "annotations" / f"{split}.txt").write_text(listed)
        for line in lines:
            name = line.split()[0]
            Image.new("RGB", (4, 3), "white").save(root / "images" / f"{name}.jpg")
            trimap = np.array([[2, 2, 2, 2], [2, 3, 1, 3], [2, 3, 1, 3]], np.uint8)
            Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")
    return root


def test_species_are_two_classes_whatever_the_split_holds(root):
    samples, test = load_pets(root), load_pets(root, "test")
    assert samples.classes == test.classes == ("cat", "dog")
    labels = {s.name: s.labels.tolist() for s in samples}
    assert labels["Abyssinian_1"] == [1, 0] and labels["great_pyrenees_7"] == [0, 1]
    assert samples[0].image.shape == (3, 3, 4) and test.names == ("Sphynx_3",)


def test_breeds_are_those_of_both_lists(root):
    samples = load_pets(root, kind="breed")
    assert samples.classes == ("Abyssinian", "Sphynx", "great pyrenees")
    assert {s.name: s.labels.argmax().item() for s in samples}["great_pyrenees_7"] == 2


def test_few_images_are_of_many_breeds(root):
    assert load_pets(root, limit=2).names == ("Abyssinian_1", "great_pyrenees_7")


def test_a_trimap_is_a_mask_with_its_border_ignored(root):
    mask = load_pets_masks(root)["great_pyrenees_7"]
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[0, 0, 0, 0], [0, 255, 2, 255], [0, 255, 2, 255]]
    assert load_pets_masks(root, kind="breed")["great_pyrenees_7"].max(1).values[1] == 255
    assert 3 in load_pets_masks(root, kind="breed")["great_pyrenees_7"]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_a_limit_is_a_count(value, root):
    with pytest.raises(ValueError, match=r"limit is .*, expected"):
        load_pets(root, limit=value)


def test_what_is_missing_or_odd_is_said(root):
    with pytest.raises(FileNotFoundError, match=r"(?s)no pets in .*images/Abyssinian"):
        load_pets(root / "images")
    with pytest.raises(ValueError, match="split is 'train', expected one of trainval, test"):
        load_pets(root, "train")
    with pytest.raises(ValueError, match="kind is 'breeds', expected one of species, breed"):
        load_pets(root, kind="breeds")
    trimap = root / "annotations" / "trimaps" / "Abyssinian_1.png"
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(trimap)
    with pytest.raises(ValueError, match=r"holds \[0\], expected 1 \(pet\)"):
        load_pets_masks(root)["Abyssinian_1"]
    Image.fromarray(np.ones((2, 4), np.uint8)).save(trimap)
    with pytest.raises(ValueError, match=r"2x4 pixels .* is 3x4, EXIF rotation counted"):
        load_pets_masks(root)["Abyssinian_1"]
    for line in ("Abyssinian_100 1 3 1", "../x_1 1 1 1", "cat.jpg"):
        (root / "annotations" / "test.txt").write_text(f"\n{line}\n")
        with pytest.raises(ValueError, match=r"test\.txt line 2 is .*expected as Abyssin"):
            load_pets(root)
    (root / "annotations" / "test.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="is empty, expected one image a line"):
        load_pets(root)
    (root / "annotations" / "test.txt").write_text("\n".join(TEST))
    for file in (root / "annotations" / "trimaps").iterdir():
        file.unlink()
    (root / "annotations" / "trimaps").rmdir()
    with pytest.raises(FileNotFoundError, match="has no annotations/trimaps/"):
        load_pets_masks(root)
