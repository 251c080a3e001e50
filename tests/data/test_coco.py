"""COCO 2014: labels from the annotation file, masks rendered once, small objects on top."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.classes import COCO_CLASSES
from wsss_kit.data import load_coco, load_coco_masks

SIZE = (12, 16)  # H, W
PERSON, DOG = COCO_CLASSES.index("person") + 1, COCO_CLASSES.index("dog") + 1


def box(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def annotation(number, image, category, outline, area, crowd=0):
    return {
        **{"id": number, "image_id": image, "category_id": category, "area": area},
        **{"segmentation": outline, "iscrowd": crowd},
    }


@pytest.fixture
def found():
    """What the annotation file holds: a dog on a person, a crowd, and an image without a thing."""
    runs = np.zeros(SIZE, bool)
    runs[:, :2] = True  # COCO counts column by column
    crowd = {"size": list(SIZE), "counts": [0, 24, 168]}
    return {
        "images": [
            {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 12, "width": 16}
            for i in (9, 25, 30)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "annotations": [
            annotation(1, 9, 18, box(6, 4, 4, 4), 16),
            annotation(2, 9, 1, box(4, 2, 10, 8), 80),
            annotation(3, 25, 1, crowd, 24, crowd=1),
        ],
    }


@pytest.fixture
def root(tmp_path, found):
    root = tmp_path / "COCO2014"
    (root / "annotations").mkdir(parents=True)
    (root / "train2014").mkdir()
    for image in found["images"]:
        Image.new("RGB", SIZE[::-1]).save(root / "train2014" / image["file_name"])
    write(root, found)
    return root


def write(root, found):
    text = found if isinstance(found, str) else json.dumps(found)
    (root / "annotations" / "instances_train2014.json").write_text(text)


def test_labels_are_the_categories_and_images_without_are_left_out(root):
    samples = load_coco(root)
    assert samples.names == ("COCO_train2014_000000000009", "COCO_train2014_000000000025")
    assert samples.classes == COCO_CLASSES and samples[0].image.shape == (3, *SIZE)
    first, second = samples.image_labels()
    assert first.nonzero().flatten().tolist() == [PERSON - 1, DOG - 1]
    assert second.nonzero().flatten().tolist() == [PERSON - 1]
    assert load_coco(root, limit=1).names == samples.names[:1]


def test_images_may_lie_one_folder_deeper(root):
    (root / "images").mkdir()
    (root / "train2014").rename(root / "images" / "train2014")
    assert len(load_coco(root)) == 2 and load_coco(root)[0].image.shape == (3, *SIZE)


def test_masks_are_rendered_once_with_small_objects_on_top(root, monkeypatch):
    masks = load_coco_masks(root)
    expected = torch.zeros(SIZE, dtype=torch.int64)
    expected[2:10, 4:14] = PERSON
    expected[4:8, 6:10] = DOG
    assert torch.equal(masks["COCO_train2014_000000000009"], expected)
    crowd = masks["COCO_train2014_000000000025"]
    assert (crowd[:, :2] == PERSON).all() and not crowd[:, 2:].any()
    written = list((root / "masks" / "train2014").glob("*.png"))
    assert len(written) == 2
    monkeypatch.setattr("wsss_kit.data.benchmarks._COCO._rendered", None)
    again = load_coco_masks(root)["COCO_train2014_000000000009"]
    assert torch.equal(again, expected)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_a_limit_is_a_count(value, root):
    with pytest.raises(ValueError, match=r"limit is .*, expected"):
        load_coco(root, limit=value)


def test_what_is_missing_or_odd_is_said(root, found):
    with pytest.raises(FileNotFoundError, match=r"(?s)no COCO 2014 in .*instances_train2014\.json"):
        load_coco(root / "annotations")
    with pytest.raises(ValueError, match="split is 'test', expected one of train, val"):
        load_coco(root, "test")
    for broken, message in (
        ("{", "is no whole JSON"),
        ({"images": []}, "has no annotations, categories"),
        (found | {"categories": [{"id": 1, "name": "Dog"}]}, "'Dog', expected .*closest: 'dog'"),
        (
            found | {"images": [{**found["images"][0], "file_name": "../a.jpg"}]},
            "a name alone",
        ),
        (found | {"images": []}, "image 9 and category 18, expected those that it lists"),
    ):
        write(root, broken)
        with pytest.raises(ValueError, match=message):
            load_coco(root)


@pytest.mark.parametrize("outline", [[], [[1, 2]], {"counts": [1]}, {"size": [12, 16]}, "x"])
def test_an_outline_that_is_none_is_named(outline, root, found):
    found["annotations"] = [annotation(7, 9, 18, outline, 3)]
    write(root, found)
    with pytest.raises(ValueError, match="annotation 7 of COCO_train2014_000000000009 has no out"):
        load_coco_masks(root)["COCO_train2014_000000000009"]
