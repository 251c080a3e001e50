"""Training the methods that ship with weights for the embedded world, again from their seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wsss_kit.classes import Sample
from wsss_kit.clip import load_clip
from wsss_kit.commands.runs import run_folder
from wsss_kit.evaluation import CONSTANTS, best_rule, sweep_background
from wsss_kit.files import load_model, save_model
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM, agreement
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.measures import subtype_labels
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps

BASE = {"epochs": 6, "learning_rate": 0.02}
"""Of the plain CAM that CLIMS starts from: trunk and head, end to end."""

N_SUBTYPES = 3
"""Sub-categories of each class that SC-CAM looks for: as many as there are. If the
number is not known, it has to be chosen; notebook 03 shows the effect of another number."""


def train_base(samples: Sequence[Sample], folder: Path, *, seed: int = 0) -> CAM:
    """The CAM of the embedded world that CLIMS starts from, resumed from its folder."""
    return _new_cam().fit(samples, seed=seed, checkpoint=folder / "cam", **BASE)


def _new_cam() -> CAM:
    return CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")


def train_paper_clims(
    out: str | Path = "data/runs/paper",
    *,
    seed: int = 0,
    n_train: int = 1000,
    n_val: int = 100,
) -> Path:
    """Train a CAM and, from it, CLIMS on the embedded world; resumes where it was stopped.

    Args:
        out: folder of checkpoints, weights and card.
        seed: of weights and order.
        n_train: pictures that both learn from.
        n_val: pictures of ``val`` that both are scored on, for the card.

    Returns:
        The path of the weights, in half precision; ``CLIMS.load`` reads them.

    Raises:
        ValueError: if a number is out of range, or the folder cannot be written to or is in use.
    """
    train, val = PaperWorld(n_train, split="train"), PaperWorld(n_val, split="val")
    with run_folder(out) as folder:
        cam = train_base(train, folder, seed=seed)
        clip, prompts = load_clip("paper", device="cpu"), Prompts.paper(method="clims")
        clims = CLIMS(clip, cam, prompts=prompts, scales=(1.0,), preset="clean")
        clims.fit(train, seed=seed, checkpoint=folder / "clims-training")
        card = {"base": BASE, **_made(seed, n_train)}
        scored = {"CAM": cam, "CLIMS": clims}
        return _ship(folder / "clims", clims, card, scored, val)


def train_paper_sc_cam(
    out: str | Path = "data/runs/paper",
    *,
    seed: int = 0,
    n_train: int = 1000,
    n_val: int = 100,
) -> Path:
    """Train a CAM's head and, from it, SC-CAM on the embedded world; resumes where it was stopped.

    The classifier that gives the first features is a head on the trunk as it comes with the
    package: a trunk that has learned to tell classes apart has begun to forget what parts them.

    Args:
        out: folder of checkpoints, weights and card.
        seed: of weights, order and clusters.
        n_train: pictures that both learn from.
        n_val: pictures of ``val`` that both are scored on, for the card.

    Returns:
        The path of the weights, in half precision; ``SCCAM.load`` reads them.

    Raises:
        ValueError: if a number is out of range, or the folder cannot be written to or is in use.
    """
    train, val = PaperWorld(n_train, split="train"), PaperWorld(n_val, split="val")
    with run_folder(out) as folder:
        cam = _new_cam().fit(train, train_backbone=False, seed=seed)
        sc_cam = SCCAM(cam, n_subcategories=N_SUBTYPES, scales=(1.0,), preset="clean")
        sc_cam.fit(train, seed=seed, checkpoint=folder / "sc-cam-training")
        truth, C = subtype_labels(train), len(train.classes)
        found = [agreement(each, truth, n_classes=C).mean_nmi for each in sc_cam.rounds_]
        card = {
            "base": "a head on the trunk as it comes with the package",
            **_made(seed, n_train),
            "nmi_with_true_subtypes": [round(nmi, 3) for nmi in found],
        }
        scored = {"CAM": cam, "SC-CAM": sc_cam}
        return _ship(folder / "sc-cam", sc_cam, card, scored, val)


def _made(seed: int, n_train: int) -> dict[str, Any]:
    on = f"PaperWorld seed 0, train, {n_train} pictures with image-level labels"
    return {"trained_on": on, "seed": seed}


def _ship(
    path: Path,
    method: CAMMethod,
    made: Mapping[str, Any],
    scored: Mapping[str, CAMMethod],
    val: PaperWorld,
) -> Path:
    """Write a fitted method in half precision, and on its card what is shipped scores.

    Args:
        path: of the weights.
        method: fitted.
        made: how, for the card.
        scored: names of methods for the card; ``method`` is scored as it was written.
        val: what they are scored on.
    """
    tensors, card = load_model(method.save(path))
    halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    path = save_model(path, halves, card)
    written = type(method).load(path, device="cpu")
    on = (
        f"PaperWorld seed 0, val, {len(val)} pictures, no refinement, best constant background of "
        "each"
    )
    measured = {n: _score(written if m is method else m, val) for n, m in scored.items()}
    return save_model(path, halves, {**card, **made, "measured": {"on": on, **measured}})


def _score(method: CAMMethod, val: PaperWorld) -> dict[str, Any]:
    swept = sweep_background(partial(cam_maps, method=method), val, val.masks, rules=CONSTANTS)
    best = best_rule(swept)
    return {"background": str(best), "mean_iou": round(swept[best], 3)}
