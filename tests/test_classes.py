"""Class lists, their colours and what a sample may hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss_kit.classes import (
    COCO_CLASSES,
    PAPER_CLASSES,
    VOC_CLASSES,
    Sample,
    classes_of,
    labels_of,
    palette,
)
from wsss_kit.data import LazySamples


@pytest.mark.parametrize(
    ("names", "count"), [(VOC_CLASSES, 20), (COCO_CLASSES, 80), (PAPER_CLASSES, 8)]
)
def test_class_lists_have_their_length_and_no_name_twice(names, count):
    assert isinstance(names, tuple)
    assert len(names) == len(set(names)) == count
    assert all(name == name.strip().lower() and name for name in names)


def test_mask_values_of_voc_and_order_of_coco():
    """Values of the development kit's table: aeroplane 1, cat 8, person 15, tvmonitor 20; places of
    COCO's category ids among the 80 that are used."""
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    for name, value in {"aeroplane": 1, "cat": 8, "dog": 12, "person": 15, "tvmonitor": 20}.items():
        assert VOC_CLASSES.index(name) + 1 == value
    for name, place in {"person": 0, "dog": 16, "tie": 27, "tv": 62, "toothbrush": 79}.items():
        assert COCO_CLASSES.index(name) == place


def test_palette_equals_the_bit_by_bit_loop():
    """The development kit's VOClabelcolormap, written out."""
    for value, colour in enumerate(palette()):
        rgb, rest = [0, 0, 0], value
        for place in range(7, -1, -1):
            for channel in range(3):
                rgb[channel] |= ((rest >> channel) & 1) << place
            rest >>= 3
        assert colour.tolist() == rgb
    assert len(np.unique(palette(), axis=0)) == 256


def test_labels_and_classes_of_samples():
    samples = [
        Sample("a", torch.zeros(3, 2, 2), torch.tensor([0, 1])),
        Sample("b", torch.zeros(3, 4, 2), torch.tensor([1.0, 0.0])),
    ]
    labels = labels_of(samples)
    assert labels.dtype == torch.float32 and labels.tolist() == [[0, 1], [1, 0]]
    assert classes_of(samples) == ("class 1", "class 2")

    class Named(list):
        classes = ("cat", "dog")

    assert classes_of(Named(samples)) == ("cat", "dog")


def test_labels_of_lazy_samples_decode_no_image():
    def decode(name):
        raise AssertionError(name)

    rows = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0, 1.0])}
    lazy = LazySamples(rows, image=decode, labels=rows.__getitem__, classes=("cat", "dog"))
    assert labels_of(lazy).tolist() == [[0, 1], [1, 1]]
    rows["b"] = torch.tensor([1.0, 3.0])
    with pytest.raises(ValueError, match="labels of 'b' holds 3, expected only 0 and 1"):
        labels_of(lazy)


def test_labels_that_are_none_are_named():
    zeros = torch.zeros(3, 2, 2)
    samples = [Sample(name, zeros, torch.tensor([0.0, 1.0])) for name in "abc"]
    with pytest.raises(ValueError, match=r"labels of 'c' have shape \(3,\), expected \(2,\) as"):
        labels_of([*samples[:2], samples[2]._replace(labels=torch.zeros(3))])
    with pytest.raises(ValueError, match="labels of 'b' holds nan"):
        labels_of([samples[0], samples[1]._replace(labels=torch.tensor([1, torch.nan]))])
