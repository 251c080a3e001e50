"""``python -m wsss_kit check``: what is wrong with a data set, before hours are spent on it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.data import open_dataset
from wsss_kit.data.images import import_decoders
from wsss_kit.training import progress

SMALL = 32
"""Sides in pixels below which an image is remarked on."""
_SHOWN = 5


@dataclass
class Findings:
    """What was found: a kind of problem -> the images, each with what is wrong.

    Args:
        n_pictures: that were looked at.
        n_masks: that were looked at.
        errors: what stops a run or falsifies its numbers.
        remarks: what may be meant so.
    """

    n_images: int = 0
    n_masks: int = 0
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        """Return counts, then every kind of problem with its first images."""
        lines = [f"{self.n_images} images, {self.n_masks} masks"]
        for title, kinds in (("wrong", self.errors), ("to look at", self.remarks)):
            for kind, found in kinds.items():
                lines.append(f"{title}: {kind}: {len(found)}")
                lines += [f"  {one}" for one in found[:_SHOWN]]
                lines += [f"  and {len(found) - _SHOWN} more"] * (len(found) > _SHOWN)
        if not self.errors:
            lines.append("nothing is wrong")
        return "\n".join(lines)


class _Looked(NamedTuple):
    """One image, looked at."""

    name: str
    problem: str
    size: tuple[int, int]
    digest: str
    labels: set[int]
    mask_problem: str
    values: set[int] | None


def check_data(
    samples: Sequence[Sample],
    masks: Mapping[str, Tensor] | None = None,
    *,
    workers: int = 2,
    shown: bool = True,
) -> Findings:
    """Decode every image and every mask, and compare them with each other and with the labels.

    Args:
        samples: images with ``names`` and ``classes``.
        masks: name to (H, W) int64; None where there are none.
        workers: threads that decode.
        shown: whether to show a bar.

    Returns:
        What is wrong, and what may be.

    Raises:
        ValueError: if there is no image.
    """
    check_count("workers", workers)
    names = list(samples.names)
    if not names:
        raise ValueError("there is no image, expected at least one")
    found, by_digest, seen = Findings(), defaultdict(list), set()
    for one in _looked(samples, names, masks, workers, shown):
        found.n_images += 1
        found.n_masks += one.values is not None
        if one.problem:
            found.errors["images that cannot be read"].append(f"{one.name}: {one.problem}")
            continue
        by_digest[one.digest].append(one.name)
        seen |= one.labels
        if min(one.size) < SMALL:
            size = "x".join(map(str, one.size))
            found.remarks[f"images smaller than {SMALL} pixels"].append(f"{one.name}: {size}")
        if not one.labels:
            found.remarks["images without a label"].append(one.name)
        if one.mask_problem:
            found.errors["masks that cannot be read"].append(f"{one.name}: {one.mask_problem}")
        if one.values is not None:
            _compare(one, samples.classes, found)
    twice = [" = ".join(same) for same in by_digest.values() if len(same) > 1]
    if twice:
        found.errors["images that are there twice"].extend(twice)
    never = [name for c, name in enumerate(samples.classes) if c not in seen]
    if never:
        found.remarks["classes that no image is labelled with"].extend(never)
    if masks is not None:
        missing = [name for name in names if name not in masks]
        if missing:
            found.remarks["images without a mask"].extend(missing)
    return found


def _looked(
    samples: Sequence[Sample],
    names: Sequence[str],
    masks: Mapping[str, Tensor] | None,
    workers: int,
    shown: bool,
) -> Iterator[_Looked]:
    def look(number: int) -> _Looked:
        name, empty = names[number], ((0, 0), "", set(), "", None)
        try:
            sample = samples[number]
        except (OSError, ValueError) as error:
            return _Looked(name, f"{type(error).__name__}: {error}", *empty)
        pixels = (255 * sample.image).round().byte().numpy().tobytes()
        digest = hashlib.sha256(pixels).hexdigest()
        labels, size = set(sample.labels.nonzero()[:, 0].tolist()), tuple(sample.image.shape[1:])
        if masks is None or name not in masks:
            return _Looked(name, "", size, digest, labels, "", None)
        try:
            mask = masks[name]
        except (OSError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
            return _Looked(name, "", size, digest, labels, problem, None)
        return _Looked(name, "", size, digest, labels, "", set(mask.unique().tolist()))

    import_decoders()
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(names), 256):  # in portions, so that memory stays flat
            numbers = range(start, min(start + 256, len(names)))
            found = pool.map(look, numbers)
            yield from progress(found, what="check", shown=shown, total=len(numbers))


def _compare(one: _Looked, classes: Sequence[str], found: Findings) -> None:
    """Compare the labels and the mask of one image."""
    drawn = {value - 1 for value in one.values - {0, IGNORE_INDEX}}
    for kind, those in (
        ("classes drawn but not labelled", drawn - one.labels),
        ("classes labelled but not drawn", one.labels - drawn),
    ):
        if those:
            named = ", ".join(classes[c] for c in sorted(those))
            kinds = found.errors if "not labelled" in kind else found.remarks
            kinds[kind].append(f"{one.name}: {named}")
    if one.values == {IGNORE_INDEX}:
        found.errors["masks that ignore everything"].append(one.name)


def run_check(
    data: str,
    /,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    workers: int = 2,
) -> Findings:
    """Check a data set, before hours of work, and print what is wrong with it.

    Args:
        data: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` or ``"paper"`` (the embedded world).
        root: folder of the data set; None for the one that `download` writes.
        split: None for ``train_aug`` of VOC, ``train`` or ``trainval``.
        limit: only the first so many images.
        workers: threads that decode.
    """
    samples = open_dataset(data, root, split, limit=limit)
    try:
        masks = samples.open_masks()
    except FileNotFoundError:
        masks = None  # a data set without masks can be trained on
    found = check_data(samples, masks, workers=workers)
    print(found)
    return found
