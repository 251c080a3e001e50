"""A data set to pseudo masks on disk: whatever stops the run, the next one goes on with the rest.

Which pictures share a batch is fixed by the plan, before anything is done, and a batch is made
whole or not at all. So the files of a run that was stopped any number of times are those of a run
that was not, bit for bit, and so are those of several processes that share the batches.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.classes import Sample
from wsss_kit.commands.batches import InCells, Recipe, Soft, plan_batches
from wsss_kit.data import LazyMasks
from wsss_kit.data.pictures import import_decoders, mask_png, read_mask
from wsss_kit.files import write_whole
from wsss_kit.training import progress

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
    batch_size: int = 1,
    workers: int = 2,
    rank: int = 0,
    world: int = 1,
    what: str = "masks",
    shown: bool = True,
) -> Written:
    """Make the mask of every picture that has none yet, as a palette PNG.

    A picture that cannot be read, or whose mask cannot be made, is noted with the reason, and the
    others go on; a disk that refuses stops the run.

    Args:
        samples: pictures with their ``names``.
        masks_of: a recipe from pictures and labels to masks, or to `Soft` for maps too; or
            `InCells`.
        folder: of ``masks/NAME.png``, ``maps/NAME.safetensors``, ``protocol.json`` and, when all
            of it is done, ``manifest.json``.
        made_by: everything that the masks depend on, as JSON holds it; a folder of masks that were
            made otherwise is refused.
        batch_size: pictures of equal size, with `InCells` rounded up, that go through together.
        workers: threads that decode pictures ahead.
        rank: of this process among ``world``, which share the batches; the last one that ends
            writes the manifest.
        world: processes.
        what: name of the bar.
        shown: whether to show it.

    Returns:
        The masks, and the pictures that have none.

    Raises:
        ValueError: if the folder holds masks of another making, a name leaves the folder, or a
            number is out of its range.
        OSError: if the disk refuses; the masks before are kept.
    """
    for name, value, least in (("workers", workers, 1), ("rank", rank, 0), ("world", world, 1)):
        check_count(name, value, least=least)
    if rank >= world:
        raise ValueError(f"rank is {rank} of world {world}, expected 0 to {world - 1}")
    folder = Path(folder)
    _claim(folder, {**made_by, "batch_size": batch_size})
    names = list(samples.names)
    for name in names:
        _place(folder, "masks", name)  # refuse before any work
    side = masks_of.side if isinstance(masks_of, InCells) else 1
    batches = plan_batches(samples, batch_size, side=side)
    left = [
        [names[n] for n in batch]
        for batch in batches[rank::world]
        if not all(_is_done(folder, names[n]) for n in batch)
    ]
    numbers = {name: number for number, name in enumerate(names)}
    total = sum(map(len, left))

    def made() -> Iterator[_Read]:
        resize = masks_of.resize if isinstance(masks_of, InCells) else None
        for batch in _decoded(samples, numbers, left, workers, resize):
            _make(batch, masks_of, folder)
            yield from batch

    for _ in progress(made(), what=what, shown=shown, total=total):
        pass
    return _finish(folder, names, made_by, getattr(samples, "classes", ()))


def read_masks(folder: str | Path) -> Written:
    """What a finished run wrote.

    Raises:
        FileNotFoundError: if there is no manifest: the run has not ended, or the folder is none.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MANIFEST}: the run has not ended (the same command goes on), or "
            "this is not its folder"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    return Written(_masks(folder, found["pictures"]), found["failed"])


def read_maps(folder: str | Path, name: str) -> dict[int, Tensor]:
    """Soft maps of one picture: class -> (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: if the run kept no maps of it.
    """
    path = _place(Path(folder), "maps", name, ".safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the run --maps to keep soft maps")
    found = load_file(path)
    return {int(c): m.float() for c, m in zip(found["classes"], found["maps"], strict=True)}


def _claim(folder: Path, made_by: Mapping[str, Any]) -> None:
    """Write down how the masks are made; refuse a folder of others."""
    folder.mkdir(parents=True, exist_ok=True)
    said, card = json.dumps(made_by, indent=1, sort_keys=True) + "\n", folder / PROTOCOL
    if card.exists() and card.read_text(encoding="utf-8") != said:
        raise ValueError(
            f"{folder} holds masks that were made otherwise ({PROTOCOL} there says how); expected "
            "a folder of their own: remove it, or give --out another one"
        )
    if not card.exists():
        write_whole(card, said)


def _place(folder: Path, kind: str, name: str, ending: str = ".png") -> Path:
    """Where a picture's file lies; never outside the folder."""
    path = folder / kind / f"{name}{ending}"
    if not path.resolve().is_relative_to((folder / kind).resolve()):
        raise ValueError(f"a picture is called {name!r}, expected a name that stays in its folder")
    return path


def _failure(folder: Path, name: str) -> Path:
    return _place(folder, "failed", name, ".txt")


def _is_done(folder: Path, name: str) -> bool:
    return _place(folder, "masks", name).exists() or _failure(folder, name).exists()


class _Read(NamedTuple):
    """A picture, or why it cannot be read, and what the method is shown if that is another size."""

    name: str
    sample: Sample | None
    problem: str = ""
    resized: Tensor | None = None


def _decoded(
    samples: Sequence[Sample],
    numbers: Mapping[str, int],
    batches: Sequence[Sequence[str]],
    workers: int,
    resize: Callable[[Tensor], Tensor] | None,
) -> Iterator[list[_Read]]:
    """The batches in order, decoded ahead by threads; memory holds a few of them."""

    def read(name: str) -> _Read:
        try:
            sample = samples[numbers[name]]
            return _Read(name, sample, resized=None if resize is None else resize(sample.image))
        except (OSError, ValueError) as error:
            return _Read(name, None, f"{type(error).__name__}: {error}")

    import_decoders()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for batch in batches:
                waiting.append([pool.submit(read, name) for name in batch])
                if len(waiting) > _AHEAD * workers:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def _make(
    batch: Sequence[_Read],
    masks_of: Recipe,
    folder: Path,
) -> None:
    """Masks of one batch, written when all of them are made."""
    good = [read for read in batch if read.sample is not None]
    for read in batch:
        if read.sample is None:
            write_whole(_failure(folder, read.name), read.problem)
    if not good:
        return
    try:
        made = _made(good, masks_of)
    except (ValueError, RuntimeError) as error:
        if len(good) > 1:  # one of them alone may be to blame
            for read in good:
                _make([read], masks_of, folder)
            return
        write_whole(_failure(folder, good[0].name), f"{type(error).__name__}: {error}")
        return
    for read, (mask, maps) in zip(good, made, strict=True):
        if maps is not None:
            present = read.sample.labels.nonzero()[:, 0]
            kept = {"classes": present, "maps": maps[present].half().cpu().contiguous()}
            write_whole(_place(folder, "maps", read.name, ".safetensors"), save(kept))
        write_whole(_place(folder, "masks", read.name), mask_png(mask))


def _made(good: Sequence[_Read], recipe: Recipe) -> list[tuple[Tensor, Tensor | None]]:
    """The mask of every picture of a batch, and its maps where they are kept."""
    images = [read.sample.image for read in good]
    labels = torch.stack([read.sample.labels for read in good])
    if not isinstance(recipe, InCells):
        return _each(recipe(torch.stack(images), labels))
    maps = recipe.maps_of(torch.stack([read.resized for read in good]), labels)
    made: dict[int, tuple[Tensor, Tensor | None]] = {}
    for size in dict.fromkeys(image.shape for image in images):
        alike = [b for b, image in enumerate(images) if image.shape == size]
        together = torch.stack([images[b] for b in alike])
        found = _each(recipe.finish(maps[alike], together, labels[alike]))
        made.update(zip(alike, found, strict=True))
    return [made[b] for b in range(len(good))]


def _each(made: Tensor | Soft) -> list[tuple[Tensor, Tensor | None]]:
    if isinstance(made, Soft):
        return list(zip(made.masks, made.maps, strict=True))
    return [(mask, None) for mask in made]


def _finish(
    folder: Path, names: Sequence[str], made_by: Mapping[str, Any], classes: Sequence[str]
) -> Written:
    """Write the manifest once every picture has a mask or a reason."""
    failed, done = {}, []
    for name in names:
        if _place(folder, "masks", name).exists():
            done.append(name)
        elif _failure(folder, name).exists():
            failed[name] = _failure(folder, name).read_text(encoding="utf-8")
    if len(done) + len(failed) == len(names):
        manifest = {"made_by": dict(made_by), "classes": list(classes)}
        manifest |= {"pictures": done, "failed": failed}
        for torn in folder.rglob(".*.tmp"):  # of runs that were killed while they wrote
            torn.unlink(missing_ok=True)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return Written(_masks(folder, done), failed)


def _masks(folder: Path, names: Sequence[str]) -> LazyMasks:
    return LazyMasks(
        names,
        read=lambda name: read_mask(_place(folder, "masks", name)),
        folder=folder / "masks",
    )
