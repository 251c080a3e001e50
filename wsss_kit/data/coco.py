"""COCO 2014: labels from its annotation file, masks rendered from it once and kept as PNG."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as outlines
from torch import Tensor

from wsss_kit.checks import check_word
from wsss_kit.classes import COCO_CLASSES
from wsss_kit.data.datasets import ImageFiles, LazyMasks, LazySamples
from wsss_kit.data.images import mask_png
from wsss_kit.files import write_whole
from wsss_kit.prompts.checks import closest


def load_coco(
    root: str | Path = "data/COCO2014", split: str = "train", *, limit: int | None = None
) -> LazySamples:
    """Open the images of COCO 2014 with labels: the categories of their annotations.

    Images without any are left out, as published work does (82,081 of ``train`` and 40,137 of
    ``val`` are left). The annotation file is read whole, once a call: 450 MB for ``train``.

    Args:
        root: the folder with ``annotations/`` and ``train2014/``; ``images/train2014/`` will do.
        split: ``"train"`` or ``"val"``.
        limit: only the first so many images.

    Returns:
        A lazy sequence of ``Sample`` with ``.classes`` (80), ``.split`` and ``.names``, sorted.

    Raises:
        FileNotFoundError: if the layout is not there; on reading an item, if its image is not.
        ValueError: for another split, or an annotation file that is none.

    Example:
        >>> load_coco("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no COCO 2014 in nowhere; expected
          nowhere/
        ...
    """
    return _COCO(root, split).open_samples(limit)


def load_coco_masks(root: str | Path = "data/COCO2014", split: str = "train") -> LazyMasks:
    """Open the ground-truth masks of COCO 2014, for evaluation only.

    A mask is rendered by pycocotools when it is first asked for, and written to
    ``masks/train2014/NAME.png``: large objects first, so that small ones lie on top; crowds count
    as their class. (The papers' own masks were handed from one repository to the next, and how they
    were rendered is not stated.)

    Args:
        root: as for `load_coco`.
        split: as for `load_coco`.

    Returns:
        A lazy mapping name to (H, W) int64: 0 background, c + 1 for class c of ``COCO_CLASSES``.

    Raises:
        FileNotFoundError: as for `load_coco`.
        ValueError: as for `load_coco`; on reading an item, if a polygon is none.
    """
    return _COCO(root, split).open_masks()


class _COCO(ImageFiles):
    """One annotation file and its images, by image name."""

    LAYOUT = """
  {root}/
    annotations/instances_train2014.json   from annotations_trainval2014.zip
    train2014/COCO_train2014_000000000009.jpg
    val2014/ and instances_val2014.json the same
data/README.md says where to get COCO 2014."""
    classes = COCO_CLASSES

    def __init__(self, root: str | Path, split: str) -> None:
        check_word("split", split, ("train", "val"))
        root = Path(root).expanduser()
        file = root / "annotations" / f"instances_{split}2014.json"
        folders = [place / f"{split}2014" for place in (root, root / "images")]
        folders = [folder for folder in folders if folder.is_dir()]
        if not file.is_file() or not folders:
            raise self.not_found(f"no COCO 2014 in {root}", root)
        self.split, self.folder = split, folders[0]
        self.mask_folder = root / "masks" / f"{split}2014"
        data = _read(file)
        self.value_of = {each["id"]: _value(each["name"], file) for each in data["categories"]}
        self.sizes, self.files, name_of = {}, {}, {}
        for image in data["images"]:
            path = str(image["file_name"])
            if "/" in path or "\\" in path:
                raise ValueError(f"{file} names an image {path!r}, expected a name alone")
            name_of[image["id"]] = name = Path(path).stem
            self.files[name], self.sizes[name] = path, (int(image["height"]), int(image["width"]))
        self.annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for annotation in data["annotations"]:
            image, category = annotation["image_id"], annotation["category_id"]
            if image not in name_of or category not in self.value_of:
                problem = f"an annotation of image {image} and category {category}"
                raise ValueError(f"{file} has {problem}, expected those that it lists")
            self.annotations[name_of[image]].append(annotation)
        self.names = sorted(self.annotations)

    def path(self, name: str) -> Path:
        return self.folder / self.files[name]

    def present(self, name: str) -> set[int]:
        return {self.value_of[each["category_id"]] - 1 for each in self.annotations[name]}

    def mask(self, name: str) -> Tensor:
        path = self.mask_folder / f"{name}.png"
        if not path.exists():
            write_whole(path, mask_png(self._rendered(name)))
        return self.read_mask(name, path)

    def _rendered(self, name: str) -> np.ndarray:
        """Draw the mask, (H, W) uint8, the largest objects first."""
        height, width = self.sizes[name]
        drawn = np.zeros((height, width), np.uint8)
        for annotation in sorted(self.annotations[name], key=lambda each: -each["area"]):
            outline = annotation["segmentation"]
            try:
                if isinstance(outline, list):
                    outline = outlines.merge(outlines.frPyObjects(outline, height, width))
                elif isinstance(outline["counts"], list):
                    outline = outlines.frPyObjects(outline, height, width)
                inside = outlines.decode(outline).astype(bool)
                drawn[inside] = self.value_of[annotation["category_id"]]
            except Exception as error:  # pycocotools raises many kinds, and plain ones
                problem = f"annotation {annotation.get('id')} of {name} has no outline ({error})"
                raise ValueError(f"{problem}; expected polygons or run lengths") from error
        return drawn


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is no whole JSON ({error}); unpack it again") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in data]
    if missing:
        raise ValueError(f"{file} has no {', '.join(missing)}, expected COCO's instances file")
    return data


def _value(name: str, file: Path) -> int:
    """Return the mask value of a category."""
    if name not in COCO_CLASSES:
        hint = closest(name, COCO_CLASSES)
        raise ValueError(f"{file} has a category {name!r}, expected one of COCO's 80{hint}")
    return 1 + COCO_CLASSES.index(name)
