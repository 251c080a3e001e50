"""PASCAL VOC 2012 and COCO 2014, the data sets that the papers publish numbers of."""

import codecs
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
from torch import Tensor

from wsss_kit.checks import check_word
from wsss_kit.classes import COCO_CLASSES, IGNORE_INDEX, VOC_CLASSES
from wsss_kit.data.datasets import ImageFiles, LazyMasks, LazySamples
from wsss_kit.data.exchange import outline_mask
from wsss_kit.data.images import image_size, mask_png, stamp_of
from wsss_kit.files import digest_of, expanded, write_whole
from wsss_kit.prompts.checks import closest


def load_voc(
    root: str | Path = "data/VOC2012", split: str = "train", *, limit: int | None = None
) -> LazySamples:
    """Open the images of PASCAL VOC 2012, or of a data set in its layout and with its 20 classes.

    The labels are every ``<object>`` of ``Annotations/``, difficult ones included, as published
    work does. Where there is no ``Annotations/``, they are the classes present in the masks. An
    image with no object stays in, with labels all zero.

    Args:
        root: the folder that holds ``JPEGImages/``, or the one above ``VOC2012/`` or
            ``VOCdevkit/VOC2012/``.
        split: a file of ``ImageSets/Segmentation/`` without ``.txt``: ``"train"`` (1,464
            images), ``"val"`` (1,449), or your own ``"train_aug"`` (10,582).
        limit: only the first so many images.

    Returns:
        A lazy sequence of ``Sample`` with ``.classes``, ``.split`` and ``.names``; ``labels`` is
        (20,) float32.

    Raises:
        FileNotFoundError: if the layout or the split is not there; on reading an item, if its
            image or annotation is not.
        ValueError: if the split or the limit is empty; on reading an item, if its image does not
            decode or its annotation names an unknown class.

    Example:
        >>> load_voc("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no VOC layout in nowhere; expected
          nowhere/
            JPEGImages/2007_000032.jpg
        ...
    """
    voc = _VOC(root, split)
    if voc.annotations is None and not voc.mask_folders:
        problem = f"{voc.root} has neither Annotations/ nor masks to take labels from"
        raise voc.not_found(problem, voc.root)
    return voc.first(limit)


def load_voc_masks(root: str | Path = "data/VOC2012", split: str = "train") -> LazyMasks:
    """Open the ground-truth masks of PASCAL VOC 2012, for evaluation only.

    ``SegmentationClassAug/`` goes before ``SegmentationClass/`` where both hold a mask.

    Args:
        root: as for ``load_voc``.
        split: as for ``load_voc``.

    Returns:
        A lazy mapping name to (H, W) int64: 0 background, 1 to 20, 255 ignored.

    Raises:
        FileNotFoundError: if the layout, the split or all masks are missing; on reading an item,
            if its mask is.
        ValueError: on reading an item, if its mask does not decode, has another size than its
            image or a value that is no class.
    """
    return _VOC(root, split).open_masks()


class _VOC(ImageFiles):
    """The files of one VOC folder by image id; labels are read once and kept."""

    LAYOUT = """
  {root}/
    JPEGImages/2007_000032.jpg
    ImageSets/Segmentation/train.txt     one image id a line
    Annotations/2007_000032.xml          labels; without it they come from the masks
    SegmentationClassAug/2007_000032.png or SegmentationClass/: masks
data/README.md says where to get VOC 2012 and how to unpack it."""
    classes = VOC_CLASSES

    def __init__(self, root: str | Path, split: str) -> None:
        root = expanded(root)
        places = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
        needed = ("JPEGImages", "ImageSets/Segmentation")
        folders = [place for place in places if all((place / part).is_dir() for part in needed)]
        if not folders:
            raise self.not_found(f"no VOC layout in {root}", root)
        self.root, self.split = folders[0], split
        xml = self.root / "Annotations"
        self.annotations = xml if next(xml.glob("*.xml"), None) else None
        masks = (self.root / part for part in ("SegmentationClassAug", "SegmentationClass"))
        self.mask_folders = [folder for folder in masks if folder.is_dir()]
        lists = self.root / "ImageSets" / "Segmentation"
        splits = {file.stem: file for file in sorted(lists.glob("*.txt"))}
        if split not in splits:
            known = f"the splits there are: {', '.join(splits) or 'none'}"
            hint = closest(str(split), splits)
            raise FileNotFoundError(f"there is no split {split!r} in {lists}; {known}{hint}")
        # bare ids, which may have spaces, or paths of images with the path of the mask behind
        lines = (line.strip() for _, line in list_lines(splits[split]))
        paths = (PurePosixPath(self._listed(line)) for line in lines)
        ids = (re.sub(r"\.(jpe?g|png)$", "", path.name, flags=re.IGNORECASE) for path in paths)
        self.names = tuple(dict.fromkeys(ids))
        self._present: dict[str, set[int]] = {}

    def _listed(self, line: str) -> str:
        """Return the path or id at the beginning of a line; an id may have spaces."""
        if os.path.isfile(self.path(PurePosixPath(line).stem)):
            return line
        return line.split()[0] if "/" in line else re.sub(r"\s+-?[01]$", "", line)

    def path(self, name: str) -> Path:
        return self.root / "JPEGImages" / f"{name}.jpg"

    def open_masks(self) -> LazyMasks:
        if not self.mask_folders:
            needed = "neither SegmentationClassAug/ nor SegmentationClass/"
            raise self.not_found(f"{self.root} has no masks: {needed}", self.root)
        return LazyMasks(self.names, read=self.mask, folder=self.mask_folders[0])

    def mask(self, name: str) -> Tensor:
        files = [folder / f"{name}.png" for folder in self.mask_folders]
        for file in files:
            if os.path.isfile(file):  # False for a name that is too long
                return self.read_mask(name, file)
        expected = f"{' or '.join(map(str, files))}; train_aug needs SegmentationClassAug/"
        raise FileNotFoundError(f"image {name} has no mask, expected {expected}")

    def present(self, name: str) -> set[int]:
        if name not in self._present:
            if self.annotations is None:
                values = set(self.mask(name).unique().tolist()) - {0, IGNORE_INDEX}
                self._present[name] = {value - 1 for value in values}
            else:
                self._present[name] = self._of_xml(self.annotations / f"{name}.xml")
        return self._present[name]

    def _of_xml(self, file: Path) -> set[int]:
        if not os.path.isfile(file):
            expected = f"{file}, or no Annotations/ to have labels from the masks"
            raise FileNotFoundError(f"image {file.stem} has no annotation, expected {expected}")
        try:
            tree = _xml(file.read_bytes())
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise ValueError(f"{file} is no whole XML ({error}); unpack it again") from error
        items = tree.iterfind("{*}object")  # not the parts inside a person
        labels = ((item.findtext("{*}name") or "").strip() for item in items)
        return {_index(label, VOC_CLASSES, file) for label in labels}


def _xml(data: bytes) -> ElementTree.Element:
    """Parse XML, also in the encodings that Python knows and its parser does not (GB2312)."""
    declared = re.match(rb"""<\?xml[^>]*?encoding=["']([\w.-]+)["'][^>]*\?>""", data)
    if declared is None or declared[1].lower().startswith((b"utf", b"us-ascii", b"iso-8859-1")):
        return ElementTree.fromstring(data)
    return ElementTree.fromstring(data[declared.end() :].decode(declared[1].decode()))


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
    """
    return _COCO(root, split).first(limit)


def load_coco_masks(root: str | Path = "data/COCO2014", split: str = "train") -> LazyMasks:
    """Open the ground-truth masks of COCO 2014, for evaluation only.

    A mask is rendered by pycocotools when it is first asked for, and written to
    ``masks/train2014/NAME.png``: large objects first, so that small ones lie on top; crowds count
    as their class. (The papers' own masks were handed from one repository to the next, and how they
    were rendered is not stated.)

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
        root = expanded(root)
        file = root / "annotations" / f"instances_{split}2014.json"
        folders = [place / f"{split}2014" for place in (root, root / "images")]
        folders = [folder for folder in folders if folder.is_dir()]
        if not file.is_file() or not folders:
            raise self.not_found(f"no COCO 2014 in {root}", root)
        self.split, self.folder = split, folders[0]
        self.mask_folder = root / "masks" / f"{split}2014"
        try:
            data = json.loads(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file} is no whole JSON ({error}); unpack it again") from error
        for part, keys in _COCO_KEYS.items():
            entries = data.get(part) if isinstance(data, dict) else None
            if not isinstance(entries, list):
                problem = f"{file} has {part} {str(entries)[:40]}"
                raise ValueError(f"{problem}, expected COCO's instances file with a list of them")
            for entry in entries:
                held = entry if isinstance(entry, dict) else {}
                lacking = [k for k in keys if not isinstance(held.get(k), keys[k])]
                if lacking:
                    problem = f"{file} has an entry of {part} without a right {lacking[0]}"
                    raise ValueError(f"{problem}: {str(entry)[:80]}; export it again")
        known = data["categories"]
        self.class_of = {each["id"]: _index(each["name"], COCO_CLASSES, file) for each in known}
        self.images = {image["id"]: image for image in data["images"]}
        stems = [Path(image["file_name"]).stem for image in data["images"]]
        for what, values in (
            ("image ids", [image["id"] for image in data["images"]]),
            ("image names", stems),
            ("category ids", [each["id"] for each in known]),
        ):
            if twice := [value for value, n in Counter(values).items() if n > 1]:
                raise ValueError(f"{file} has {what} twice, such as {twice[0]!r}; export it again")
        for image in data["images"]:
            if re.search(r"[/\\]", image["file_name"]):
                problem = f"{file} names an image {image['file_name']!r}"
                raise ValueError(f"{problem}, expected a name alone")
        self.annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for annotation in data["annotations"]:
            image, category = annotation["image_id"], annotation["category_id"]
            if image not in self.images or category not in self.class_of:
                problem = f"an annotation of image {image} and category {category}"
                raise ValueError(f"{file} has {problem}, expected those that it lists")
            self.annotations[Path(self.images[image]["file_name"]).stem].append(annotation)
        self.names = tuple(sorted(self.annotations))

    def path(self, name: str) -> Path:
        return self.folder / self.images[self.annotations[name][0]["image_id"]]["file_name"]

    def present(self, name: str) -> set[int]:
        return {self.class_of[each["category_id"]] for each in self.annotations[name]}

    def mask(self, name: str) -> Tensor:
        path = self.mask_folder / f"{name}.png"
        drawn_from = digest_of(repr(self.annotations[name]).encode())
        if stamp_of(path) != drawn_from:  # not there, damaged, or the annotations changed
            write_whole(path, mask_png(self._rendered(name), drawn_from))
        return self.read_mask(name, path)

    def _rendered(self, name: str) -> np.ndarray:
        """Draw the mask, (H, W) uint8, the largest objects first."""
        size = image_size(self.path(name))
        drawn, outlines = np.zeros(size, np.uint8), []
        for annotation in self.annotations[name]:
            try:
                inside = outline_mask(annotation.get("segmentation"), size)
            except Exception as error:  # pycocotools raises many kinds, and plain ones
                problem = f"annotation {annotation.get('id')} of {name} has no outline ({error})"
                raise ValueError(f"{problem}; expected polygons or run lengths") from error
            try:
                area = float(annotation["area"])
            except (KeyError, TypeError, ValueError, OverflowError):
                area = math.nan
            area = area if math.isfinite(area) else float(inside.sum())
            outlines.append((area, inside, 1 + self.class_of[annotation["category_id"]]))
        for _, inside, value in sorted(outlines, key=lambda each: -each[0]):
            drawn[inside] = value
        return drawn


_COCO_KEYS: dict[str, dict[str, Any]] = {
    "images": {"id": int | str, "file_name": str},
    "annotations": {"image_id": int | str, "category_id": int | str},
    "categories": {"id": int | str, "name": str},
}
"""What each entry of an instances file has to hold; areas and sizes may be missing."""


def list_lines(file: Path) -> list[tuple[int, str]]:
    """Read the lines of a list with their numbers, but empty ones and comments.

    Raises:
        ValueError: if it is neither UTF-8 nor UTF-16, or has no line.
    """
    data = file.read_bytes()
    is_wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # PowerShell writes it so
    try:
        text = data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); save it as UTF-8") from error
    lines = enumerate(text.splitlines(), 1)
    listed = [(n, line) for n, line in lines if line.strip() and not line.startswith("#")]
    if not listed:
        raise ValueError(f"{file} is empty, expected one image id a line")
    return listed


def _index(name: str, classes: Sequence[str], file: Path) -> int:
    """Return the index of a class that a file names."""
    if name not in classes:
        data = "VOC" if classes is VOC_CLASSES else "COCO"
        hint = f"{closest(name, classes)}; for classes of your own use load_folder"
        raise ValueError(f"{file} names an object {name!r}, no class of {data}{hint}")
    return classes.index(name)
