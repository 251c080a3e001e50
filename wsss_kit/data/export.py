"""Masks for other programs: COCO's run lengths, and brush regions of Label Studio."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from torch import Tensor

from wsss_kit.checks import check_word
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.data.exchange import DOUBT
from wsss_kit.data.folder import checked_classes
from wsss_kit.files import write_whole

EXPORTS = ("coco-rle", "label-studio")


def export_masks(
    masks: Mapping[str, Tensor],
    classes: Sequence[str],
    file: str | Path,
    *,
    to: str,
    files: Mapping[str, str] | None = None,
    prefix: str = "/data/local-files/?d=",
) -> Path:
    """Write masks for another program: a region for each class of an image, and one for doubt.

    Args:
        masks: image name -> (H, W) int64.
        classes: C names without background.
        file: the JSON file.
        to: ``"coco-rle"``: a data set of COCO with compressed run lengths, which `open_foreign` and
            pycocotools read; or ``"label-studio"``: tasks with a brush region as prediction, for a
            labelling interface ``<BrushLabels name="tag" toName="image">``.
        files: image name -> file name of the image; None for ``NAME.jpg``.
        prefix: stands before the file name in a task of Label Studio, where it serves files; signs
            that mean something in an address, such as ``#``, are quoted in the name.

    Returns:
        The path.

    Raises:
        ValueError: if there is no such format, the classes are not different names, or a mask has a
            value without a class.
    """
    if DOUBT in (classes := checked_classes(classes, "the class list")):
        raise ValueError(f"a class is called {DOUBT!r}, as pixels of 255 are; rename it")
    names = {**dict(enumerate(classes, 1)), IGNORE_INDEX: DOUBT}
    files = {name: f"{name}.jpg" for name in masks} if files is None else files
    check_word("the format of an export", to, EXPORTS)
    write = _coco if to == "coco-rle" else _label_studio
    return write_whole(file, json.dumps(write(masks, names, files, prefix)))


def _inside(mask: Tensor, names: Mapping[int, str], what: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the value of each region of a mask and the pixels of it, (H, W) uint8."""
    for value in mask.unique().tolist():
        if value not in (0, *names):
            raise ValueError(f"the mask of {what} holds {value}, expected 0 or one of {[*names]}")
        if value:
            yield value, (mask == value).byte().numpy()


def _coco(
    masks: Mapping[str, Tensor], names: Mapping[int, str], files: Mapping[str, str], _: str
) -> dict[str, Any]:
    from pycocotools import mask as coco

    images, regions = [], []
    for i, (name, mask) in enumerate(masks.items(), 1):
        H, W = mask.shape
        images.append({"id": i, "file_name": files[name], "height": H, "width": W})
        for value, pixels in _inside(mask, names, name):
            runs: Any = coco.encode(np.asfortranarray(pixels))
            region = {"id": 1 + len(regions), "image_id": i, "category_id": value, "iscrowd": 0}
            region |= {"area": int(coco.area(runs)), "bbox": coco.toBbox(runs).tolist()}
            regions.append({**region, "segmentation": {**runs, "counts": runs["counts"].decode()}})
    categories = [{"id": value, "name": name} for value, name in names.items()]
    return {"images": images, "categories": categories, "annotations": regions}


def _label_studio(
    masks: Mapping[str, Tensor], names: Mapping[int, str], files: Mapping[str, str], prefix: str
) -> list[dict[str, Any]]:
    tasks = []
    for name, mask in masks.items():
        H, W = mask.shape
        of_all = {"type": "brushlabels", "from_name": "tag", "to_name": "image"}
        of_all |= {"original_width": W, "original_height": H, "image_rotation": 0}
        results = []
        for value, pixels in _inside(mask, names, name):
            brush = {"format": "rle", "rle": _packed(pixels), "brushlabels": [names[value]]}
            results.append({"id": f"{name}-{value}", **of_all, "value": brush})
        shown = {"image": prefix + quote(files[name])}
        tasks.append({"data": shown, "predictions": [{"result": results}]})
    return tasks


def _packed(pixels: np.ndarray) -> list[int]:
    """Pack pixels (H, W) of 0 and 1 as Label Studio does: runs of bits over four channels.

    32 bits of length, 5 of the word size minus 1, four times 4 of a run length's size minus 1; then
    for each run a 1, 2 bits for which size, the length minus 1 and the word (rle-pack of thi.ng).
    """
    flat = np.repeat(pixels.ravel(), 4)
    starts = np.flatnonzero(np.diff(flat, prepend=1 - flat[:1]))
    cuts = np.union1d(starts, np.arange(0, len(flat), 1 << 16))  # a run has 16 bits of length
    lengths = np.diff(cuts, append=len(flat))
    runs = (0b111 << 24) + (lengths - 1 << 8 | 255 * flat[cuts].astype(np.int64))
    bits = [f"{len(flat):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    bits += [f"{run:027b}" for run in runs]
    return np.packbits(np.array([*"".join(bits)], np.uint8)).tolist()
