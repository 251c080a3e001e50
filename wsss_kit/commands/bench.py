"""Measure how fast CLIP-ES is on this machine, beside a literal implementation of the paper.

Times are noisy. Both sides therefore take turns, and a row shows the median of the ratios of
neighbours. Large models have random weights: time does not depend on them.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
from wsss_kit.commands.resources import run_folder
from wsss_kit.files import write_whole
from wsss_kit.methods.clip_es import CLIPES, literal_maps, refined_maps
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

IMAGES = 10_582
"""Of VOC's augmented training split, which is what pseudo masks are made for."""
_BACKGROUNDS = 25  # CLIP-ES's, for VOC
_BATCH = 16


class Row(NamedTuple):
    """One comparison.

    Args:
        what: is compared.
        ours: seconds, median.
        other: seconds of the other side, median.
        ratio: median over the rounds of the other side's seconds by ours.
        note: further figures.
    """

    what: str
    ours: float
    other: float
    ratio: float
    note: str = ""

    def __str__(self) -> str:
        other = f"{_seconds(self.other):>10}{self.ratio:>8.1f}x"
        return f"{self.what:<52}{_seconds(self.ours):>10}{other}  {self.note}".rstrip()


class _Comparison(NamedTuple):
    """Two functions without arguments, and the note on their results and our median seconds."""

    what: str
    ours: Callable[[], Any]
    other: Callable[[], Any]
    note: Callable[[Any, Any, float], str]


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
    check_count("rounds", rounds)
    check_count("threads", threads)
    check_size("size", size)
    check_device(device)
    rows, before = {}, torch.get_num_threads()
    with run_folder(out) as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        try:
            clip = load_clip(model, device=device)
            chip = platform.processor() or platform.machine()
            if clip.device.type == "cuda":
                chip = torch.cuda.get_device_name(clip.device)
            cores = f", {threads} thread{'s' * (threads > 1)}" if clip.device.type == "cpu" else ""
            vectors = torch.backends.cpu.get_cpu_capability()
            where = f"{chip} ({vectors}){cores}, torch {torch.__version__}"
            print(f"{where}\n{model}, {size[1]}x{size[0]} pixels, median of {rounds} rounds\n")
            print(f"{'':<52}{'ours':>10}{'literal':>10}{'':>9}")
            for comparison in _comparisons(clip, tuple(size)):
                rows[comparison.what] = _row(comparison, rounds, clip.device)
                print(rows[comparison.what], flush=True)
        finally:
            torch.set_num_threads(before)
        card = {"machine": where, "model": model, "size": list(size), "rounds": rounds}
        card["rows"] = [row._asdict() for row in rows.values()]
        path = write_whole(folder / "bench.json", json.dumps(card, indent=1) + "\n")
        print(f"\n{path} holds the same numbers.")
    return rows


def _comparisons(clip: FrozenCLIP, size: tuple[int, int]) -> Iterator[_Comparison]:
    yield from _images(clip, size)
    if clip.device.type == "cuda":
        yield from _batches(clip, size)
    if not clip.unknown_words("swimming pool"):
        image, names = _image(size), ["cow", "cat", "person"]
        words = (f"swimming pool {i}" for i in count())
        for n in (1, 3):
            yield from _edits("", clip, Prompts.voc(), image, names[:n], words)
    paper, prompts = load_clip("paper", device="cpu"), Prompts.paper()
    sample = next(s for s in PaperWorld(20) if s.labels.sum() == 2)
    names = [c for c, on in zip(prompts.classes, sample.labels, strict=True) if on]
    looks = ("wooden", "red", "striped", "spotted", "golden", "grey", "plain", "clean")
    words = cycle(" ".join(pair) for pair in permutations(looks, 2))
    yield from _edits("embedded world, ", paper, prompts, _bytes(sample.image), names, words)


def _images(clip: FrozenCLIP, size: tuple[int, int]) -> Iterator[_Comparison]:
    """Compare pixels to refined maps, for several numbers of classes, and once in bfloat16."""
    image, texts = _image(size), _texts(clip, 5 + _BACKGROUNDS)
    rough = FrozenCLIP(clip.model, window=clip.window, autocast=torch.bfloat16).to(clip.device)
    for n, model in ((1, clip), (3, clip), (5, clip), (3, rough)):
        given = image, texts[:n], texts[5:]
        ours, literal = partial(refined_maps, model, *given), partial(literal_maps, clip, *given)

        def note(a: Any, b: Any, _: float, sides: Sequence[Callable] = (ours, literal)) -> str:
            error = max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))
            text = f"largest difference {error:.0e}"
            for what, side in zip(("", "literal "), sides, strict=True):
                if clip.device.type == "cuda":  # memory beside what is allocated already
                    torch.cuda.reset_peak_memory_stats(clip.device)
                    before = torch.cuda.memory_allocated(clip.device)
                    side()
                    peak = (torch.cuda.max_memory_allocated(clip.device) - before) / 1e6
                    text += f", {what}{peak:.0f} MB above the model"
            return text

        lossy = ", backbone in bfloat16 (LOSSY)" if model is rough else ""
        what = f"image to refined maps, {n} class{'es' * (n > 1)}{lossy}"
        yield _Comparison(what, ours, literal, note)


def _batches(clip: FrozenCLIP, size: tuple[int, int]) -> Iterator[_Comparison]:
    """Compare batches of equal size on a GPU, with the time that all of VOC would take."""
    images = torch.rand(_BATCH, 3, *size, device=clip.device)
    labels = torch.eye(_BATCH, 20, device=clip.device)
    labels[::2, 14] = 1  # one and a half classes an image, as in VOC
    texts, one = _texts(clip, 20 + _BACKGROUNDS), _image(size)

    def literal() -> Any:
        return [literal_maps(clip, one, texts[:1], texts[20:]) for _ in range(_BATCH)]

    def note(_: Any, __: Any, seconds: float) -> str:
        each = seconds / _BATCH
        return f"{1 / each:.0f} images a second, {IMAGES:,} in {IMAGES * each:.0f} s"

    for autocast in (None, torch.float16, torch.bfloat16):
        model = FrozenCLIP(clip.model, window=clip.window, autocast=autocast).to(clip.device)
        method = CLIPES(model, prompts=Prompts.voc())
        method.class_features_, method.background_features_ = texts[:20], texts[20:]
        dtype = str(autocast or clip.dtype).removeprefix("torch.")
        what = f"{_BATCH} images to maps and attention, {dtype}"
        yield _Comparison(what, partial(method, images, labels), literal, note)


def _edits(
    where: str,
    clip: FrozenCLIP,
    prompts: Prompts,
    image: np.ndarray,
    names: Sequence[str],
    words: Iterator[str],
) -> Iterator[_Comparison]:
    """Compare an edited background word of an open image with everything computed again."""
    method = CLIPES(clip, prompts=prompts).fit()
    start = time.perf_counter()
    opened = method.open(image, names)
    opened.maps()
    ready = time.perf_counter()
    opened.prepare()
    prepared = _seconds(time.perf_counter() - ready)
    note = f"opened in {_seconds(ready - start)}, prepared in {prepared}"
    texts = method.class_features_[[prompts.classes.index(name) for name in names]]
    again = partial(literal_maps, clip, image, texts, method.background_features_)
    switches, classes = cycle(prompts.backgrounds), f"{len(names)} class{'es' * (len(names) > 1)}"

    def edited() -> Any:  # another word each time, because words are remembered
        return opened.maps(prompts.replace(backgrounds=[*prompts.backgrounds[1:], next(words)]))

    def switched() -> Any:
        return opened.maps(without=[next(switches)])

    yield _Comparison(f"{where}a word edited, {classes}", edited, again, lambda *_: note)
    yield _Comparison(f"{where}a word switched off, {classes}", switched, again, lambda *_: "")


def _row(comparison: _Comparison, rounds: int, device: torch.device) -> Row:
    """Let the two sides take turns. A first round does not count: it loads and remembers."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    results, seconds = [None, None], ([], [])
    for turn in range(1 + rounds):
        for i, side in enumerate((comparison.ours, comparison.other)):
            wait()
            start = time.perf_counter()
            results[i] = side()
            wait()
            if turn:
                seconds[i].append(time.perf_counter() - start)
    ours, other = map(statistics.median, seconds)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    return Row(comparison.what, ours, other, ratio, comparison.note(*results, ours))


def _image(size: tuple[int, int]) -> np.ndarray:
    """Resize an image of the embedded world: (H, W, 3) uint8."""
    return _bytes(upsample(PaperWorld(1)[0].image[None], size)[0])


def _bytes(image: Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _texts(clip: FrozenCLIP, n: int) -> Tensor:
    width = clip.model.visual.proj.shape[1]
    random = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
    return F.normalize(random, dim=-1).to(clip.device)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
