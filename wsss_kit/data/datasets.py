"""Open a data set by its name, with the prompts that belong to it; masks come by a separate call.

A data set is a lazy sequence of samples with ``classes``, ``names`` and ``split``.
``dataset.prompts(method)`` are its prompts, ``dataset.open_masks()`` its ground truth.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from wsss_kit.checks import check_count, check_word
from wsss_kit.classes import Sample
from wsss_kit.data.coco import load_coco
from wsss_kit.data.folder import load_folder
from wsss_kit.data.pets import load_pets
from wsss_kit.data.voc import load_voc
from wsss_kit.registry import find

FOLDERS = {"voc": "VOC2012", "coco": "COCO2014", "pets": "pets", "folder": "mine"}
"""The folder of each data set below ``data/``."""
SPLITS = {"voc": "train_aug", "coco": "train", "pets": "trainval", "paper": "train"}
"""The split of each data set that pseudo masks are made of."""
TITLES = {"voc": "VOC 2012", "coco": "COCO 2014", "pets": "Oxford-IIIT Pet", "paper": "PaperWorld"}
"""How a protocol calls each data set; any other is an "own folder"."""


def default_root(name: str) -> Path:
    """The folder of a data set where none is given.

    The environment variable ``WSSS_KIT_VOC`` (``_COCO``, ``_PETS``, ``_FOLDER``) names it; else it
    is ``data/VOC2012`` (and so on) in the working directory, or beside the package.
    """
    variable = os.environ.get(f"WSSS_KIT_{name.upper()}")
    if variable:
        return Path(variable).expanduser()
    here = Path("data") / FOLDERS[name]
    beside = Path(__file__).resolve().parents[2] / here
    return beside if beside.is_dir() and not here.is_dir() else here


def open_dataset(
    name: str,
    root: str | Path | None = None,
    split: str | None = None,
    *,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
) -> Sequence[Sample]:
    """Open a data set.

    Args:
        name: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` (your own, see `load_folder`) or
            ``"paper"`` (the embedded world).
        root: its folder; None for `default_root`.
        split: None for the one that pseudo masks are made of, see ``SPLITS``.
        limit: only the first so many images; of ``"paper"`` how many there are, 200 if None.
        classes: of ``"folder"``: class names in the order of the mask values.

    Returns:
        A lazy sequence of `Sample` with ``classes``, ``names``, ``split``, ``prompts(method)`` and
        ``open_masks()``.

    Raises:
        ValueError: for another name or split, or a limit that is no count.
        FileNotFoundError: if the data is not there, with the layout that was expected.

    Example:
        >>> dataset = open_dataset("paper", split="val", limit=2)
        >>> dataset.classes[:2], len(dataset), dataset[0].name
        (('boat', 'train'), 2, 'val_0_000000')
        >>> dataset.prompts("clims").backgrounds_of("boat")[0]
        'water'
        >>> tuple(dataset.open_masks()["val_0_000000"].shape)
        (96, 96)
    """
    check_word("the data set", name, (*FOLDERS, "paper"))
    if limit is not None:
        check_count("limit", limit)
    split = SPLITS.get(name) if split is None else split
    if name == "paper":
        return find("dataset", "paper")(limit or 200, split=split)
    root = default_root(name) if root is None else Path(root)
    if name == "folder":
        return load_folder(root, classes=classes)[:limit]
    load = {"voc": load_voc, "coco": load_coco, "pets": load_pets}[name]
    return load(root, split, limit=limit)
