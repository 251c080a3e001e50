"""Masks that other programs wrote: PNG of several kinds, NumPy, COCO's outlines and run lengths."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss_kit.classes import IGNORE_INDEX, palette
from wsss_kit.data.datasets import Dataset, LazyMasks
from wsss_kit.data.images import check_mask, read_mask
from wsss_kit.files import check_texts, composed, expanded, files_below
from wsss_kit.prompts.checks import closest

DOUBT = "doubt"
"""Name of the regions that are 255 in a mask."""
ENDINGS = (".png", ".npy")
_ENDING = re.compile(r"\.(png|npy|jpe?g|bmp|tiff?|webp)$", re.IGNORECASE)


def open_foreign(place: str | Path, samples: Dataset) -> LazyMasks:
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
    place = expanded(place)
    if not place.exists():
        raise FileNotFoundError(f"there is no {place}, expected a folder or a file of masks")
    if place.is_dir():
        called = {f: f.relative_to(place).as_posix() for f in files_below(place)}
        called = {f: text for f, text in called.items() if f.suffix.lower() in ENDINGS}
        readers = {n: partial(read_file, f) for n, f in matched(samples.names, called).items()}
    elif place.suffix.lower() == ".npz":
        called = {key: key for key in _load(place, attrgetter("files"))}
        found = matched(samples.names, called).items()
        readers = {
            n: lambda key=key: _as_mask(_load(place, itemgetter(key)), key) for n, key in found
        }
    elif place.suffix.lower() == ".json":
        called, regions, is_list = _regions(place, samples.classes)
        found = matched(samples.names, called)
        # no result of an image means that nothing was found in it
        names = samples.names if is_list and found else found
        sizes = samples.size_of
        drawn = {name: regions.get(found.get(name), []) for name in names}
        readers = {n: lambda n=n: _draw(drawn[n], sizes(n), n) for n in drawn}
    else:
        raise ValueError(f"{place} is no folder, .npz or .json, so no masks that are known here")
    if not readers:
        nothing = "no region" if place.is_file() else "no PNG and no .npy"
        there = f"{place} holds {', '.join([*called.values()][:3]) or nothing}"
        raise ValueError(f"{there}, and no mask of an image; expected one of {samples.names[0]!r}")

    def read(name: str) -> Tensor:
        mask, what = readers[name](), f"{name} of {place}"
        check_mask(mask, what, samples.size_of(name), len(samples.classes), "its image")
        return mask

    return LazyMasks(readers, read=read, folder=place)


def matched(names: Sequence[str], called: Mapping[Any, str]) -> dict[str, Any]:
    """Find what belongs to each image by its name: with folders, else without where that is unique.

    Args:
        names: of the images.
        called: anything -> its file name, of which the ending does not count.

    Raises:
        ValueError: if two belong to one image.
    """
    exact, last = defaultdict(list), defaultdict(list)
    for each, text in called.items():
        key = composed(_ENDING.sub("", text.replace("\\", "/")))
        exact[key].append(each)
        last[PurePosixPath(key).name].append(each)
    alone, found = Counter(PurePosixPath(name).name for name in names), {}
    for name in names:
        key = composed(name)
        short = PurePosixPath(key).name
        there = exact.get(key) or (alone[PurePosixPath(name).name] == 1 and last.get(short)) or []
        if len(there) > 1:
            both = " and ".join(called[each] for each in there[:2])
            raise ValueError(f"image {name!r} has two masks, {both}; remove one")
        if there:
            found[name] = there[0]
    return found


def read_file(path: Path) -> Tensor:
    """Read a mask of a PNG or an array; refuse a palette with VOC's colours in another order."""
    if path.suffix.lower() == ".npy":
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


def _load(path: Path, take: Callable[[Any], Any] | None = None) -> Any:
    """Load an array, or take something out of an archive of them."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if take is None:
            return loaded
        with loaded:  # opened for each mask: processes that share a file would share its position
            return take(loaded)
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


def _regions(
    file: Path, classes: Sequence[str]
) -> tuple[dict[Any, str], dict[Any, list[_Region]], bool]:
    """Read a COCO file, a data set or a list of results.

    Returns:
        Id of an image -> its file name; id -> its regions; whether it is a list of results.
    """
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is no whole JSON ({error}); write it again") from error
    if DOUBT in classes:
        raise ValueError(f"a class is called {DOUBT!r}, as regions of 255 are; rename it")
    values = {**dict(enumerate(classes, 1)), IGNORE_INDEX: DOUBT}
    known = {name: value for value, name in values.items()} | {"background": 0}
    regions: dict[Any, list[_Region]] = defaultdict(list)
    try:
        if is_list := isinstance(data, list):
            entries, called = data, {each["image_id"]: str(each["image_id"]) for each in data}
        else:
            entries, called = data["annotations"], {e["id"]: e["file_name"] for e in data["images"]}
            values = {each["id"]: each["name"] for each in data["categories"]}
        check_texts([*called.values()], "the images are called")
        for each in entries:
            image, category, score = each["image_id"], each["category_id"], each.get("score", 1)
            if image not in called:
                raise ValueError(f"a region is of image {image!r}, which is not among the images")
            if category not in values:
                raise ValueError(f"a region has category {category!r}, expected {[*values]}")
            if (name := values[category]) not in known:
                raise ValueError(f"there is no class {name!r}{closest(name, classes)}")
            if not isinstance(score, int | float) or score != score:
                raise ValueError(f"a region has score {score!r}, expected a number or none")
            regions[image].append(_Region(score, known[name], each["segmentation"]))
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"{file} is not as COCO writes it ({type(error).__name__}: {error})"
        expected = "images, categories and annotations, or a list of results"
        raise ValueError(f"{problem}, expected {expected}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return called, regions, is_list


def _draw(regions: Sequence[_Region], size: tuple[int, int], what: str) -> Tensor:
    """Draw the regions of one image, the surest on top."""
    drawn = torch.zeros(size, dtype=torch.int64)
    for region in sorted(regions, key=lambda each: each.score):
        try:
            drawn[torch.from_numpy(outline_mask(region.outline, size))] = region.value
        except Exception as error:  # pycocotools raises many kinds, and plain ones
            raise ValueError(f"{what} has a region without an outline ({error})") from error
    return drawn


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
        runs: Any = _run_lengths(counts) if isinstance(counts, str) else counts
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
