"""Short trainings of every kind; `test_engine` stops them, `test_processes` shares them.

``python -m tests.trainings FOLDER NAME`` runs one with a checkpoint in a folder, for tests that
start processes. ``WSSS_KIT_TEST_DEVICE=cuda`` runs them on a GPU, in mixed precision.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from wsss_kit import engine
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.clip import load_clip
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.pretrain import Pretraining
from wsss_kit.paperworld.tiny_clip import tie_keys
from wsss_kit.processes import joined, rank
from wsss_kit.prompts import Prompts
from wsss_kit.segmentation import train_segmenter

DEVICE = os.environ.get("WSSS_KIT_TEST_DEVICE", "cpu")
WORLD = PaperWorld(6, split="train", size=64)
HOW = {"batch_size": 4, "progress": False, "seed": 3}
ON = {"weights": "web", "device": DEVICE}


@cache
def start() -> CAM:
    """A fitted CAM, to start from."""
    return CAM("paper", **ON, preset="clean").fit(WORLD, train_backbone=False, **HOW)


def cam(checkpoint=None, preset="clean", **options):
    options = {"epochs": 2, "learning_rate": 0.01, **HOW, **options}
    return CAM("paper", **ON, preset=preset).fit(WORLD, checkpoint=checkpoint, **options)


def sc_cam(checkpoint=None, preset="clean", epochs=(1, 2)):
    method = SCCAM("paper", **ON, n_subcategories=2, rounds=2, preset=preset)
    # a number of epochs a round, and a classifier of its own before them
    options = {"epochs": list(epochs), "baseline": {"epochs": 2, "batch_size": 4}, **HOW}
    return method.fit(WORLD, checkpoint=checkpoint, **options)


def clims(checkpoint=None, preset="clean", **options):
    prompts = Prompts.paper(method="clims")
    method = CLIMS(load_clip("paper", device=DEVICE), start(), prompts=prompts, preset=preset)
    return method.fit(WORLD, checkpoint=checkpoint, **{"epochs": 2, **HOW, **options})


def affinity(checkpoint=None, preset="clean", **options):
    net = AffinityNet("paper", **ON, radius=3, preset=preset)  # 5 leaves no inner pair of 8 cells
    return net.fit(WORLD, WORLD.masks, checkpoint=checkpoint, epochs=2, **HOW, **options)


def segmenter(checkpoint=None, **options):
    options = {"epochs": 3, "crop": 48, "scales": (0.75, 1.25), "device": DEVICE, **HOW, **options}
    return train_segmenter(WORLD, WORLD.masks, checkpoint=checkpoint, **options)


class Tiny(nn.Module):
    """A backbone at stride 8 with batch normalisation and dropout."""

    out_channels, stride = 6, 8

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 4, 4, 4)
            self.body = nn.Sequential(nn.Conv2d(4, 6, 2, 2, bias=False), nn.BatchNorm2d(6))

    def forward(self, images):
        return nn.functional.dropout(self.body(self.stem(images)).relu(), 0.1, self.training)


def own_module(checkpoint=None):
    options = {"epochs": 3, "learning_rate": 0.01, **HOW}
    return CAM(Tiny().to(DEVICE), preset="clean").fit(WORLD, checkpoint=checkpoint, **options)


def deeplab(checkpoint=None, **options):
    options = {"iterations": 3, "batch_size": 2, "accumulate": 2, "epochs": None, **options}
    return segmenter(checkpoint, network="deeplab_v2", backbone=Tiny().to(DEVICE), **options)


def tiny_clip(checkpoint=None):
    run = Pretraining(checkpoint or "", device=DEVICE, steps=4, batch=4, workers=0, fall=0.5)
    if checkpoint is not None:
        return run.run()
    run.losses_ = engine.fit(run, run.data(), run.recipe(), what="tiny CLIP")
    tie_keys(run.model)
    return run


TRAININGS: dict[str, Callable] = {
    "CAM": cam,
    "CAM, reference": partial(cam, preset="reference"),
    "CAM, crops": partial(cam, crop=48, long_side=(40, 90)),
    "CAM, head alone": partial(cam, train_backbone=False, epochs=3),
    "CAM, own module": own_module,
    "SC-CAM": sc_cam,
    "CLIMS": clims,
    "CLIMS, parts": partial(clims, batch_size=2, accumulate=2),
    "affinity": affinity,
    "affinity, reference": partial(affinity, preset="reference", train_backbone=False),
    "segmenter": segmenter,
    "segmenter, balanced": partial(segmenter, loss="balanced", accumulate=2),
    "DeepLab": deeplab,
    "tiny CLIP": tiny_clip,
}


LONG = {
    "CAM": partial(cam, epochs=40),
    "SC-CAM": partial(sc_cam, epochs=(15, 15)),
    "CLIMS": partial(clims, epochs=12),
    "DeepLab": partial(deeplab, iterations=60),
}
"""Those that are killed at random moments."""


def state_of(trained: nn.Module) -> dict[str, torch.Tensor]:
    """All weights and statistics."""
    return {name: value.clone() for name, value in trained.state_dict().items()}


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    with joined(DEVICE):
        if name == "all":
            result = {}
            for each in SHARED:
                trained = TRAININGS[each](folder / each)
                sums = [value.double().sum().item() for value in state_of(trained).values()]
                result[each] = {"losses": trained.losses_, "sums": sums}
            (folder / f"{rank()}.json").write_text(json.dumps(result))
        else:
            engine.SAVE_AFTER = -1  # a checkpoint after every step
            trained = {**TRAININGS, **LONG}[name](folder / "run")
            torch.save(state_of(trained), folder / "state.pt")


SHARED = (
    *("CAM", "CAM, reference", "CAM, crops", "CAM, head alone"),
    *("SC-CAM", "CLIMS", "affinity", "segmenter, balanced"),
)
"""Those that two processes share."""

if __name__ == "__main__":
    main()
