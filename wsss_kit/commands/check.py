"""``python -m wsss_kit check``: look for errors in a data set before hours are spent on it."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.data import open_dataset
from wsss_kit.data.images import import_decoders
from wsss_kit.processes import progress

SMALL = 32
"""Sides in pixels below which an image is remarked on."""
_SHOWN = 5


@dataclass
class Findings:
    """What was found: a kind of problem -> the images, each with what is wrong.

    Args:
        n_images: number of images that were decoded.
        n_masks: number of masks that were decoded.
        errors: problems that stop a run or falsify its numbers.
        remarks: problems that may be intended.
    """

    n_images: int = 0
    n_masks: int = 0
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        """Return counts, then every kind of problem with its first images."""
        lines = [f"{self.n_images} images, {self.n_masks} masks"]
        for title, kinds in (("wrong", self.errors), ("to look at", self.remarks)):
            for problem, images in kinds.items():
                lines.append(f"{title}: {problem}: {len(images)}")
                lines += [f"  {one}" for one in images[:_SHOWN]]
                lines += [f"  and {len(images) - _SHOWN} more"] * (len(images) > _SHOWN)
        if not self.errors:
            lines.append("nothing is wrong")
        return "\n".join(lines)


class _Looked(NamedTuple):
    """Digest, labels and problems of one image; an image that cannot be read has no digest."""

    errors: dict[str, str]
    remarks: dict[str, str]
    digest: str = ""
    labels: Collection[int] = ()
    has_mask: bool = False


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
    result, by_digest, seen = Findings(), defaultdict(list), set()
    import_decoders()
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(names), 256):  # in portions, so that memory stays flat
            portion = range(start, min(start + 256, len(names)))
            looked = pool.map(partial(_look, samples, masks), portion)
            bar = progress(looked, what="check", shown=shown, total=len(portion))
            for name, one in zip(names[start:], bar, strict=False):
                result.n_images += 1
                result.n_masks += one.has_mask
                if one.digest:
                    by_digest[one.digest].append(name)
                seen.update(one.labels)
                for kinds, problems in ((result.errors, one.errors), (result.remarks, one.remarks)):
                    for problem, text in problems.items():
                        kinds[problem].append(f"{name}: {text}" if text else name)
    twice = [" = ".join(same) for same in by_digest.values() if len(same) > 1]
    never = [name for c, name in enumerate(samples.classes) if c not in seen]
    bare = [] if masks is None else [name for name in names if name not in masks]
    result.errors |= {"images that are there twice": twice} if twice else {}
    result.remarks |= {"classes that no image is labelled with": never} if never else {}
    result.remarks |= {"images without a mask": bare} if bare else {}
    return result


def _look(samples: Sequence[Sample], masks: Mapping[str, Tensor] | None, number: int) -> _Looked:
    """Decode one image and its mask, and compare the mask with the labels."""
    try:
        sample = samples[number]
    except (OSError, ValueError) as error:
        return _Looked({"images that cannot be read": f"{type(error).__name__}: {error}"}, {})
    pixels = (255 * sample.image).round().byte().numpy().tobytes()
    labels, size = set(sample.labels.nonzero()[:, 0].tolist()), tuple(sample.image.shape[1:])
    errors, remarks, has_mask = {}, {}, masks is not None and sample.name in masks
    if min(size) < SMALL:
        remarks[f"images smaller than {SMALL} pixels"] = "x".join(map(str, size))
    if not labels:
        remarks["images without a label"] = ""
    try:
        values = set(masks[sample.name].unique().tolist()) if has_mask else None
    except (OSError, ValueError) as error:
        has_mask = False
        errors["masks that cannot be read"] = f"{type(error).__name__}: {error}"
    if has_mask:
        drawn = {value - 1 for value in values - {0, IGNORE_INDEX}}
        for problems, problem, those in (
            (errors, "classes drawn but not labelled", drawn - labels),
            (remarks, "classes labelled but not drawn", labels - drawn),
        ):
            if those:
                problems[problem] = ", ".join(samples.classes[c] for c in sorted(those))
        if values == {IGNORE_INDEX}:
            errors["masks that ignore everything"] = ""
    return _Looked(errors, remarks, hashlib.sha256(pixels).hexdigest(), labels, has_mask)


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
    findings = check_data(samples, masks, workers=workers)
    print(findings)
    return findings
