"""What every part of the kit agrees on: a sample, class lists, colours, the ignore value, names.

Class ``c`` of ``labels`` is value ``c + 1`` of a mask; 0 is background, 255 is ignored.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_labels

IGNORE_INDEX = 255
"""Mask value of pixels that no score counts (VOC's void, low-confidence pseudo labels)."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]; what most networks normalise by, and the colour beyond an image in a crop."""

PAPER_CLASSES = ("boat", "train", "plane", "bus", "cow", "camel", "bird", "cat")
"""Classes of the embedded world."""

VOC_CLASSES = tuple(
    """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike
    person pottedplant sheep sofa train tvmonitor""".split()
)
"""The 20 classes of PASCAL VOC 2012, alphabetical as in its masks (aeroplane is value 1)."""

COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
"""The 80 classes of COCO 2014 in the order of their category ids."""


class Sample(NamedTuple):
    """One image with what weak supervision knows about it. There is no mask field, on purpose.

    Args:
        name: unique within its data set; masks are looked up by it.
        image: (3, H, W) float32, RGB in [0, 1].
        labels: (C,) float32 of 0 and 1, one per class, background not among them.
    """

    name: str
    image: Tensor
    labels: Tensor


def palette(n_values: int = 256) -> np.ndarray:
    """Compute the colours of mask values by PASCAL VOC's bit rule.

    The bits of a value are dealt out to red, green and blue in turn, most significant first, so
    that neighbouring values look different and 0 is black.

    Args:
        n_values: number of colours, 1 to 256.

    Returns:
        (n_values, 3) uint8 RGB.

    Raises:
        ValueError: if ``n_values`` is not within 1 to 256.

    Example:
        >>> palette(3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    if not 1 <= n_values <= 256:
        raise ValueError(f"n_values is {n_values}, expected 1 to 256")
    values = np.arange(n_values)
    colours = np.zeros((n_values, 3), np.uint8)
    for level in range(3):  # three bits a value and a channel fill the upper half of a byte
        for channel in range(3):
            bit = (values >> (3 * level + channel)) & 1
            colours[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return colours


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """Return the checked image-level labels of all samples; lazy samples are not decoded.

    Args:
        samples: M images with labels.

    Returns:
        (M, C) float32 of 0 and 1.

    Raises:
        ValueError: naming the first sample whose labels are of another number than the first
            one's, or anything but 0 and 1.
    """
    if not len(samples):
        raise ValueError("there is no image, expected at least one")
    lazy: Any = samples
    if hasattr(samples, "image_labels"):
        names, rows = lazy.names, list(lazy.image_labels())
    else:
        names, rows = zip(*((sample.name, sample.labels) for sample in samples), strict=True)
    for name, row in zip(names, rows, strict=True):
        if row.ndim != 1 or row.shape != rows[0].shape:
            wanted = f"{tuple(rows[0].shape)} as those of {names[0]!r}" if row.ndim == 1 else "(C,)"
            raise ValueError(
                f"labels of {name!r} have shape {tuple(row.shape)}, expected {wanted}: one number "
                "a class"
            )
    labels = torch.stack(rows)
    odd = ((labels != 0) & (labels != 1)).any(1)
    if odd.any():
        first = int(odd.nonzero()[0])
        check_labels(labels[first], f"labels of {names[first]!r}")
    return labels.float()


def classes_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the class names of a data set, or ``class 1`` and so on if it names none.

    Raises:
        ValueError: if the first sample has another number of labels than there are names.
    """
    n_labels = labels_of([next(iter(samples))]).shape[1]
    names = getattr(samples, "classes", None)
    if names is None:
        return tuple(f"class {c + 1}" for c in range(n_labels))
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"the samples name {twice[0]!r} twice, expected different classes")
    if n_labels != len(names):
        raise ValueError(
            f"the samples name {len(names)} classes but the first has {n_labels} labels; "
            "expected one label a class"
        )
    return tuple(names)


_PLACES = {
    ("dataset", "coco"): "wsss_kit.data.benchmarks:load_coco",
    ("dataset", "folder"): "wsss_kit.data.folder:load_folder",
    ("dataset", "pets"): "wsss_kit.data.pets:load_pets",
    ("dataset", "voc"): "wsss_kit.data.benchmarks:load_voc",
    ("dataset", "paper"): "wsss_kit.paperworld:PaperWorld",
    ("clip", "paper"): "wsss_kit.paperworld.tiny_clip:frozen_tiny_clip",
    ("backbone", "paper"): "wsss_kit.paperworld.tiny_clip:paper_backbone",
}
"""What ``"paper"`` and the data sets' names stand for. A module is imported when its name is asked
for: the methods know the name ``"paper"``, not the embedded world."""


def find(kind: str, name: str) -> Any:
    """Return the function or class that opens a data set or what ships with the package.

    Args:
        kind: ``"dataset"``, ``"clip"`` or ``"backbone"``.
        name: ``"paper"``; of a data set also ``"coco"``, ``"folder"``, ``"pets"``, ``"voc"``.

    Raises:
        KeyError: if nothing of this kind has the name.
    """
    module, _, attribute = _PLACES[kind, name].partition(":")
    return getattr(import_module(module), attribute)
