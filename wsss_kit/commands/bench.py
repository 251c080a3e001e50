"""How fast CLIP-ES is here, against the same written to the letter, on this machine.

Times are noisy, so both sides take turns and what is said is the median of the ratios of
neighbours. Large models have random weights: time does not depend on them.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, cycle, permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.cam import upsample
from wsss_kit.checks import check_count, check_device, check_size
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.commands.runs import run_folder
from wsss_kit.files import write_whole
from wsss_kit.methods.clip_es import CLIPES, literal_maps, refined_maps
from wsss_kit.methods.sc_cam import kmeans
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

IMAGES = 10_582
"""Of VOC's augmented training split, which is what pseudo masks are made for."""
_CLASSES = (1, 3, 5)
_BACKGROUNDS = 25  # CLIP-ES's, for VOC
_BATCH = 16


class Row(NamedTuple):
    """One comparison.

    Args:
        what: is compared.
        ours: seconds, median.
        other: seconds of the other side, median; None where there is none.
        ratio: median over the rounds of the other side's seconds by ours.
        note: what else was seen.
    """

    what: str
    ours: float
    other: float | None = None
    ratio: float | None = None
    note: str = ""

    def __str__(self) -> str:
        other = "" if self.other is None else f"{_seconds(self.other):>10}{self.ratio:>8.1f}x"
        return f"{self.what:<52}{_seconds(self.ours):>10}{other:<19}  {self.note}".rstrip()


def run_bench(
    out: str | Path = "data/runs/bench",
    *,
    model: str = "ViT-B-16-quickgelu",
    size: Sequence[int] = (375, 500),
    rounds: int = 5,
    threads: int = 1,
    device: str = "auto",
) -> dict[str, Row]:
    """Time CLIP-ES and what is built on it, print the table, and write it as JSON.

    Args:
        out: folder of ``bench.json``.
        model: a name of open_clip's, with random weights, or ``"paper"`` for the tiny CLIP.
        size: (H, W) of the image.
        rounds: how often both sides take turns, after one that does not count.
        threads: of the CPU.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA where there is one.

    Returns:
        Name of the row -> `Row`.

    Raises:
        ValueError: if a number is out of range, there is no such model or device, or the folder
            cannot be written to.
    """
    for name, value in (("rounds", rounds), ("threads", threads)):
        check_count(name, value)
    check_size("size", size)
    check_device(device)
    with run_folder(out) as folder, _threads(threads), torch.random.fork_rng():
        torch.manual_seed(0)
        clip = load_clip(model, device=device)
        where = _where(clip.device, threads)
        print(f"{where}\n{model}, {size[1]}x{size[0]} pixels, median of {rounds} rounds\n")
        print(f"{'':<52}{'ours':>10}{'literal':>10}{'':>9}")
        rows = {}
        for row in _rows(clip, tuple(size), rounds):
            rows[row.what] = row
            print(row, flush=True)
        card = {"machine": where, "model": model, "size": list(size), "rounds": rounds}
        card["rows"] = [row._asdict() for row in rows.values()]
        path = write_whole(folder / "bench.json", json.dumps(card, indent=1) + "\n")
        print(f"\n{path} holds the same numbers.")
    return rows


def _rows(clip: FrozenCLIP, size: tuple[int, int], rounds: int) -> Iterator[Row]:
    yield from _images(clip, size, rounds)
    if clip.device.type == "cuda":
        yield from _batches(clip, size, rounds)
    yield _in_bfloat16(clip, size, rounds)
    yield from _edits(clip, size, rounds)
    yield from _edits_of_the_embedded_world(rounds)
    yield _clusters(rounds)


# -- one image ------------------------------------------------------------------------------


def _images(clip: FrozenCLIP, size: tuple[int, int], rounds: int) -> Iterator[Row]:
    """From pixels to refined maps, for several numbers of classes."""
    image, texts = _image(size), _texts(clip, max(_CLASSES) + _BACKGROUNDS)
    backgrounds = texts[max(_CLASSES) :]
    for n in _CLASSES:
        sides = [
            lambda make=make, n=n: make(clip, image, texts[:n], backgrounds)
            for make in (refined_maps, literal_maps)
        ]
        (ours, literal), seconds = _interleaved(sides, rounds, clip.device)
        error = max((a - b).abs().max().item() for a, b in zip(ours, literal, strict=True))
        note = f"largest difference {error:.0e}"
        if n == 3 and clip.device.type == "cuda":
            ours, literal = (_peak(side, clip.device) for side in sides)
            note += f", {ours:.0f} MB above the model, literal {literal:.0f} MB"
        yield _row(f"image to refined maps, {n} class{'es' * (n > 1)}", seconds, note)


def _in_bfloat16(clip: FrozenCLIP, size: tuple[int, int], rounds: int) -> Row:
    """The backbone's products in bfloat16: lossy."""
    image, texts = _image(size), _texts(clip, 3 + _BACKGROUNDS)
    rough = FrozenCLIP(clip.model, window=clip.window, autocast=torch.bfloat16).to(clip.device)
    sides = [
        lambda: refined_maps(rough, image, texts[:3], texts[3:]),
        lambda: literal_maps(clip, image, texts[:3], texts[3:]),
    ]
    (ours, literal), seconds = _interleaved(sides, rounds, clip.device)
    error = (ours.cams - literal.cams).abs().max().item()
    return _row(
        "the same, 3 classes, backbone in bfloat16", seconds, f"LOSSY: maps differ by {error:.0e}"
    )


def _batches(clip: FrozenCLIP, size: tuple[int, int], rounds: int) -> Iterator[Row]:
    """Batches of equal size on a GPU, with what all of VOC would take."""
    images = torch.rand(_BATCH, 3, *size, device=clip.device)
    labels = torch.zeros(_BATCH, 20, device=clip.device)
    labels[torch.arange(_BATCH), torch.arange(_BATCH)] = 1
    labels[::2, 14] = 1  # one and a half classes an image, as in VOC
    texts, one = _texts(clip, 20 + _BACKGROUNDS), _image(size)
    for autocast in (None, torch.float16, torch.bfloat16):
        model = FrozenCLIP(clip.model, window=clip.window, autocast=autocast).to(clip.device)
        method = CLIPES(model, prompts=Prompts.voc())
        method.class_features_, method.background_features_ = texts[:20], texts[20:]
        sides = [
            lambda method=method: method(images, labels),
            lambda: [literal_maps(clip, one, texts[:1], texts[20:]) for _ in range(_BATCH)],
        ]
        _, seconds = _interleaved(sides, rounds, clip.device)
        kind = str(autocast or clip.dtype).removeprefix("torch.")
        rate = _BATCH / statistics.median(seconds[0])
        note = f"{rate:.0f} images a second, {IMAGES:,} in {IMAGES / rate:.0f} s"
        yield _row(f"{_BATCH} images to maps and attention, {kind}", seconds, note)


# -- an open image --------------------------------------------------------------------------


def _edits(clip: FrozenCLIP, size: tuple[int, int], rounds: int) -> Iterator[Row]:
    """Words of an open image against everything again."""
    if clip.unknown_words("swimming pool"):
        return
    names, words = ["cow", "cat", "person"], (f"swimming pool {i}" for i in count())
    for n in (1, 3):
        yield from _edit(clip, Prompts.voc(), _image(size), names[:n], words, rounds)


def _edits_of_the_embedded_world(rounds: int) -> Iterator[Row]:
    clip, prompts = load_clip("paper", device="cpu"), Prompts.paper()
    sample = next(s for s in PaperWorld(20) if s.labels.sum() == 2)
    names = [c for c, on in zip(prompts.classes, sample.labels, strict=True) if on]
    image = _bytes(sample.image)
    looks = ("wooden", "red", "striped", "spotted", "golden", "grey", "plain", "clean")
    words = cycle(" ".join(pair) for pair in permutations(looks, 2))
    yield from _edit(clip, prompts, image, names, words, rounds, where="embedded world, ")


def _edit(
    clip: FrozenCLIP,
    prompts: Prompts,
    image: np.ndarray,
    names: Sequence[str],
    words: Iterator[str],
    rounds: int,
    *,
    where: str = "",
) -> Iterator[Row]:
    method = CLIPES(clip, prompts=prompts).fit()
    start = time.perf_counter()
    opened = method.open(image, names)
    opened.maps()
    ready = time.perf_counter()
    opened.prepare()
    prepared = _seconds(time.perf_counter() - ready)
    note = f"opened in {_seconds(ready - start)}, prepared in {prepared}"
    present = [prompts.classes.index(name) for name in names]
    switches = cycle(prompts.backgrounds)
    classes = f"{len(names)} class{'es' * (len(names) > 1)}"

    def edited() -> Any:  # another word each time, for words are remembered
        return opened.maps(prompts.replace(backgrounds=[*prompts.backgrounds[1:], next(words)]))

    def again() -> Any:
        features = method.class_features_[present], method.background_features_
        return literal_maps(clip, image, *features)

    def switched() -> Any:
        return opened.maps(without=[next(switches)])

    for what, side, said in (
        ("a word edited", edited, note),
        ("a word switched off", switched, ""),
    ):
        _, seconds = _interleaved([side, again], rounds, clip.device)
        yield _row(f"{where}{what}, {classes}", seconds, said)


# -- sub-categories ---------------------------------------------------------------------------


def _clusters(rounds: int) -> Row:
    """SC-CAM's k-means against scikit-learn with as many restarts."""
    from sklearn.cluster import KMeans

    features = torch.randn(600, 1024) + 3 * torch.randn(10, 1024).repeat(60, 1)
    sides = [
        lambda: kmeans(features, 10, restarts=10, seed=0),
        lambda: KMeans(10, n_init=10, random_state=0).fit(features.numpy()),
    ]
    (ours, theirs), seconds = _interleaved(sides, rounds, torch.device("cpu"))
    note = f"other side scikit-learn, inertia {ours.inertia / theirs.inertia_:.3f} of it"
    return _row("k-means, 600 features, k = 10, 10 restarts", seconds, note)


# -- measuring --------------------------------------------------------------------------------


def _interleaved(
    sides: Sequence[Callable[[], Any]], rounds: int, device: torch.device
) -> tuple[list[Any], list[list[float]]]:
    """Let the sides take turns: what each returned last, and its seconds, round by round.

    A first round does not count: it loads, folds and remembers.
    """
    results: list[Any] = [None] * len(sides)
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(1 + rounds):
        for i, side in enumerate(sides):
            _wait(device)
            start = time.perf_counter()
            results[i] = side()
            _wait(device)
            if turn:
                seconds[i].append(time.perf_counter() - start)
    return results, seconds


def _row(what: str, seconds: Sequence[Sequence[float]], note: str) -> Row:
    ours, other = seconds
    ratio = statistics.median(b / a for a, b in zip(ours, other, strict=True))
    return Row(what, statistics.median(ours), statistics.median(other), ratio, note)


def _peak(side: Callable[[], Any], device: torch.device) -> float:
    """Megabytes of GPU memory that a call needs above what is there."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    side()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _image(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: an image of the embedded world, resized."""
    return _bytes(upsample(PaperWorld(1)[0].image[None], size)[0])


def _bytes(image: Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _texts(clip: FrozenCLIP, n: int) -> Tensor:
    width = clip.model.visual.proj.shape[1]
    draw = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(n, width, generator=draw), dim=-1).to(clip.device)


def _where(device: torch.device, threads: int) -> str:
    chip = platform.processor() or platform.machine()
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
    cores = f", {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else ""
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{chip} ({vectors}){cores}, torch {torch.__version__}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
