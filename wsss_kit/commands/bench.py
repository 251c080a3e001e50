"""Time the stages of CLIP-ES on this machine: from a JPEG file to a mask, on a CPU or a GPU.

Times are noisy, so a row is the median over several rounds. Models of open_clip have random
weights: time does not depend on them.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.affinity import balanced_walk, box_masks
from wsss_kit.cam import Texts, upsample
from wsss_kit.checks import check_count, check_device, check_size
from wsss_kit.clip import FrozenCLIP, FrozenModel, load_clip
from wsss_kit.commands import run_folder, usual_batch
from wsss_kit.crf import crf_of_present
from wsss_kit.data.images import mask_png, read_image
from wsss_kit.files import write_whole
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.clip_es.views import SINKHORN, maps_of_view, run_views, scaled
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

_CLASSES, _BACKGROUNDS = 20, 25  # of CLIP-ES for VOC
_MOST_THREADS = 1024  # a system may not start more


def run_bench(
    out: str | Path = "data/runs/bench",
    *,
    model: str = "ViT-B-16-quickgelu",
    size: Sequence[int] = (375, 500),
    batch_size: int | None = None,
    rounds: int = 5,
    threads: int = 1,
    precision: str = "auto",
    device: str = "auto",
) -> dict[str, float]:
    """Time every stage of CLIP-ES, print a table, and write it as JSON.

    The images show one and a half classes on average, as VOC's.

    Args:
        out: folder of ``bench.json``.
        model: a name of open_clip's, with random weights, or ``"paper"`` for the tiny CLIP.
        size: (H, W) of the images.
        batch_size: images that go through together; None for 32 on CUDA and 1 elsewhere.
        rounds: how often each stage is timed, after one run that does not count.
        threads: of the CPU.
        precision: of CLIP, see `load_clip`.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA where there is one.

    Returns:
        Stage -> milliseconds an image; ``"all"`` for the sum of the stages up to the mask, and
        ``"edit"`` for a background prompt edited in an open image.

    Raises:
        ValueError: if a number is out of range, there is no such model or device, or the folder
            cannot be written to.
    """
    check_device(device)
    batch_size = usual_batch(device) if batch_size is None else batch_size
    for name, value in (("batch_size", batch_size), ("rounds", rounds), ("threads", threads)):
        check_count(name, value)
    check_size("size", size)
    if threads > _MOST_THREADS:
        raise ValueError(f"threads is {threads}, expected at most {_MOST_THREADS}")
    before = torch.get_num_threads()
    H, W = size
    with run_folder(out) as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        try:
            clip = load_clip(model, device=device, precision=precision)
            where, rate = _machine(clip.device, threads), _product_rate(clip.device, clip.dtype)
            print(f"{where}\n{model}, {W}x{H} pixels, batches of {batch_size}")
            number = str(clip.dtype).removeprefix("torch.")
            rated = f"matrix products in {number} {rate / 1e12:.2f} TFLOP/s"
            print(f"median of {rounds} rounds; {rated}\n")
            print(f"{'stage':<12}{'ms an image':>14}{'images a second':>18}")
            times, notes = {}, {}
            for stage, run, images in _stages(clip, (H, W), batch_size):
                times[stage] = 1000 * _seconds(run, rounds, clip.device) / images
                if stage == "tower" and isinstance(clip, FrozenCLIP):
                    share = _operations(clip, (H, W)) / (times[stage] / 1000) / rate
                    notes[stage] = f"{100 * share:.0f} % of the rate of matrix products"
                _print(stage, times[stage], notes.get(stage, ""))
            times["all"] = sum(value for stage, value in times.items() if stage != "edit")
            _print("all", times["all"], "one after the other, no stage beside another")
        finally:
            torch.set_num_threads(before)
        card = {"machine": where, "model": model, "size": [H, W], "batch_size": batch_size}
        card["precision"] = number
        card |= {"rounds": rounds, "ms": times, "notes": notes, "peak_mb": _peak(clip.device)}
        path = write_whole(folder / "bench.json", json.dumps(card, indent=1) + "\n")
        peak = "" if card["peak_mb"] is None else f"peak memory {card['peak_mb']:.0f} MB; "
        print(f"\n{peak}{path} holds the same numbers.")
    return times


def _stages(
    clip: FrozenModel, size: tuple[int, int], n: int
) -> Iterator[tuple[str, Callable[[], Any], int]]:
    """Yield every stage with a function that runs it and the number of images it works on."""
    one = upsample(PaperWorld(1)[0].image[None], size)  # (1, 3, H, W)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.jpg"
        pixels = (one[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, quality=95)
        yield "decode", lambda: read_image(file), 1
    images = one.repeat(n, 1, 1, 1).to(clip.device)
    yield "resize", lambda: clip.fit_to_patches(images), n
    fitted = clip.fit_to_patches(images)
    yield "tower", lambda: list(run_views(clip, fitted)), n
    views: Any = run_views(clip, fitted)
    (view,) = views
    labels = torch.eye(_CLASSES)[torch.arange(n) % (_CLASSES - 1)]
    labels[::2, -1] = 1
    width = clip.model.visual.proj.shape[1]
    texts = F.normalize(torch.randn(_CLASSES + _BACKGROUNDS, width), dim=-1).to(clip.device)
    both = Texts(texts, labels.to(clip.device) > 0)
    yield "gradient", lambda: maps_of_view(clip, view, both), n
    cams = view.attention.new_zeros(n, _CLASSES, *view.grid)
    cams[both.present] = scaled(maps_of_view(clip, view, both)[0])
    yield "boxes", lambda: box_masks(cams, threshold=0.4), n
    walk = {"sinkhorn": SINKHORN, "squarings": clip.walk_squarings}
    yield "affinity", lambda: balanced_walk(cams, view.attention, **walk), n
    rule = BackgroundRule(power=1)

    def enlarge() -> tuple[Tensor, Tensor]:
        scores = rule.scores(upsample(cams, size))
        return scores, scores.argmax(1)

    yield "enlarge", enlarge, n
    scores, masks = enlarge()
    yield "CRF", lambda: crf_of_present(scores, images, labels.to(scores.device)), n
    yield "encode", lambda: mask_png(masks[0]), 1
    if not clip.unknown_words("swimming pool"):
        method = CLIPES(clip, prompts=Prompts.voc()).fit()
        opened = method.open(one[0], ["cow", "cat"]).prepare()
        edits = (
            method.prompts.replace(backgrounds=[*method.prompts.backgrounds[1:], f"pool {i}"])
            for i in range(10**6)
        )
        yield "edit", lambda: opened.maps(next(edits)), 1


def _operations(clip: FrozenCLIP, size: tuple[int, int]) -> float:
    """Compute the operations of the tower's matrix products for an image of a size (H, W)."""
    (H, W), visual = clip.shown_size(torch.empty(1, 3, *size)), clip.model.visual
    tokens, width = 1 + H * W // clip.patch_size**2, visual.proj.shape[0]
    weights = sum(p.numel() for block in clip.blocks for p in block.parameters() if p.ndim == 2)
    return tokens * (2 * weights + 4 * len(clip.blocks) * tokens * width)


def _seconds(run: Callable[[], Any], rounds: int, device: torch.device) -> float:
    """Time a function: the median over the rounds, after one that loads and remembers."""
    times = []
    for _ in range(1 + rounds):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations a second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * len(a) ** 3 / _seconds(lambda: a @ a, 3, device)


def _machine(device: torch.device, threads: int) -> str:
    version = f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {version}"
    vectors = torch.backends.cpu.get_cpu_capability()
    cores = f"{threads} thread{'s' * (threads > 1)}"
    return f"{platform.processor() or platform.machine()} ({vectors}), {cores}, {version}"


def _peak(device: torch.device) -> float | None:
    """Return the highest memory so far in MB: on a GPU of its arrays, else of the process.

    None where the system does not say it, as Windows.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # in bytes, or in kilobytes


def _print(stage: str, milliseconds: float, note: str) -> None:
    line = f"{stage:<12}{milliseconds:>14.2f}{1000 / milliseconds:>18.1f}  {note}"
    print(line.rstrip(), flush=True)
