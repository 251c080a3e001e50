"""VOC's layout, labels from annotations or masks, and what is said when something is missing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.classes import VOC_CLASSES, palette
from wsss_kit.data import load_voc, load_voc_masks

XML = """<annotation>{}</annotation>"""
OBJECT = "<object><name>{}</name><difficult>{}</difficult>{}</object>"
PERSON, DOG, CAT = (VOC_CLASSES.index(name) for name in ("person", "dog", "cat"))
IDS = ("2007_000001", "2007_000002", "2007_000003")


def put_mask(folder, name, values, size=(6, 4)):
    folder.mkdir(exist_ok=True)
    mask = Image.new("P", size)
    mask.putpalette(palette().tobytes())  # without one Pillow saves a single bit a pixel
    for column, value in enumerate(values):
        mask.putpixel((column, 0), value)
    mask.save(folder / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    """Three images: a dog and a person; a cat; nothing."""
    root = tmp_path / "VOC2012"
    for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for name in IDS:
        Image.new("RGB", (6, 4), "white").save(root / "JPEGImages" / f"{name}.jpg")
    part = "<part><name>head</name></part>"
    objects = (
        OBJECT.format("dog", 1, "") + OBJECT.format("person", 0, part),
        OBJECT.format("cat", 0, ""),
        "",
    )
    values = ((DOG + 1, PERSON + 1, 255), (CAT + 1,), ())
    for name, xml, ids in zip(IDS, objects, values, strict=True):
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(xml))
        put_mask(root / "SegmentationClass", name, ids)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(IDS) + "\n")
    return root


def drop(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def classes_of(samples):
    return [set(sample.labels.nonzero().flatten().tolist()) for sample in samples]


def test_samples(root):
    samples = load_voc(root)
    assert len(samples) == 3 and samples.classes == VOC_CLASSES and samples.split == "train"
    first = samples[0]
    assert first.name == IDS[0] and first.image.shape == (3, 4, 6)
    assert first.image.dtype == first.labels.dtype == torch.float32
    assert first.labels.shape == (20,)
    # the difficult dog counts, the part of the person does not, the empty image stays in
    assert classes_of(samples) == [{DOG, PERSON}, {CAT}, set()]
    assert not hasattr(first, "mask")


def test_labels_from_masks_are_the_same_and_read_once(root):
    drop(root / "Annotations")
    samples = load_voc(str(root))
    assert classes_of(samples) == [{DOG, PERSON}, {CAT}, set()]
    drop(root / "SegmentationClass")
    samples[1].labels.zero_()  # belongs to the caller
    assert classes_of(samples) == [{DOG, PERSON}, {CAT}, set()]


def test_an_empty_annotations_folder_counts_as_none(root):
    drop(root / "Annotations")
    (root / "Annotations").mkdir()
    assert classes_of(load_voc(root)) == [{DOG, PERSON}, {CAT}, set()]


def test_sequence(root):
    samples = load_voc(root)
    part = samples[1:]
    assert [sample.name for sample in part] == list(IDS[1:])
    assert part.classes == VOC_CLASSES and part.split == "train" and len(part[:1]) == 1
    assert samples[-1].name == IDS[2] and samples[np.int64(1)].name == IDS[1]
    assert torch.equal(samples.image_labels(), torch.stack([s.labels for s in samples]))
    assert samples[3:].image_labels().shape == (0, 20)
    assert pickle.loads(pickle.dumps(samples))[1].name == IDS[1]  # data loaders start processes
    assert repr(samples) == "LazySamples(3 images, 20 classes, split='train')"
    with pytest.raises(IndexError, match="image 3 was asked for, but there are 3"):
        samples[3]


def test_nothing_is_read_before_it_is_asked_for(root):
    samples, masks = load_voc(root), load_voc_masks(root)
    (root / "JPEGImages" / f"{IDS[0]}.jpg").write_bytes(b"broken")
    assert len(samples) == len(masks) == 3 and samples[1].name == IDS[1] and IDS[0] in masks
    with pytest.raises(ValueError, match=rf"{IDS[0]}\.jpg does not decode"):
        samples[0]


def test_limit(root):
    assert len(load_voc(root, limit=2)) == 2 and len(load_voc(root, limit=99)) == 3
    for limit in (0, -1, 1.5, True, "1"):
        with pytest.raises(ValueError, match=f"limit is {limit!r}, expected a whole number"):
            load_voc(root, limit=limit)
    with pytest.raises(FileNotFoundError, match=r"no split None in .*the splits there are: train"):
        load_voc(root, None)


@pytest.mark.parametrize("above", [".", "VOCdevkit"])
def test_root_may_be_a_folder_above(root, above):
    top = root.parent
    if above == "VOCdevkit":
        (top / "VOCdevkit").mkdir()
        root.rename(top / "VOCdevkit" / "VOC2012")
    assert len(load_voc(top)) == len(load_voc_masks(top)) == 3


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "{}\r",
        "{}  1",
        "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png",
        "JPEGImages/{}.jpg",
    ],
)
def test_split_lines(root, line):
    text = "\ufeff" + "\n\n".join(line.format(name) for name in (*IDS, IDS[0]))
    (root / "ImageSets/Segmentation/train_aug.txt").write_text(text, encoding="utf-8")
    assert load_voc(root, "train_aug").names == IDS


def test_masks(root):
    masks = load_voc_masks(root)
    assert list(masks) == list(IDS) and masks[IDS[0]].dtype == torch.int64
    assert masks[IDS[0]][0].tolist() == [DOG + 1, PERSON + 1, 255, 0, 0, 0]
    put_mask(root / "SegmentationClassAug", IDS[0], (CAT + 1,))
    masks = load_voc_masks(root)
    assert masks[IDS[0]][0, 0] == CAT + 1, "Aug goes first"
    assert masks[IDS[1]][0, 0] == CAT + 1, "the other folder fills in"
    assert "9" not in masks
    with pytest.raises(KeyError, match=r"no mask for '2007_00001'.*closest: '2007_000001'"):
        masks["2007_00001"]


def test_mask_of_one_image_missing(root):
    (root / "SegmentationClass" / f"{IDS[1]}.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{IDS[1]} has no mask, expected .*train_aug"):
        load_voc_masks(root)[IDS[1]]


@pytest.mark.parametrize("load", [load_voc, load_voc_masks])
def test_missing_root_and_split(root, tmp_path, load):
    with pytest.raises(
        FileNotFoundError, match=r"no VOC layout in .*expected\n .*nowhere/\n  +JPEGImages/"
    ):
        load(tmp_path / "nowhere")
    (root / "ImageSets/Segmentation/val.txt").write_text(IDS[0])
    expected = r"no split 'vall' in .*the splits there are: train, val; closest: 'val'"
    with pytest.raises(FileNotFoundError, match=expected):
        load(root, "vall")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt is empty, expected one image a line"):
        load(root, "val")


def test_no_masks_and_no_annotations(root):
    drop(root / "SegmentationClass")
    assert len(load_voc(root)) == 3
    with pytest.raises(FileNotFoundError, match="has no masks: neither"):
        load_voc_masks(root)
    drop(root / "Annotations")
    with pytest.raises(FileNotFoundError, match="neither Annotations/ nor masks to take labels"):
        load_voc(root)


def test_bad_annotations(root):
    file = root / "Annotations" / f"{IDS[0]}.xml"
    file.write_text(XML.format(OBJECT.format("dogg", 0, "")))
    samples = load_voc(root)
    with pytest.raises(ValueError, match=rf"{IDS[0]}\.xml names a class 'dogg'.*closest: 'dog'"):
        samples[0]
    file.write_text("<annotation><object>")
    with pytest.raises(ValueError, match=rf"{IDS[0]}\.xml is no whole XML"):
        samples[0]
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{IDS[0]} has no annotation, expected"):
        samples[0]


def test_bad_masks(root):
    put_mask(root / "SegmentationClass", IDS[0], (), size=(4, 6))
    put_mask(root / "SegmentationClass", IDS[1], (21, 254))
    masks = load_voc_masks(root)
    with pytest.raises(ValueError, match=r"is 6x4 pixels \(H x W\) but its image .* is 4x6"):
        masks[IDS[0]]
    with pytest.raises(ValueError, match=r"has values \[21, 254\], expected 0 .*1 to 20"):
        masks[IDS[1]]


@pytest.mark.real_data
def test_real_sample():
    """437 and 149 photographs without annotations: their labels are their masks' class sets."""
    folder = os.environ.get("WSSS_KIT_VOC")
    if not folder:
        pytest.skip("WSSS_KIT_VOC names no folder with the VOC sample")
    for split, count in (("train", 437), ("val", 149)):
        samples, masks = load_voc(folder, split), load_voc_masks(folder, split)
        assert len(samples) == len(masks) == count
        labels = samples.image_labels()
        for name, row in zip(samples.names, labels, strict=True):
            counts = Image.open(Path(folder, "SegmentationClassAug", f"{name}.png")).histogram()
            expected = {value for value in range(1, 255) if counts[value]}
            assert {c + 1 for c in row.nonzero().flatten().tolist()} == expected
        for name in samples.names[:20]:
            stored = np.asarray(Image.open(Path(folder, "SegmentationClassAug", f"{name}.png")))
            assert np.array_equal(masks[name].numpy(), stored)
        image = samples[0].image
        assert image.shape[1:] == masks[samples.names[0]].shape and 0.2 < image.mean() < 0.8
