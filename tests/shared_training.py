"""Trains every method for a moment; `test_processes` runs it alone and in two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.clip import load_clip
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.processes import joined, rank
from wsss_kit.prompts import Prompts
from wsss_kit.segmentation import train_segmenter

WORLD = PaperWorld(5, split="train")  # a batch of four, and one that a single process has
HOW = {"batch_size": 4, "progress": False}


def trained(folder: Path) -> dict[str, list[float]]:
    """Losses of every training, with checkpoints in ``folder``, and sums of what was learned."""
    result: dict[str, list[float]] = {}
    cam = CAM("paper", weights="web", preset="clean", device="cpu")
    start = {"learning_rate": 0.01, "epochs": 2, "checkpoint": folder / "cam"}
    result["CAM"] = cam.fit(WORLD, **start, **HOW).losses_
    cropped = CAM("paper", weights="web", preset="clean", device="cpu")
    views = {"crop": 64, "long_side": (60, 120), "learning_rate": 0.01, "epochs": 2}
    result["crops"] = cropped.fit(WORLD, **views, **HOW).losses_
    alone = CAM("paper", weights="web", preset="clean", device="cpu")
    result["head alone"] = alone.fit(WORLD, train_backbone=False, epochs=3, **HOW).losses_
    sc_cam = SCCAM(cam, n_subcategories=2, rounds=2, preset="clean", device="cpu")
    sc_cam.fit(WORLD, epochs=1, checkpoint=folder / "sc", **HOW)
    result["SC-CAM"] = [value for losses in sc_cam.losses_ for value in losses.values()]
    clip, prompts = load_clip("paper", device="cpu"), Prompts.paper(method="clims")
    clims = CLIMS(clip, cam, prompts=prompts, preset="clean").fit(WORLD, epochs=2, **HOW)
    result["CLIMS"] = [value for losses in clims.losses_ for value in losses.values()]
    released = CLIMS(clip, cam, prompts=prompts, preset="reference")
    released.fit(WORLD, epochs=1, accumulate=2, **HOW)
    result["CLIMS, reference"] = list(released.losses_[0].values())
    net = AffinityNet("paper", device="cpu")
    result["affinity"] = net.fit(WORLD, WORLD.masks, epochs=2, **HOW).losses_
    for loss in ("plain", "balanced"):
        options = {"epochs": 2, "crop": 64, "scales": (0.75, 1.25), "loss": loss, "device": "cpu"}
        segmenter = train_segmenter(WORLD, WORLD.masks, **options, accumulate=2, **HOW)
        result[f"segmenter, {loss}"] = segmenter.losses_
    learned = {"CAM": cam.head_, "SC-CAM": sc_cam.sub_head_, "CLIMS": clims.head_}
    for name, head in learned.items():
        result[f"head of {name}"] = head.detach()[:, :8].flatten().tolist()
    norms = [b for n, b in cam.backbone_.named_buffers() if "running" in n]
    result["statistics"] = torch.cat([b.flatten()[:4] for b in norms]).tolist()
    return result


def main() -> None:
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    with joined("cpu"):
        result = trained(folder)
        (folder / f"{rank()}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
