"""The first thing to run: every method on the embedded world, offline, on the CPU."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_seed, check_word
from wsss_kit.clip import load_clip
from wsss_kit.commands import run_folder
from wsss_kit.evaluation import (
    CONSTANTS,
    CRF_RULES,
    POWERS,
    Protocol,
    Report,
    choose_rule,
    evaluate,
)
from wsss_kit.masks import MapsOf
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import iou_bars, show_cams, show_masks, show_samples
from wsss_kit.plot.reports import table_text, write_report
from wsss_kit.prompts import Prompts

Scored = tuple[CAMMethod, dict[str, dict[str, Tensor]], dict[str, Report]]
"""A method, and for each of its rows in the table the masks of ``test`` by name and the report."""
_RULES_WITH_CRF = tuple(rule for rule in CRF_RULES if rule.threshold is not None)
"""Powers among them were never the best here, and each rule is a CRF for every image."""


def _plain_cam(train: PaperWorld, seed: int, progress: bool = True) -> CAM:
    cam = CAM("paper", weights="web", scales=(1.0, 1.5), preset="clean", device="cpu")
    return cam.fit(train, train_backbone=False, seed=seed, progress=progress)


def _clip_es() -> CLIPES:
    return CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()


class _Remembered:
    """Maps computed once for each batch: the row with the CRF has those of the row without."""

    def __init__(self, maps_of: MapsOf, stopped: Event) -> None:
        self.maps_of, self.stopped, self.found = maps_of, stopped, {}

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.stopped.is_set():
            raise RuntimeError("the demo was stopped")
        batch = (images.numpy().tobytes(), labels.numpy().tobytes())
        key = hashlib.sha256(b"".join(batch)).digest()
        if key not in self.found:
            self.found[key] = self.maps_of(images, labels)
        return self.found[key]


def run_demo(
    folder: str | Path = "data/runs/demo",
    *,
    seed: int = 0,
    n_train: int = 600,
    n_val: int = 100,
    n_test: int = 200,
) -> dict[str, Report]:
    """Train plain CAM's head, load the other methods, compare masks, write figures and a page.

    Each method is scored without and with the dense CRF; the background rule of each row is chosen
    on ``val``, and the table is over ``test``.

    Args:
        folder: where the classifier, the figures and ``report.html`` go.
        seed: of the world and of the classifier.
        n_train: images that the classifier learns from.
        n_val: images that the background rules are chosen on.
        n_test: images that are scored.

    Returns:
        Row of the table -> report; ``CAM``, ``SC-CAM``, ``CLIMS`` and ``CLIP-ES`` are those with
        the CRF.

    Raises:
        ValueError: if a number is out of range, or the folder cannot be written to or is in use.
    """
    for name, n in (("n_train", n_train), ("n_val", n_val), ("n_test", n_test)):
        check_count(name, n)
    check_seed(seed)
    started = time.monotonic()
    with run_folder(folder) as folder:
        sizes = {"train": n_train, "val": n_val, "test": n_test}
        train, val, test = (PaperWorld(n, split=split, seed=seed) for split, n in sizes.items())
        makers = {  # the slowest first
            "CAM": partial(_plain_cam, train, seed),
            "CLIP-ES": _clip_es,
            "CLIMS": partial(CLIMS.load, "paper", device="cpu"),
            "SC-CAM": partial(SCCAM.load, "paper", device="cpu"),
        }
        scored = _score_all(makers, val, test)
        methods, masks, reports = {}, {}, {}
        for name, (method, masks_of, report_of) in scored.items():
            methods[name] = method
            masks |= masks_of
            reports |= report_of
        methods["CAM"].save(folder / "cam")
        figures = _figures(test, methods, masks, reports)
        page = write_report(
            folder / "report.html",
            beside="figure",
            title="Plain CAM, SC-CAM, CLIMS and CLIP-ES on the embedded world",
            reports=reports,
            figures=figures,
            notes=_notes(*methods.values()),
        )
        print(f"\n{table_text(reports)}\n")
        print(f"{page} shows the table and {len(figures)} figures, which lie beside it as PNG.")
        print("Next: `make lab` (or `jupyter lab`, then notebooks/00_start_here.ipynb).")
        print(f"{time.monotonic() - started:.0f} s with {torch.get_num_threads()} threads")
        return reports


def demo(
    out: str | Path = "data/runs/demo",
    *,
    seed: int = 0,
    images: str | Path | None = None,
    classes: Sequence[str] | None = None,
    clip: str | None = None,
    limit: int | None = None,
) -> None:
    """Run every method on the embedded world, or CLIP-ES on a folder of your own images.

    Args:
        out: folder of the figures and ``report.html``.
        seed: of the world and of the classifier.
        images: folder of images for CLIP-ES, with or without a ``labels.csv``.
        classes: names of classes, for ``images`` without ``labels.csv``.
        clip: for ``images``: ``"paper"`` for the tiny CLIP; None for ViT-B/16.
        limit: for ``images``: only the first so many images; None for 12.

    Raises:
        ValueError: if ``classes``, ``clip`` or ``limit`` are given without ``images``.
    """
    from wsss_kit.commands.photographs import run_own_images

    options: dict[str, Any] = {"classes": classes, "clip": clip, "limit": limit}
    options = {name: value for name, value in options.items() if value is not None}
    if clip is not None:
        check_word("clip", clip, ("ViT-B-16", "paper"))
    if images is not None:
        run_own_images(images, out, **options)
        return
    for name in options:
        raise ValueError(f"--{name} goes with --pictures FOLDER; leave it out, or add that")
    run_demo(out, seed=seed)


def _score_all(
    makers: Mapping[str, Callable[[], CAMMethod]], val: PaperWorld, test: PaperWorld
) -> dict[str, Scored]:
    """Make and score every method, each in a thread: one operation is too small for two.

    Methods and libraries import modules when they are first used. Two threads that import parts of
    one library at the same time can wait for each other, or see a module that is half imported. So
    every method runs once on two images before. Stopped from the keyboard, all threads end with
    the batch that they are at.
    """
    few = PaperWorld(2, split="val")
    for name, make in {**makers, "CAM": partial(_plain_cam, few, 0, progress=False)}.items():
        _score(name, make, few, few, Event(), n_rules=1, shown=False)
    threads, stopped = torch.get_num_threads(), Event()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {n: pool.submit(_score, n, m, val, test, stopped) for n, m in makers.items()}
        return {name: futures[name].result() for name in ("CAM", "SC-CAM", "CLIMS", "CLIP-ES")}
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _score(
    name: str,
    make: Callable[[], CAMMethod],
    val: PaperWorld,
    test: PaperWorld,
    stopped: Event,
    *,
    n_rules: int | None = None,
    shown: bool = True,
) -> Scored:
    """Make a method; return it with its rows without and with the CRF."""
    method, masks, reports = make(), {}, {}
    maps_of = _Remembered(Pipeline(method).maps, stopped)
    rules = {f"{name}, no CRF": CONSTANTS + POWERS, name: _RULES_WITH_CRF}
    for row, crf in zip(rules, (False, True), strict=True):
        pipeline = Pipeline(method, crf=crf)
        options = {"refine": pipeline.refine, "what": row, "shown": shown}
        chosen = choose_rule(maps_of, val, val.masks, test, rules=rules[row][:n_rules], **options)
        stated: dict[str, Any] = {"background": chosen.text, "refinement": pipeline.refinement}
        stated |= {"preset": method.preset, "resolution": f"{test.size}x{test.size}"}
        protocol = Protocol(f"PaperWorld seed {test.seed}", str(test.split), **stated)
        masks[row] = chosen.masks
        reports[row] = evaluate(masks[row], test.masks, classes=test.classes, protocol=protocol)
    return method, masks, reports


def _figures(
    test: PaperWorld,
    methods: Mapping[str, CAMMethod],
    masks: Mapping[str, Mapping[str, Tensor]],
    reports: Mapping[str, Report],
) -> dict:
    """Draw the masks, the IoU of every class, the images and the maps of every method."""
    shown, classes = [test[i] for i in range(min(4, len(test)))], test.classes  # the first four
    columns = {**masks, "ground truth": {sample.name: test.masks[sample.name] for sample in shown}}
    leading = "Masks without and with the dense CRF, and the ground truth."
    figures = {
        leading: show_masks(shown, columns, classes),
        "IoU of every class.": iou_bars(reports),
    }
    title = "Images of the test split with their captions and image-level labels."
    figures[title] = show_samples(shown, classes, test.captions)
    for name, method in methods.items():
        maps_of, present = Pipeline(method).maps, [s.labels for s in shown]
        cams = [maps_of(s.image[None], s.labels[None])[0] for s in shown]
        title = f"{name}: one map for every class that is present."
        figures[title] = show_cams(shown, cams, classes, present)
    return figures


def _notes(cam: CAM, sc_cam: SCCAM, clims: CLIMS, clip_es: CLIPES) -> Sequence[str]:
    """Return the paragraphs of the page."""
    shipped = "weights that come with the package and were trained by `python -m wsss_kit train"
    n_backgrounds = len(clip_es.prompts.backgrounds)
    return (
        "The examples are the first images of the test split, not a choice. Ground truth entered "
        "twice: on val to choose each row's background rule (and, when the tiny CLIP was made, one "
        "tower among several and what its affinity is made of), on test to score.",
        "The dense CRF knows the scores and the image's colours, nothing else. Maps have cells "
        "of 4 pixels (8 with CLIP-ES); the CRF gives masks the edges of the image. "
        "Cut paper has plain colours and sharp edges, so it gains far more here than on "
        "photographs, where CLIP-ES's authors report four points.",
        f"Plain CAM: a linear head trained for {len(cam.losses_)} epochs on image-level labels, on "
        "a small backbone that learned from a tiny CLIP without labels. In its training images "
        "objects mostly stand on their usual background, so it answers to that as well.",
        f"SC-CAM: {shipped} paper-sc-cam`: {len(sc_cam.rounds_)} rounds of clustering each class "
        f"into {sc_cam.k_} sub-categories and of training on these, on 1,000 images of the "
        "training split; the sub-categories' maps are shown.",
        f"CLIMS: {shipped} paper-clims`: a CAM of its own, backbone and head, on 1,000 images of "
        f"the training split, and then {len(clims.losses_)} epochs by what the tiny CLIP sees "
        "where the maps look and where they do not.",
        "CLIP-ES: no training on these images; a tiny CLIP that learned from captions, of whole "
        f"objects and of torn ones, compares each class with {n_backgrounds} background words.",
    )
