"""Data sets by their names on the command line: samples by one door, masks by the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from wsss_kit.checks import check_count, check_word
from wsss_kit.classes import Sample
from wsss_kit.data import (
    load_coco,
    load_coco_masks,
    load_folder,
    load_folder_masks,
    load_pets,
    load_pets_masks,
    load_voc,
    load_voc_masks,
)
from wsss_kit.paperworld import PaperWorld

FOLDERS = {"voc": "data/VOC2012", "coco": "data/COCO2014", "pets": "data/pets"}
SPLITS = {"voc": "train_aug", "coco": "train", "pets": "trainval", "paper": "train"}
_MASKS = {"voc": load_voc_masks, "coco": load_coco_masks, "pets": load_pets_masks}


def open_samples(
    data: str, root: str | Path | None = None, split: str | None = None, limit: int | None = None
) -> Sequence[Sample]:
    """Samples of a data set by its name on the command line.

    Args:
        data: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` or ``"paper"``.
        root: its folder; None for the one below ``data/``.
        split: None for the one that pseudo masks are made of.
        limit: only the first so many pictures; of ``"paper"`` how many, 200 if None.

    Raises:
        ValueError: for another name, or a folder of one's own without ``root``.
        FileNotFoundError: if the data is not there, with the layout that was expected.
    """
    check_word("the data", data, ("voc", "coco", "pets", "folder", "paper"))
    if limit is not None:
        check_count("limit", limit)
    split = SPLITS.get(data) if split is None else split
    if data == "paper":
        return PaperWorld(limit or 200, split=split)
    if data == "folder":
        if root is None:
            raise ValueError("a folder of your own needs --root, expected where labels.csv lies")
        return load_folder(root)[:limit]
    load = {"voc": load_voc, "coco": load_coco, "pets": load_pets}[data]
    return load(FOLDERS[data] if root is None else root, split, limit=limit)


def open_masks(
    data: str, root: str | Path | None, samples: Sequence[Sample]
) -> Mapping[str, Tensor] | None:
    """Ground truth of samples of `open_samples`, or None where there is none.

    Args:
        data: as given there.
        root: as given there.
        samples: what it returned.
    """
    if data == "paper":
        return samples.masks
    try:
        if data == "folder":
            return load_folder_masks(root)
        return _MASKS[data](FOLDERS[data] if root is None else root, samples.split)
    except FileNotFoundError:
        return None  # a data set without masks can be trained on
