"""The first thing to run: both methods on the embedded world, offline, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from wsss_kit.clip import load_clip
from wsss_kit.evaluation import Protocol, Report, evaluate
from wsss_kit.evaluation.background import (
    BackgroundRule,
    MapsOf,
    best_rule,
    predict_masks,
    sweep_background,
)
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.plot import iou_bars, save_figure, show_cams, show_masks, show_samples
from wsss_kit.plot.page import table_text, write_report
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps, clip_es_maps

_EXAMPLES = 4  # the first pictures of the test split: not chosen


def run_demo(
    folder: str | Path = "data/runs/demo",
    *,
    seed: int = 0,
    n_train: int = 600,
    n_val: int = 100,
    n_test: int = 200,
) -> dict[str, Report]:
    """Train plain CAM's head, load the tiny CLIP, compare their masks, write figures and a page.

    The background rule of each method is chosen on ``val`` and the table is over ``test``.

    Args:
        folder: where the classifier, the figures and ``report.html`` go.
        seed: of the world and of the classifier.
        n_train: pictures that the classifier learns from.
        n_val: pictures that the background rules are chosen on.
        n_test: pictures that are scored.

    Returns:
        Method -> report.
    """
    started, folder = time.monotonic(), Path(folder)
    train, val, test = (
        PaperWorld(n, split=split, seed=seed)
        for n, split in ((n_train, "train"), (n_val, "val"), (n_test, "test"))
    )
    cam = CAM("paper", weights="web", scales=(1.0, 1.5), preset="clean", device="cpu")
    cam.fit(train, train_backbone=False, seed=seed).save(folder / "cam")
    clip_es = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
    methods = {
        "CAM": (partial(cam_maps, method=cam), "none", "clean"),
        "CLIP-ES": (partial(clip_es_maps, method=clip_es), "attention affinity", "reference"),
    }
    reports, masks = {}, {}
    for name, (maps_of, refinement, preset) in methods.items():
        rule = best_rule(sweep_background(maps_of, val, val.masks, what=f"{name}, rule on val"))
        masks[name] = predict_masks(maps_of, test, rule, what=f"{name}, masks on test")
        reports[name] = _score(masks[name], test, rule, refinement, preset, n_val)
    figures = _figures(test, {name: values[0] for name, values in methods.items()}, masks, reports)
    for i, figure in enumerate(figures.values()):
        save_figure(figure, folder / f"figure-{i + 1}.png")
    page = write_report(
        folder / "report.html",
        title="Plain CAM and CLIP-ES on the embedded world",
        reports=reports,
        figures=figures,
        notes=_notes(cam, clip_es),
    )
    print(f"\n{table_text(reports)}\n")
    print(f"{page} shows the table and {len(figures)} figures, which lie beside it as PNG.")
    print("Next: `make lab` (or `jupyter lab notebooks/00_start_here.ipynb`) opens the notebooks.")
    print(f"{time.monotonic() - started:.0f} s with {torch.get_num_threads()} threads")
    return reports


def _score(
    masks: dict[str, torch.Tensor],
    test: PaperWorld,
    rule: BackgroundRule,
    refinement: str,
    preset: str,
    n_val: int,
) -> Report:
    protocol = Protocol(
        f"PaperWorld seed {test.seed}",
        test.split,
        resolution=f"{test.size}x{test.size}",
        background=f"{rule}, chosen on {n_val} val pictures",
        refinement=refinement,
        preset=preset,
    )
    return evaluate(masks, test.masks, classes=test.classes, protocol=protocol)


def _figures(
    test: PaperWorld,
    maps: dict[str, MapsOf],
    masks: dict[str, dict[str, torch.Tensor]],
    reports: dict[str, Report],
) -> dict:
    shown = [test[i] for i in range(_EXAMPLES)]
    figures = {
        "Pictures of the test split with their captions and image-level labels.": show_samples(
            shown, test.classes, test.captions
        )
    }
    for name, maps_of in maps.items():
        cams = [maps_of(s.image[None], s.labels[None])[0] for s in shown]
        figures[f"{name}: one map for every class that is present."] = show_cams(
            shown, cams, test.classes, [s.labels for s in shown]
        )
    truth = {sample.name: test.masks[sample.name] for sample in shown}
    figures["Masks after the background rule, and the ground truth."] = show_masks(
        shown, {**masks, "ground truth": truth}, test.classes
    )
    figures["IoU of every class."] = iou_bars(reports)
    return figures


def _notes(cam: CAM, clip_es: CLIPES) -> Sequence[str]:
    return (
        "The examples are the first pictures of the test split, not a choice. Ground truth entered "
        "twice: on val to choose each method's background rule, on test to score.",
        f"Plain CAM: a linear head trained for {len(cam.losses_)} epochs on image-level labels, on "
        "a small trunk that learned from the tiny CLIP without labels. In its training pictures "
        "objects mostly stand on their usual background, so it answers to that as well.",
        "CLIP-ES: no training on these pictures; a tiny CLIP that learned from captions compares "
        f"each class with {len(clip_es.prompts.backgrounds)} background words.",
    )
