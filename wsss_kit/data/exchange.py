"""Masks that other programs wrote, and masks for other programs: COCO's run lengths, NumPy, PNG."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss_kit.checks import check_word
from wsss_kit.classes import IGNORE_INDEX, Sample, palette
from wsss_kit.data.datasets import LazyMasks
from wsss_kit.data.images import check_mask, read_mask
from wsss_kit.files import write_whole
from wsss_kit.prompts.checks import closest

DOUBT = "doubt"
"""Name of the regions that are 255 in a mask."""
EXPORTS = ("coco-rle", "label-studio")
ENDINGS = (".png", ".npy")
_ENDING = re.compile(r"\.(png|jpe?g|bmp|tiff?|webp)$", re.IGNORECASE)


def open_foreign(place: str | Path, samples: Sequence[Sample]) -> LazyMasks:
    """Open masks that another program wrote. A file is read when its mask is asked for.

    Each mask is checked against the size of its image and the class list. A colour image, or a
    palette, must have PASCAL VOC's colours in their order, or a palette of other colours, whose
    indices then count.

    Args:
        place: a folder of ``NAME.png`` (palette, grey or VOC's colours) or ``NAME.npy`` (integers,
            (H, W)); an ``.npz`` with an array for each name; or a JSON file of COCO with outlines
            or run lengths: a data set, or a list of results whose ``image_id`` is a name and whose
            ``category_id`` is a mask's value. Images without a result are all background.
        samples: the images, with ``names``, ``classes`` and ``size_of(name)``.

    Returns:
        Image name -> (H, W) int64 for the images that have a mask.

    Raises:
        FileNotFoundError: if there is no such place.
        ValueError: if no image has a mask there, an image has two, or the file is damaged; on
            reading an item, if a mask does not fit its image or the classes.
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(f"there is no {place}, expected a folder or a file of masks")
    if place.is_dir():
        files = {n: [f for e in ENDINGS if (f := place / (n + e)).is_file()] for n in samples.names}
        if twice := [found for found in files.values() if len(found) > 1]:
            raise ValueError(f"{twice[0][0]} and {twice[0][1].name} are both there; remove one")
        there = [path.name for path in sorted(place.iterdir())]
        readers = {n: partial(read_file, found[0]) for n, found in files.items() if found}
    elif place.suffix == ".npz":
        there = arrays = _load(place)
        readers = {n: lambda n=n: _as_mask(arrays[n], n) for n in samples.names if n in arrays}
    else:
        there, sizes = _regions(place, samples), samples.size_of
        readers = {n: lambda n=n: _draw(there[n], sizes(n), n) for n in samples.names if n in there}
    if not readers:
        found = f"{place} holds {', '.join([*there][:3]) or 'nothing'}"
        raise ValueError(f"{found}, and no mask of an image; expected one of {samples.names[0]!r}")

    def read(name: str) -> Tensor:
        mask, what = readers[name](), f"{name} of {place}"
        check_mask(mask, what, samples.size_of(name), len(samples.classes), "its image")
        return mask

    return LazyMasks(readers, read=read, folder=place)


def read_file(path: Path) -> Tensor:
    """Read a mask of a PNG or an array; refuse a palette with VOC's colours in another order."""
    if path.suffix == ".npy":
        return _as_mask(_load(path), str(path))
    mask = read_mask(path)
    with Image.open(path) as opened:
        given = opened.getpalette("RGB") if opened.mode == "P" else None
    if given:
        of_value, voc = np.reshape(given, (-1, 3)).tolist(), palette().tolist()
        used = [value for value in mask.unique().tolist() if value < len(of_value)]
        moved = [value for value in used if of_value[value] != voc[value]]
        if moved and all(of_value[value] in voc for value in used):
            value, meant = moved[0], voc.index(of_value[moved[0]])
            problem = f"the palette of {path} gives {value} the colour of VOC's value {meant}"
            raise ValueError(f"{problem}, so its order is another; save the mask as a grey PNG")
    return mask


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # of zip and of NumPy, many kinds
        raise ValueError(f"{path} holds no arrays of numbers ({error}); save it again") from error


def _as_mask(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind not in "biu" or array.ndim != 2:
        problem = f"{what} is {array.dtype} of shape {array.shape}"
        raise ValueError(f"{problem}, expected integers (H, W): the class, not its scores")
    return torch.from_numpy(array.astype(np.int64))


class _Region(NamedTuple):
    """An outline of COCO with the value of its class; of two that overlap the surer one counts."""

    score: float
    value: int
    outline: Any


def _regions(file: Path, samples: Sequence[Sample]) -> dict[str, list[_Region]]:
    """Read the regions of each image of a COCO file: a data set, or a list of results."""
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is no whole JSON ({error}); write it again") from error
    regions: dict[str, list[_Region]] = defaultdict(list)
    values = {c: c for c in (*range(1, 1 + len(samples.classes)), IGNORE_INDEX)}
    try:
        if isinstance(data, dict):
            stems = {each["id"]: _ENDING.sub("", each["file_name"]) for each in data["images"]}
            known = {PurePosixPath(n).name: n for n in samples.names}
            known = known if len(known) == len(samples.names) else {}  # two folders, one name
            known |= {name: name for name in samples.names}
            images = {i: known.get(s, known.get(Path(s).name, s)) for i, s in stems.items()}
            regions |= {name: [] for name in images.values()}
            names = {each["id"]: each["name"] for each in data["categories"]}
            values = {key: _value_of(name, samples.classes) for key, name in names.items()}
            entries = data["annotations"]
        else:
            images, entries = {name: name for name in samples.names}, data
            regions |= {name: [] for name in samples.names if entries}
        for each in entries:
            if (image := each["image_id"]) not in images:
                raise ValueError(f"a region is of image {image!r}, which is not among the images")
            if (category := each["category_id"]) not in values:
                raise ValueError(f"a region has category {category!r}, expected {[*values]}")
            region = _Region(each.get("score", 1), values[category], each["segmentation"])
            regions[images[image]].append(region)
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"{file} is not as COCO writes it ({type(error).__name__}: {error})"
        expected = "images, categories and annotations, or a list of results"
        raise ValueError(f"{problem}, expected {expected}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return regions


def _value_of(name: str, classes: Sequence[str]) -> int:
    """Return the value of a class, or of doubt, by its name."""
    if name in classes:
        return 1 + list(classes).index(name)
    if name == DOUBT:
        return IGNORE_INDEX
    raise ValueError(f"there is no class {name!r}{closest(name, classes)}")


def _draw(regions: Sequence[_Region], size: tuple[int, int], what: str) -> Tensor:
    """Draw the regions of one image, the surest on top."""
    drawn = torch.zeros(size, dtype=torch.int64)
    for region in sorted(regions, key=lambda each: each.score):
        try:
            drawn[torch.from_numpy(outline_mask(region.outline, size))] = region.value
        except Exception as error:  # pycocotools raises many kinds, and plain ones
            raise ValueError(f"{what} has a region without an outline ({error})") from error
    return drawn


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
        prefix: stands before the file name in a task of Label Studio: where it serves files.

    Returns:
        The path.

    Raises:
        ValueError: if there is no such format, or a class is called as doubt is.
    """
    if DOUBT in classes:
        raise ValueError(f"a class is called {DOUBT!r}, as pixels of 255 are; rename it")
    names = {**dict(enumerate(classes, 1)), IGNORE_INDEX: DOUBT}
    files = {name: f"{name}.jpg" for name in masks} if files is None else files
    check_word("the format of an export", to, EXPORTS)
    write = _coco if to == "coco-rle" else _label_studio
    return write_whole(file, json.dumps(write(masks, names, files, prefix)))


def _inside(mask: Tensor, names: Mapping[int, str]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the value of each region of a mask and the pixels of it, (H, W) uint8."""
    for value in mask.unique().tolist():
        if value not in (0, *names):
            raise ValueError(f"a mask holds {value}, expected 0, {[*names]}; check the classes")
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
        for value, pixels in _inside(mask, names):
            runs = coco.encode(np.asfortranarray(pixels))
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
        for value, pixels in _inside(mask, names):
            brush = {"format": "rle", "rle": _packed(pixels), "brushlabels": [names[value]]}
            results.append({"id": f"{name}-{value}", **of_all, "value": brush})
        shown = {"image": prefix + files[name]}
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


def outline_mask(outline: Any, size: tuple[int, int]) -> np.ndarray:
    """Render an outline of COCO, polygons or run lengths.

    pycocotools crashes on numbers that are none, and reads past run lengths that are too short, so
    they are checked before.
    """
    from pycocotools import mask as coco

    H, W = size
    if isinstance(outline, dict):
        if outline.get("size") != [H, W]:
            raise ValueError(f"it has size {outline.get('size')}, the image {[H, W]}")
        counts = outline.get("counts")
        runs = _run_lengths(counts) if isinstance(counts, str) else counts
        if not _are_numbers(runs, int, 0, H * W) or sum(runs) != H * W:
            raise ValueError("its run lengths are not whole numbers that add up to the image")
        return coco.decode(coco.frPyObjects({"size": [H, W], "counts": runs}, H, W)).astype(bool)
    if not isinstance(outline, list) or not outline:
        raise ValueError(f"it is {str(outline)[:40]}")
    for polygon in outline:
        is_list = _are_numbers(polygon, int | float, -1e6, 1e6)
        if not is_list or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"it has a polygon {str(polygon)[:40]}, no three points in the image")
    return coco.decode(coco.merge(coco.frPyObjects(outline, H, W))).astype(bool)


def _are_numbers(values: Any, of: Any, low: float, high: float) -> bool:
    """Return whether this is a list of numbers of a type in a range; NaN is in none."""
    return isinstance(values, list) and all(isinstance(v, of) and low <= v <= high for v in values)


def _run_lengths(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    Five bits a letter; from the fourth run on the difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode():
        bits = letter - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= 1 << shift if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
