"""A data set to pseudo masks on disk: whatever stops the run, the next one goes on with the rest.

The plan fixes which images share a batch, and a batch is made whole or not at all. So a run that
was stopped, or shared by several processes, writes the files of one that was not, bit for bit.
"""

import errno
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from wsss_kit.cam import upsample
from wsss_kit.checks import check_count, check_image, check_labels, check_range, checked
from wsss_kit.classes import Sample
from wsss_kit.commands import MANIFEST, PROTOCOL, Written, open_folder, place_of, read_maps
from wsss_kit.data.datasets import plan_batches
from wsss_kit.data.images import import_decoders, mask_png, stamp_of
from wsss_kit.files import digest_of, write_whole
from wsss_kit.pipeline import Pipeline
from wsss_kit.processes import progress

Recipe = Pipeline | Callable[[Tensor, Tensor], Tensor]
"""A pipeline, or a function of images (B, 3, H, W) and labels (B, C) that returns masks."""
_AHEAD = 2  # images that are decoded ahead, a worker, and at least two batches
_MOST_CLASSES = 254  # that a mask has values for, beside background and 255


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
        workers: threads that decode images ahead and encode masks.
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
    if len(classes := list(getattr(samples, "classes", ()))) > _MOST_CLASSES:
        problem = f"there are {len(classes)} classes, and a mask has room for {_MOST_CLASSES}"
        raise ValueError(f"{problem}; leave some out, or join them")
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
    names = [name for name in samples.names if place_of(folder, "masks", name)]  # or refuse
    cell = masks_of.cell if isinstance(masks_of, Pipeline) else 1
    batches = plan_batches(samples, batch_size, side=cell)[rank::world]

    def is_done(name: str) -> bool:
        stamp = stamp_of(mask := place_of(folder, "masks", name))
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
            place_of(folder, part, name, end).unlink(missing_ok=True)

    def write() -> Iterator[None]:
        waiting: deque[list[Future]] = deque()
        with _threads(workers) as readers, _threads(workers, finish=True) as writers:
            for batch in _decode(samples, left, workers, readers, masks_of, text):
                waiting.append(_write_batch(batch, masks_of, folder, maps, writers))
                while len(waiting) > 2:
                    yield from [future.result() for future in waiting.popleft()]
            for futures in waiting:
                yield from [future.result() for future in futures]

    deque(progress(write(), what="masks", shown=shown, total=sum(map(len, left))), maxlen=0)
    done = dict.fromkeys(name for name in names if place_of(folder, "masks", name).exists())
    rest = {name: place_of(folder, "failed", name, ".txt") for name in names if name not in done}
    failed = {n: p.read_text(encoding="utf-8") for n, p in rest.items() if p.exists()}
    if len(done) + len(failed) == len(names):
        manifest = {"made_by": dict(made_by), "classes": classes}
        manifest |= {"pictures": [*done], "failed": failed}
        for torn in folder.rglob(".*.tmp"):  # of runs that were killed while they wrote
            torn.unlink(missing_ok=True)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return Written(open_folder(folder, done), failed)


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
    """An image that was read, or why it cannot be.

    Args:
        name: of the image.
        labels: (C,); None where it cannot be read.
        shown: (3, H, W) what the method is given, on its device.
        image: (3, H, W) in its own size, on the same device; None where nothing needs it any more.
        size: (H, W) of the image.
        stamp: see `_stamp`.
        problem: why it cannot be read.
    """

    name: str
    labels: Tensor | None = None
    shown: Tensor | None = None
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    stamp: str | None = None
    problem: str = ""


@contextmanager
def _threads(workers: int, *, finish: bool = False) -> Iterator[ThreadPoolExecutor]:
    """Context manager: threads, each of which computes alone.

    After an error, what still waits is done all the same if ``finish``, and otherwise given up.
    """
    import_decoders()
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=not finish)
        torch.set_num_threads(before)


def _decode(
    samples: Sequence[Sample],
    batches: Sequence[Sequence[int]],
    workers: int,
    pool: ThreadPoolExecutor,
    masks_of: Recipe,
    protocol: str,
) -> Iterator[list[_Read]]:
    """Decode the batches in order, ahead in threads; memory holds a few of them."""
    device = masks_of.device if isinstance(masks_of, Pipeline) else torch.device("cpu")
    resizes = isinstance(masks_of, Pipeline) and masks_of.cell > 1

    def sent(values: Tensor) -> Tensor:
        return (
            values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values
        )

    def read(number: int) -> _Read:
        name = samples.names[number]
        try:
            sample, stamp = samples[number], _stamp(protocol, samples, name)
            check_image(sample.image, "the image")
            check_labels(sample.labels)
            image = shown = sent(sample.image)
            if resizes:
                shown, image = masks_of.fit(image), image if masks_of.crf else None
            size = tuple(sample.image.shape[1:])
            return _Read(name, sample.labels, shown, image, size, stamp)
        except (OSError, ValueError) as error:
            return _Read(name, problem=f"{type(error).__name__}: {error}")

    waiting: deque[list[Future]] = deque()
    for batch in batches:
        waiting.append([pool.submit(read, number) for number in batch])
        while len(waiting) > 2 and sum(map(len, waiting)) > _AHEAD * workers:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


def _write_batch(
    batch: Sequence[_Read],
    masks_of: Recipe,
    folder: Path,
    maps: bool,
    pool: ThreadPoolExecutor,
) -> list[Future]:
    """Compute the masks of one batch and, when there are all of them, let threads write them."""

    def note(read: _Read, problem: str) -> None:
        write_whole(place_of(folder, "failed", read.name, ".txt"), problem)

    def write(read: _Read, mask: Tensor, soft: Tensor | None) -> None:
        try:
            if soft is not None:
                kept = {"classes": read.labels.nonzero()[:, 0], "maps": soft.cpu().contiguous()}
                write_whole(place_of(folder, "maps", read.name, ".safetensors"), save(kept))
            write_whole(place_of(folder, "masks", read.name), mask_png(mask, read.stamp))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            note(read, f"the name is too long for a file: {error}")

    good = [read for read in batch if read.labels is not None]
    noted = [pool.submit(note, read, read.problem) for read in batch if read.labels is None]
    try:
        computed = _compute(good, masks_of, maps) if good else []
    except (ValueError, RuntimeError) as error:
        if len(good) == 1:
            return [*noted, pool.submit(note, good[0], f"{type(error).__name__}: {error}")]
        # one of them alone may be to blame
        alone = [_write_batch([read], masks_of, folder, maps, pool) for read in good]
        return [*noted, *chain.from_iterable(alone)]
    pairs = zip(good, computed, strict=True)
    return [*noted, *(pool.submit(write, read, *results) for read, results in pairs)]


def _compute(
    good: Sequence[_Read], masks_of: Recipe, maps: bool
) -> list[tuple[Tensor, Tensor | None]]:
    """Compute the mask of every image of a batch and, if wanted, the maps of its classes."""
    shown, labels = torch.stack([read.shown for read in good]), [read.labels for read in good]
    if not isinstance(masks_of, Pipeline):
        return [(mask, None) for mask in masks_of(shown, torch.stack(labels))]
    present = torch.stack(labels).to(masks_of.device)

    def pairs(masks: Tensor, soft: Tensor, held: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Pair masks, as 8 bits, with the maps of the classes present."""
        of_each = [of_image[kept].half() for of_image, kept in zip(soft, held > 0, strict=True)]
        return list(zip(masks.byte(), of_each if maps else [None] * len(masks), strict=True))

    if masks_of.cell == 1:
        soft, scores = masks_of.maps_and_scores(shown, present)
        return pairs(masks_of.masks_of(scores, shown, present), soft, present)
    with checked():  # images and labels were, when they were read
        cams, found = masks_of.own_maps(shown, present), {}
    check_range("the maps", cams, "look at the weights of the model")
    for size in dict.fromkeys(read.size for read in good):
        equal = [b for b, read in enumerate(good) if read.size == size]
        # only the classes of these images are enlarged; without any, one that is absent
        some = torch.stack([labels[b] for b in equal]).any(0).nonzero()[:, 0].to(cams.device)
        some = some if len(some) else some.new_zeros(1)
        soft, held = upsample(cams[equal][:, some], size), present[equal][:, some]
        images = torch.stack([good[b].image for b in equal]) if masks_of.crf else None
        values = torch.arange(256, device=cams.device)
        values[1 : 1 + len(some)] = some + 1  # of the classes; background and 255 stay
        with nullcontext() if callable(masks_of.crf) else checked():
            masks = values[masks_of.masks_of(masks_of.rule.scores(soft), images, held)]
        found |= zip(equal, pairs(masks, soft, held), strict=True)
    return [found[b] for b in range(len(good))]
