"""Class lists, their colours and what a sample may hold."""

import pytest
import torch

from wsss_kit import classes
from wsss_kit.data import LazySamples

LISTS = [
    (classes.VOC_CLASSES, 20, {"aeroplane": 0, "cat": 7, "dog": 11, "person": 14, "tvmonitor": 19}),
    (classes.COCO_CLASSES, 80, {"person": 0, "dog": 16, "tie": 27, "tv": 62, "toothbrush": 79}),
    (classes.PAPER_CLASSES, 8, {}),
]


@pytest.mark.parametrize(("names", "count", "places"), LISTS)
def test_class_lists(names, count, places):
    """The order is that of VOC's development kit and of the category ids that COCO uses."""
    assert len(names) == len(set(names)) == count
    assert all(name == name.strip().lower() and name for name in names)
    assert {name: names.index(name) for name in places} == places
    assert list(classes.VOC_CLASSES) == sorted(classes.VOC_CLASSES)


def test_palette_equals_the_bit_by_bit_loop():
    """The development kit's VOClabelcolormap, written out."""
    assert len(classes.palette()) == 256
    for value, colour in enumerate(classes.palette()):
        rgb, rest = [0, 0, 0], value
        for place in range(7, -1, -1):
            for channel in range(3):
                rgb[channel] |= ((rest >> channel) & 1) << place
            rest >>= 3
        assert colour.tolist() == rgb


def test_labels_and_classes_of_samples():
    samples = [
        classes.Sample("a", torch.zeros(3, 2, 2), torch.tensor([0, 1])),
        classes.Sample("b", torch.zeros(3, 4, 2), torch.tensor([1.0, 0.0])),
    ]
    labels = classes.labels_of(samples)
    assert labels.dtype == torch.float32 and labels.tolist() == [[0, 1], [1, 0]]
    assert classes.classes_of(samples) == ("class 1", "class 2")

    class Named(list):
        classes = ("cat", "dog")

    assert classes.classes_of(Named(samples)) == ("cat", "dog")
    with pytest.raises(ValueError, match=r"labels of 'b' have shape \(3,\), expected \(2,\) as"):
        classes.labels_of([samples[0], samples[1]._replace(labels=torch.zeros(3))])
    with pytest.raises(ValueError, match="labels of 'b' holds nan"):
        classes.labels_of([samples[0], samples[1]._replace(labels=torch.tensor([1, torch.nan]))])


def test_labels_of_lazy_samples_decode_no_image():
    def decode(name):
        raise AssertionError(name)

    rows = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0, 1.0])}
    lazy = LazySamples(rows, image=decode, labels=rows.__getitem__, classes=("cat", "dog"))
    assert classes.labels_of(lazy).tolist() == [[0, 1], [1, 1]]
    rows["b"] = torch.tensor([1.0, 3.0])
    with pytest.raises(ValueError, match="labels of 'b' holds 3, expected only 0 and 1"):
        classes.labels_of(lazy)
