"""A data set to pseudo masks on disk: whatever stops the run, the next one goes on with the rest.

The plan fixes which images share a batch, and a batch is made whole or not at all. So a run that
was stopped, or shared by several processes, writes the files of one that was not, bit for bit.
"""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils import data

from wsss_kit.cam import upsample
from wsss_kit.checks import check_count, check_image, check_labels, check_range, checked
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.commands import MANIFEST, PROTOCOL, Written, open_folder, place_of, read_maps
from wsss_kit.data.datasets import Dataset
from wsss_kit.data.images import import_decoders, mask_png, stamp_of
from wsss_kit.files import digest_of, write_whole
from wsss_kit.pipeline import Pipeline
from wsss_kit.processes import plan_batches, progress

Recipe = Pipeline | Callable[[Tensor, Tensor], Tensor]
"""A pipeline, or a function of images (B, 3, H, W) and labels (B, C) that returns masks."""
_WRITERS = 2  # threads that encode masks; more of them wait for each other


def write_masks(
    samples: Dataset,
    masks_of: Recipe,
    folder: str | Path,
    *,
    made_by: Mapping[str, Any],
    maps: bool = False,
    batch_size: int = 1,
    workers: int = 0,
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
        workers: processes that read images; 0 for none beside this one.
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
    check_count("batch_size", batch_size)
    for name, value, least in (("workers", workers, 0), ("rank", rank, 0), ("world", world, 1)):
        check_count(name, value, least=least)
    if rank >= world:
        raise ValueError(f"rank is {rank} of world {world}, expected 0 to {world - 1}")
    if len(classes := list(getattr(samples, "classes", ()))) >= IGNORE_INDEX:
        problem = f"there are {len(classes)} classes, and a mask has room for {IGNORE_INDEX - 1}"
        raise ValueError(f"{problem}; leave some out, or join them")
    if not samples.names:
        raise ValueError("there is no image, expected at least one")
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
    batches = plan_batches(samples.names, samples.size_of, batch_size, side=cell)[rank::world]

    def is_done(number: int) -> bool:
        stamp = stamp_of(mask := place_of(folder, "masks", name := names[number]))
        if stamp == "":
            raise ValueError(f"{mask} was changed by others; move it away, or give --out another")
        try:
            _ = read_maps(folder, name) if maps else None
        except (OSError, ValueError):
            return False
        return stamp is not None and stamp == _stamp(text, samples, number)

    old = {names[i] for batch in batches for i in batch if not is_done(i)}
    left = [batch for batch in batches if not old.isdisjoint(names[i] for i in batch)]
    for name in old:  # what failed once is tried again
        (folder / MANIFEST).unlink(missing_ok=True)
        places = place_of(folder, "masks", name), place_of(folder, "maps", name, ".safetensors")
        for place in (_note_of(folder, name), *places):
            if os.path.exists(place):  # also for a name that is too long for a file
                place.unlink()

    loader = data.DataLoader(
        _Batches(samples, left, text),
        batch_size=None,
        num_workers=workers,
        pin_memory=isinstance(masks_of, Pipeline) and masks_of.device.type == "cuda",
    )

    def write() -> Iterator[None]:
        import_decoders()  # threads must not
        waiting: deque[list[Future]] = deque()
        with ThreadPoolExecutor(_WRITERS) as pool:  # after an error what waits is written first
            for batch in loader:
                waiting.append(_write_batch(batch, masks_of, folder, maps, pool))
                while len(waiting) > 2:
                    yield from [future.result() for future in waiting.popleft()]
            for futures in waiting:
                yield from [future.result() for future in futures]

    deque(progress(write(), what="masks", shown=shown, total=sum(map(len, left))), maxlen=0)
    done = dict.fromkeys(n for n in names if os.path.exists(place_of(folder, "masks", n)))
    rest = {name: _note_of(folder, name) for name in names if name not in done}
    failed = {n: p.read_text(encoding="utf-8") for n, p in rest.items() if p.exists()}
    if len(done) + len(failed) == len(names):
        manifest = {"made_by": dict(made_by), "classes": classes}
        manifest |= {"pictures": [*done], "failed": failed}
        for torn in folder.rglob(".*.tmp"):  # of runs that were killed while they wrote
            torn.unlink(missing_ok=True)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return Written(open_folder(folder, [*done]), failed)


def _note_of(folder: Path, name: str) -> Path:
    """Return the file that says why an image has no mask, under a short name if need be."""
    whole = name.encode("utf-8", "surrogatepass")
    is_long = len(whole.rpartition(b"/")[2]) > 200
    return place_of(folder, "failed", digest_of(whole) if is_long else name, ".txt")


def _stamp(
    protocol: str, samples: Dataset, number: int, sample: Sample | None = None
) -> str | None:
    """Return a hash of all that a mask is made from, sixteen letters; None if it cannot be read.

    An image without a file is read for it, unless ``sample`` is that image.
    """
    name, parts = samples.names[number], [protocol.encode()]
    path, labels = (getattr(samples, each, None) for each in ("path", "labels"))
    try:
        if callable(path) and callable(labels):
            return digest_of(*parts, labels(name).numpy().tobytes(), path(name).read_bytes())
        sample = samples[number] if sample is None else sample
        of_sample = (
            each.detach().cpu().numpy().tobytes() for each in (sample.labels, sample.image)
        )
        return digest_of(*parts, *of_sample)
    except (OSError, ValueError):
        return None


class _Batch(NamedTuple):
    """The images of a batch that could be read, and why the others could not.

    Args:
        names: of the n images.
        stamps: of each, see `_stamp`.
        labels: (n, C).
        images: (H, W) -> all images of this size, (k, 3, H, W) 8-bit levels, or float32 in [0, 1]
            where these are no 8-bit levels.
        places: (H, W) -> which of the n images these are.
        problems: name -> why it cannot be read.
    """

    names: list[str]
    stamps: list[str]
    labels: Tensor
    images: dict[tuple[int, int], Tensor]
    places: dict[tuple[int, int], list[int]]
    problems: dict[str, str]

    def alone(self) -> Iterator[_Batch]:
        """Yield every image as a batch of its own."""
        for size, places in self.places.items():
            for b, image in zip(places, self.images[size], strict=True):
                found = {size: image[None]}, {size: [0]}
                yield _Batch([self.names[b]], [self.stamps[b]], self.labels[b][None], *found, {})


class _Batches(data.Dataset):
    """The batches as a data set of torch's, so that processes can read them ahead."""

    def __init__(self, samples: Dataset, batches: Sequence[Sequence[int]], protocol: str) -> None:
        self.samples, self.batches, self.protocol = samples, batches, protocol

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> _Batch:
        """Read the images of a batch; one that cannot be read leaves the others alone."""
        names, stamps, labels, problems = [], [], [], {}
        images: dict[tuple[int, int], list[Tensor]] = {}
        places: dict[tuple[int, int], list[int]] = {}
        for place in self.batches[index]:
            name = self.samples.names[place]
            try:
                sample = self.samples[place]
                check_image(sample.image, "the image")
                check_labels(sample.labels)
                if len(sample.labels) != (n := len(self.samples.classes)):
                    raise ValueError(
                        f"{len(sample.labels)} labels, expected one of {n} classes each"
                    )
                stamp = _stamp(self.protocol, self.samples, place, sample)
            except (OSError, ValueError) as error:
                problems[name] = f"{type(error).__name__}: {error}"
                continue
            _, H, W = sample.image.shape
            images.setdefault((H, W), []).append(sample.image)
            places.setdefault((H, W), []).append(len(names))
            names.append(name)
            stamps.append(stamp or "unread")  # it vanished meanwhile: the next run makes it anew
            labels.append(sample.labels)
        stacked = {size: _as_levels(torch.stack(each)) for size, each in images.items()}
        known = torch.stack(labels) if labels else torch.empty(0)
        return _Batch(names, stamps, known, stacked, places, problems)


def _as_levels(images: Tensor) -> Tensor:
    """Convert images in [0, 1] to 8-bit levels if nothing is lost: a quarter of the memory."""
    levels = (images * 255).round().byte()
    return levels if torch.equal(levels.float() / 255, images) else images


def _write_batch(
    batch: _Batch, masks_of: Recipe, folder: Path, maps: bool, pool: ThreadPoolExecutor
) -> list[Future]:
    """Compute the masks of one batch and, when there are all of them, let threads write them."""

    def note(name: str, problem: str) -> None:
        write_whole(_note_of(folder, name), problem)

    def write(b: int, mask: Tensor, soft: Tensor | None, copied: Callable[[], None]) -> None:
        name = batch.names[b]
        copied()
        try:
            if soft is not None:
                kept = {"classes": batch.labels[b].nonzero()[:, 0], "maps": soft.contiguous()}
                write_whole(place_of(folder, "maps", name, ".safetensors"), save(kept))
            write_whole(place_of(folder, "masks", name), mask_png(mask, batch.stamps[b]))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            note(name, f"the name is too long for a file: {error}")

    noted = [pool.submit(note, *problem) for problem in batch.problems.items()]
    try:
        computed = _compute(batch, masks_of, maps) if batch.names else []
    except (ValueError, RuntimeError) as error:
        if len(batch.names) == 1:
            return [*noted, pool.submit(note, batch.names[0], f"{type(error).__name__}: {error}")]
        # one of them alone may be to blame
        alone = [_write_batch(each, masks_of, folder, maps, pool) for each in batch.alone()]
        return [*noted, *chain.from_iterable(alone)]
    return [*noted, *(pool.submit(write, *results) for results in computed)]


def _compute(
    batch: _Batch, masks_of: Recipe, maps: bool
) -> list[tuple[int, Tensor, Tensor | None, Callable[[], None]]]:
    """Compute the masks of a batch and, if wanted, the maps of the classes present.

    Returns:
        For every image its place in the batch, its mask, its maps (of the classes present, H, W)
        and a function that waits until these have arrived from the GPU.
    """
    device = masks_of.device if isinstance(masks_of, Pipeline) else torch.device("cpu")
    unit = (torch.arange(256) / 255).to(device)  # divided on the CPU: a GPU rounds otherwise
    images = {size: each.to(device, non_blocking=True) for size, each in batch.images.items()}
    for size, each in images.items():
        images[size] = each if each.is_floating_point() else unit[each.int()]
    first = next(iter(images.values()))
    if not isinstance(masks_of, Pipeline):
        masks = masks_of(first, batch.labels)
        return [(b, mask, None, lambda: None) for b, mask in enumerate(masks)]
    labels, results = batch.labels.to(device), []

    def add(places: Sequence[int], masks: Tensor, soft: Tensor, held: Tensor) -> None:
        """Take over masks, as 8 bits, and maps of the classes that each image has."""
        masks, waits = _to_host(masks.byte())
        for b, mask, of_image, kept in zip(places, masks, soft, held > 0, strict=True):
            results.append((b, mask, of_image[kept].half().cpu() if maps else None, waits))

    if masks_of.cell == 1:
        soft, scores = masks_of.maps_and_scores(first, labels)
        add(range(len(first)), masks_of.masks_of(scores, first, labels), soft, labels)
        return results
    fitted = [masks_of.fit(each) for each in images.values()]
    order = torch.tensor([*chain.from_iterable(batch.places.values())])
    with checked():  # images and labels were, when they were read
        cams = masks_of.own_maps(torch.cat(fitted), labels[order])
    check_range("the maps", cams, "look at the weights of the model")
    for (size, places), part in zip(
        batch.places.items(), cams.split([len(each) for each in fitted]), strict=True
    ):
        # only the classes of these images are enlarged; without any, one that is absent
        some = batch.labels[places].any(0).nonzero()[:, 0].to(device)
        some = some if len(some) else some.new_zeros(1)
        held = labels[places][:, some]
        with nullcontext() if callable(masks_of.crf) else checked():
            soft = upsample(part[:, some], size)
            masks = masks_of.masks_of(masks_of.rule.scores(soft), images[size], held)
        values = torch.arange(256, device=device)
        values[1 : 1 + len(some)] = some + 1  # of the classes; background and 255 stay
        add(places, values[masks], soft, held)
    return results


def _to_host(values: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Copy from a GPU by way of pinned memory; return also what waits for the end of it."""
    if not values.is_cuda:
        return values, lambda: None
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event.synchronize
