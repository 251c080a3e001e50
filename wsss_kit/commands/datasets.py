"""Data sets by their names on the command line: samples by one door, masks by the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from wsss_kit.checks import check_count, check_word
from wsss_kit.classes import COCO_CLASSES, VOC_CLASSES, Sample
from wsss_kit.commands.generate import PROTOCOL, read_masks
from wsss_kit.data import (
    LazyMasks,
    load_coco,
    load_coco_masks,
    load_folder,
    load_folder_masks,
    load_pets,
    load_pets_masks,
    load_voc,
    load_voc_masks,
)
from wsss_kit.data.pictures import read_mask
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

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


def masks_in(folder: Path, names: Sequence[str]) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Masks of a folder by picture name, and how they were made as far as the folder says.

    Args:
        folder: that ``masks`` wrote, or any of ``NAME.png``.
        names: of the pictures that are asked for.

    Raises:
        ValueError: if the run that wrote the folder made no mask of one of them, with the reason.
        FileNotFoundError: if there is no folder, or its run has not ended.
    """
    card = folder / PROTOCOL
    if card.is_file():
        written = read_masks(folder)
        missing = {name: written.failed[name] for name in names if name in written.failed}
        for name, reason in missing.items():
            raise ValueError(
                f"{len(missing)} of {len(names)} pictures have no mask, the first is {name!r}: "
                f"{reason}; mend them, or score a split without them"
            )
        return written.masks, json.loads(card.read_text(encoding="utf-8"))
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, expected one of NAME.png")
    there = [name for name in names if (folder / f"{name}.png").is_file()]
    return LazyMasks(there, read=lambda n: read_mask(folder / f"{n}.png"), folder=folder), {}


def prompts_of(
    data: str, classes: Sequence[str], method: str, file: str | Path | None = None
) -> Prompts:
    """Prompts for a data set: a file's, else the papers' for their classes, else simple ones.

    Args:
        data: as for `open_samples`.
        classes: of its samples.
        method: ``"clip_es"`` or ``"clims"``.
        file: of `Prompts.to_json`.
    """
    if file is not None:
        return Prompts.from_json(Path(file))
    if data == "paper":
        return Prompts.paper(method=method)
    known = {VOC_CLASSES: Prompts.voc, COCO_CLASSES: Prompts.coco}.get(tuple(classes))
    return known(method=method) if known else Prompts.for_classes(classes, method=method)
