"""The first thing to run: every method on the embedded world, offline, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.clip import load_clip
from wsss_kit.commands.runs import run_folder
from wsss_kit.crf import crf_of_present
from wsss_kit.evaluation import Report, score_chosen_rule
from wsss_kit.evaluation.background import MapsOf, Refine
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.plot import iou_bars, save_figure, show_cams, show_masks, show_samples
from wsss_kit.plot.page import table_text, write_report
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps, clip_es_crf, clip_es_maps

_EXAMPLES = 4  # the first pictures of the test split: not chosen


class _Row(NamedTuple):
    """What a row of the table does with the pictures, and what its protocol says of it."""

    maps_of: MapsOf
    refine: Refine | None
    refinement: str
    preset: str


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
        n_train: pictures that the classifier learns from.
        n_val: pictures that the background rules are chosen on.
        n_test: pictures that are scored.

    Returns:
        Row of the table -> report; ``CAM``, ``SC-CAM``, ``CLIMS`` and ``CLIP-ES`` are those with
        the CRF.

    Raises:
        ValueError: if a number is out of range, or the folder cannot be written to or is in use.
    """
    for name, n in (("n_train", n_train), ("n_val", n_val), ("n_test", n_test)):
        check_count(name, n)
    check_count("seed", seed, least=0)
    with run_folder(folder) as folder:
        return _run(folder, seed, n_train=n_train, n_val=n_val, n_test=n_test)


def _run(folder: Path, seed: int, *, n_train: int, n_val: int, n_test: int) -> dict[str, Report]:
    started = time.monotonic()
    train, val, test = (
        PaperWorld(n, split=split, seed=seed)
        for n, split in ((n_train, "train"), (n_val, "val"), (n_test, "test"))
    )
    cam = CAM("paper", weights="web", scales=(1.0, 1.5), preset="clean", device="cpu")
    cam.fit(train, train_backbone=False, seed=seed).save(folder / "cam")
    clip_es = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
    sc_cam, clims = SCCAM.load("paper", device="cpu"), CLIMS.load("paper", device="cpu")
    maps = {
        "CAM": partial(cam_maps, method=cam),
        "SC-CAM": partial(cam_maps, method=sc_cam),
        "CLIMS": partial(cam_maps, method=clims),
        "CLIP-ES": partial(clip_es_maps, method=clip_es),
    }
    walked, released_crf = "attention affinity", partial(clip_es_crf, method=clip_es)
    rows = {
        "CAM, no CRF": _Row(maps["CAM"], None, "none", cam.preset),
        "CAM": _Row(maps["CAM"], crf_of_present, "dense CRF", cam.preset),
        "SC-CAM, no CRF": _Row(maps["SC-CAM"], None, "none", sc_cam.preset),
        "SC-CAM": _Row(maps["SC-CAM"], crf_of_present, "dense CRF", sc_cam.preset),
        "CLIMS, no CRF": _Row(maps["CLIMS"], None, "none", clims.preset),
        "CLIMS": _Row(maps["CLIMS"], crf_of_present, "dense CRF", clims.preset),
        "CLIP-ES, no CRF": _Row(maps["CLIP-ES"], None, walked, clip_es.preset),
        "CLIP-ES": _Row(maps["CLIP-ES"], released_crf, f"{walked}, dense CRF", clip_es.preset),
    }
    masks, reports = {}, {}
    for name, row in rows.items():
        masks[name], reports[name] = score_chosen_rule(
            row.maps_of,
            val,
            test,
            preset=row.preset,
            refine=row.refine,
            refinement=row.refinement,
            what=name,
        )
    figures = _figures(test, maps, masks, reports)
    for i, figure in enumerate(figures.values()):
        save_figure(figure, folder / f"figure-{i + 1}.png")
    page = write_report(
        folder / "report.html",
        title="Plain CAM, SC-CAM, CLIMS and CLIP-ES on the embedded world",
        reports=reports,
        figures=figures,
        notes=_notes(cam, sc_cam, clims, clip_es),
    )
    print(f"\n{table_text(reports)}\n")
    print(f"{page} shows the table and {len(figures)} figures, which lie beside it as PNG.")
    print("Next: `make lab` (or `jupyter lab`, then notebooks/00_start_here.ipynb).")
    print(f"{time.monotonic() - started:.0f} s with {torch.get_num_threads()} threads")
    return reports


def _figures(
    test: PaperWorld,
    maps: dict[str, MapsOf],
    masks: dict[str, dict[str, Tensor]],
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
    figures["Masks without and with the dense CRF, and the ground truth."] = show_masks(
        shown, {**masks, "ground truth": truth}, test.classes
    )
    figures["IoU of every class."] = iou_bars(reports)
    return figures


def _notes(cam: CAM, sc_cam: SCCAM, clims: CLIMS, clip_es: CLIPES) -> Sequence[str]:
    return (
        "The examples are the first pictures of the test split, not a choice. Ground truth entered "
        "twice: on val to choose each row's background rule (and, when the tiny CLIP was made, one "
        "tower among several and what its affinity is made of), on test to score.",
        "The dense CRF knows the scores and the picture's colours, nothing else. Maps have cells "
        "of 4 pixels (8 with CLIP-ES); the CRF gives masks the edges of the picture. "
        "Cut paper has plain colours and sharp edges, so it gains far more here than on "
        "photographs, where CLIP-ES's authors report four points.",
        f"Plain CAM: a linear head trained for {len(cam.losses_)} epochs on image-level labels, on "
        "a small trunk that learned from a tiny CLIP without labels. In its training pictures "
        "objects mostly stand on their usual background, so it answers to that as well.",
        "SC-CAM: weights that come with the package and were trained by `python -m wsss_kit train "
        f"paper-sc-cam`: {len(sc_cam.rounds_)} rounds of clustering each class into {sc_cam.k_} "
        "sub-categories and of training on these, on 1,000 pictures of the training split; the "
        "sub-categories' maps are shown.",
        "CLIMS: weights that come with the package and were trained by `python -m wsss_kit train "
        "paper-clims`: a CAM of its own, trunk and head, on 1,000 pictures of the training split, "
        f"and then {len(clims.losses_)} epochs by what the tiny CLIP sees where the maps look and "
        "where they do not.",
        "CLIP-ES: no training on these pictures; a tiny CLIP that learned from captions, of whole "
        "objects and of torn ones, compares "
        f"each class with {len(clip_es.prompts.backgrounds)} background words.",
    )
