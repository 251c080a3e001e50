"""A data set to pseudo masks on disk: whatever stops the run, the next one goes on with the rest.

The plan fixes which images share a batch, and a batch is made whole or not at all. So a run that
was stopped, or shared by several processes, writes the files of one that was not, bit for bit.
"""

import errno
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from wsss_kit.cam import upsample
from wsss_kit.checks import check_count
from wsss_kit.classes import Sample
from wsss_kit.data import LazyMasks
from wsss_kit.data.datasets import plan_batches
from wsss_kit.data.images import import_decoders, mask_png, read_mask, stamp_of
from wsss_kit.files import (
    check_classes,
    check_kinds,
    check_texts,
    digest_of,
    read_card,
    write_whole,
)
from wsss_kit.pipeline import Pipeline
from wsss_kit.processes import progress

Recipe = Pipeline | Callable[[Tensor, Tensor], Tensor]
"""A pipeline, or a function of images (B, 3, H, W) and labels (B, C) that returns masks."""
PROTOCOL, MANIFEST = "protocol.json", "manifest.json"
_AHEAD = 2  # batches that are decoded ahead, a worker


class Written(NamedTuple):
    """What a folder of masks holds.

    Args:
        masks: name -> (H, W) int64.
        failed: name -> why there is no mask.
    """

    masks: LazyMasks
    failed: dict[str, str]


def write_masks(
    samples: Sequence[Sample],
    masks_of: Recipe,
    folder: str | Path,
    *,
    made_by: Mapping[str, Any],
    maps: bool = False,
    batch_size: int = 1,
    workers: int = 2,
    rank: int = 0,
    world: int = 1,
    shown: bool = True,
) -> Written:
    """Make the mask of every image that has none yet, as a palette PNG.

    Images that cannot be read, or have no mask, are noted with the reason and tried again by the
    next run; a disk that refuses stops the run.

    Args:
        samples: images with their ``names`` and, for batches, ``size_of(name)``.
        masks_of: a `Pipeline`, or a function of images and labels that returns masks.
        folder: of ``masks/NAME.png``, ``maps/NAME.safetensors``, ``protocol.json`` and, in the
            end, ``manifest.json``. A whole mask whose stamp says that it was made from the same
            protocol, labels and image file stays.
        made_by: everything else that the masks depend on, as JSON holds it; a folder of masks that
            were made otherwise is refused, and so is one whose masks are not from here.
        maps: whether the maps of a `Pipeline` are written too.
        batch_size: images of equal size that go through together; of CLIP-ES, in whole patches.
        workers: threads that decode images ahead.
        rank: of this process among ``world``; the last one that ends writes the manifest.
        world: processes that share the batches.
        shown: whether to show a bar.

    Returns:
        The masks, and the images that have none.

    Raises:
        ValueError: if the folder holds masks of another making, a name leaves the folder, or a
            number is out of its range.
        OSError: if the disk refuses; the masks before are kept.
    """
    for name, value, least in (("workers", workers, 1), ("rank", rank, 0), ("world", world, 1)):
        check_count(name, value, least=least)
    if rank >= world:
        raise ValueError(f"rank is {rank} of world {world}, expected 0 to {world - 1}")
    (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
    protocol = {**made_by, "batch_size": batch_size}
    text, card = json.dumps(protocol, indent=1, sort_keys=True) + "\n", folder / PROTOCOL
    if not card.exists():
        if foreign := next((p for p in (folder / "masks").rglob("*") if p.is_file()), None):
            problem = f"{foreign} is there and {PROTOCOL} is not, so these masks are not from here"
            raise ValueError(f"{problem}; give --out another folder")
        write_whole(card, text)
    elif card.read_bytes() != text.encode():
        problem = f"{folder} holds masks that were made otherwise ({PROTOCOL} there says how)"
        raise ValueError(f"{problem}; remove it, or give --out another one")
    names = [name for name in samples.names if _place(folder, "masks", name)]  # or refuse
    cell = masks_of.cell if isinstance(masks_of, Pipeline) else 1
    batches = plan_batches(samples, batch_size, side=cell)[rank::world]

    def is_done(name: str) -> bool:
        stamp = stamp_of(mask := _place(folder, "masks", name))
        if stamp == "":
            raise ValueError(f"{mask} was changed by others; move it away, or give --out another")
        try:
            _ = read_maps(folder, name) if maps else None
        except (OSError, ValueError):
            return False
        return stamp is not None and stamp == _stamp(text, samples, name)

    old = {names[i] for batch in batches for i in batch if not is_done(names[i])}
    left = [batch for batch in batches if not old.isdisjoint(names[i] for i in batch)]
    for name in old:  # what failed once is tried again
        (folder / MANIFEST).unlink(missing_ok=True)
        for part, end in (("failed", ".txt"), ("masks", ".png"), ("maps", ".safetensors")):
            _place(folder, part, name, end).unlink(missing_ok=True)

    def write() -> Iterator[_Read]:
        for batch in _decode(samples, left, workers, masks_of.fit if cell > 1 else None, text):
            _write_batch(batch, masks_of, folder, maps)
            yield from batch

    deque(progress(write(), what="masks", shown=shown, total=sum(map(len, left))), maxlen=0)
    done = dict.fromkeys(name for name in names if _place(folder, "masks", name).exists())
    rest = {name: _place(folder, "failed", name, ".txt") for name in names if name not in done}
    failed = {n: p.read_text(encoding="utf-8") for n, p in rest.items() if p.exists()}
    if len(done) + len(failed) == len(names):
        manifest = {"made_by": dict(made_by), "classes": list(getattr(samples, "classes", ()))}
        manifest |= {"pictures": [*done], "failed": failed}
        for torn in folder.rglob(".*.tmp"):  # of runs that were killed while they wrote
            torn.unlink(missing_ok=True)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return Written(_masks(folder, done), failed)


def read_masks(folder: str | Path, classes: Sequence[str] | None = None) -> Written:
    """Read the masks that a finished run wrote.

    Args:
        folder: of the run.
        classes: what the values have to mean, in this order; None for whatever they mean.

    Raises:
        ValueError: if the manifest is none, or the masks have other classes.
        FileNotFoundError: if there is no manifest: the run has not ended, or the folder is none.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        problem = f"{folder} has no {MANIFEST}: the run has not ended (the same command goes on)"
        raise FileNotFoundError(f"{problem}, or this is not its folder")
    stored = read_card(folder / MANIFEST)
    kinds = {"lists": ("pictures", "classes"), "objects": ("failed",)}
    check_kinds({"classes": [], **stored}, str(folder / MANIFEST), **kinds)
    check_texts(stored["pictures"], f"{folder / MANIFEST} has pictures")
    if classes is not None and stored.get("classes"):
        check_classes(stored, classes, folder)
    return Written(_masks(folder, stored["pictures"]), stored["failed"])


def read_maps(folder: str | Path, name: str) -> dict[int, Tensor]:
    """Read the soft maps of one image: class -> (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: if the run kept no maps of it.
        ValueError: if the file is damaged.
    """
    path = _place(Path(folder), "maps", name, ".safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the run --maps to keep soft maps")
    try:
        stored = load_file(path)
        classes, maps = stored["classes"].tolist(), stored["maps"].float()
        if len(classes) != len(maps) or not maps.isfinite().all() or min(classes, default=0) < 0:
            raise ValueError("classes and maps do not fit")
    except (SafetensorError, KeyError, ValueError) as error:
        advice = "remove it, and the same `masks` command with --maps makes it anew"
        raise ValueError(f"{path} holds no maps ({error}); {advice}") from error
    return dict(zip(classes, maps, strict=True))


def _place(folder: Path, subfolder: str, name: str, ending: str = ".png") -> Path:
    """Return the file of an image; never one outside the folder."""
    path = folder / subfolder / f"{name}{ending}"
    if not path.resolve().is_relative_to((folder / subfolder).resolve()):
        raise ValueError(f"an image is called {name!r}, expected a name that stays in its folder")
    return path


def _stamp(protocol: str, samples: Sequence[Sample], name: str) -> str | None:
    """Return a hash of all that a mask is made from, sixteen letters; None if it cannot be read."""
    parts = [protocol.encode()]
    try:
        if callable(getattr(samples, "labels", None)):
            parts.append(samples.labels(name).numpy().tobytes())
        if callable(getattr(samples, "path", None)):
            parts.append(samples.path(name).read_bytes())
    except (OSError, ValueError):
        return None
    return digest_of(*parts)


class _Read(NamedTuple):
    """An image, or why it cannot be read, and what the method is shown if that is another size."""

    name: str
    sample: Sample | None
    problem: str = ""
    stamp: str | None = None
    resized: Tensor | None = None


def _decode(
    samples: Sequence[Sample],
    batches: Sequence[Sequence[int]],
    workers: int,
    resize: Callable[[Tensor], Tensor] | None,
    protocol: str,
) -> Iterator[list[_Read]]:
    """Decode the batches in order, ahead in threads; memory holds a few of them."""

    def read(number: int) -> _Read:
        name = samples.names[number]
        try:
            sample, stamp = samples[number], _stamp(protocol, samples, name)
            resized = None if resize is None else resize(sample.image)
            return _Read(name, sample, stamp=stamp, resized=resized)
        except (OSError, ValueError) as error:
            return _Read(name, None, f"{type(error).__name__}: {error}")

    import_decoders()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for batch in batches:
                waiting.append([pool.submit(read, number) for number in batch])
                if len(waiting) > _AHEAD * workers:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def _write_batch(batch: Sequence[_Read], masks_of: Recipe, folder: Path, maps: bool) -> None:
    """Write the masks of one batch when all of them are computed."""

    def note(read: _Read, problem: str) -> None:
        write_whole(_place(folder, "failed", read.name, ".txt"), problem)

    good = [read for read in batch if read.sample is not None]
    for read in batch:
        if read.sample is None:
            note(read, read.problem)
    try:
        computed = _compute(good, masks_of) if good else []
    except (ValueError, RuntimeError) as error:
        if len(good) == 1:
            return note(good[0], f"{type(error).__name__}: {error}")
        for read in good:  # one of them alone may be to blame
            _write_batch([read], masks_of, folder, maps)
        return None
    for read, (mask, soft) in zip(good, computed, strict=True):
        try:
            if maps:
                present = read.sample.labels.nonzero()[:, 0]
                kept = {"classes": present, "maps": soft[present].half().cpu().contiguous()}
                write_whole(_place(folder, "maps", read.name, ".safetensors"), save(kept))
            write_whole(_place(folder, "masks", read.name), mask_png(mask, read.stamp))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            note(read, f"the name is too long for a file: {error}")
    return None


def _compute(good: Sequence[_Read], masks_of: Recipe) -> list[tuple[Tensor, Tensor | None]]:
    """Compute the mask of every image of a batch, and its maps if a pipeline computes them."""
    images = [read.sample.image for read in good]
    labels = torch.stack([read.sample.labels for read in good])
    if not isinstance(masks_of, Pipeline):
        return [(mask, None) for mask in masks_of(torch.stack(images), labels)]
    if good[0].resized is None:
        stacked = torch.stack(images)
        maps, scores = masks_of.maps_and_scores(stacked, labels)
        return list(zip(masks_of.masks_of(scores, stacked, labels), maps, strict=True))
    cams = masks_of.own_maps(torch.stack([read.resized for read in good]), labels)
    pairs: list = [None] * len(good)
    for size in dict.fromkeys(image.shape[1:] for image in images):
        equal = [b for b, image in enumerate(images) if image.shape[1:] == size]
        maps, stacked = upsample(cams[equal], size), torch.stack([images[b] for b in equal])
        masks = masks_of.masks_of(masks_of.rule.scores(maps), stacked, labels[equal])
        for b, *pair in zip(equal, masks, maps, strict=True):
            pairs[b] = pair
    return pairs


def masks_in(
    folder: Path, names: Sequence[str], classes: Sequence[str]
) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Open the masks of a folder by image name; return also how they were made, if known.

    Args:
        folder: that ``masks`` wrote, or any of ``NAME.png``.
        names: the images whose masks are needed.
        classes: what the values of the masks have to mean, in this order.

    Raises:
        ValueError: if the run that wrote the folder made no mask of one of them, with the reason,
            or its classes are others.
        FileNotFoundError: if there is no folder, or its run has not ended.
    """
    card = folder / PROTOCOL
    if card.is_file():
        written, made_by = read_masks(folder, classes), read_card(card)
        if missing := [name for name in names if name in written.failed]:
            problem = f"{len(missing)} of {len(names)} images have no mask, the first is"
            reason = f"{missing[0]!r}: {written.failed[missing[0]]}"
            raise ValueError(f"{problem} {reason}; mend them, or score a split without them")
        return written.masks, made_by
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, expected one of NAME.png")
    there = [name for name in names if (folder / f"{name}.png").is_file()]
    return LazyMasks(there, read=lambda n: read_mask(folder / f"{n}.png"), folder=folder), {}


def _masks(folder: Path, names: Sequence[str]) -> LazyMasks:
    return LazyMasks(
        names, read=lambda name: read_mask(_place(folder, "masks", name)), folder=folder / "masks"
    )
