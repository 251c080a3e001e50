"""Training the methods that ship with weights for the embedded world, again from their seed."""

from __future__ import annotations

from collections.abc import Sequence
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
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps

BASE = {"epochs": 6, "learning_rate": 0.02}
"""Of the plain CAM that trained methods start from: trunk and head, end to end."""


def train_base(samples: Sequence[Sample], folder: Path, *, seed: int = 0) -> CAM:
    """The CAM of the embedded world that trained methods start from, resumed from its folder."""
    cam = CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")
    return cam.fit(samples, seed=seed, checkpoint=folder / "cam", **BASE)


def train_paper_clims(
    out: str | Path, *, seed: int = 0, n_train: int = 1000, n_val: int = 100
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
        tensors, card = load_model(clims.save(folder / "clims"))
        halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
        path = save_model(folder / "clims", halves, card)  # measure what is shipped
        card |= {
            "trained_on": f"PaperWorld seed 0, train, {n_train} pictures with image-level labels",
            "seed": seed,
            "base": BASE,
            "measured": {
                "on": f"PaperWorld seed 0, val, {n_val} pictures, no refinement, best constant "
                "background of each",
                "CAM": _score(cam, val),
                "CLIMS": _score(CLIMS.load(path, device="cpu"), val),
            },
        }
        return save_model(path, halves, card)


def _score(method: CAMMethod, val: PaperWorld) -> dict[str, Any]:
    swept = sweep_background(partial(cam_maps, method=method), val, val.masks, rules=CONSTANTS)
    best = best_rule(swept)
    return {"background": str(best), "mean_iou": round(swept[best], 3)}
