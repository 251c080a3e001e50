"""Maps and masks of every method and preset on 20 images of the embedded world, as first recorded.

They were recorded before the package was made smaller. `python -m tests.golden.test_yardstick`
records them again: do that only where a change of a number is meant, and name it in CHANGELOG.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_kit import CAM, CLIMS, CLIPES, SCCAM, PaperWorld, Prompts, load_clip, recipes

FILE = Path(__file__).with_name("yardstick.npz")
N_IMAGES = 20
ROWS = ("cam-clean", "cam-reference", "sc-cam", "clims", "clip-es-clean", "clip-es-reference",
        "clip-es-plus")  # fmt: skip
MAPS_APART = 2e-3
"""Half precision in the file, and the last digits of another processor."""
PIXELS_APART = 1e-3
"""Share of pixels where two scores may be equal but for the last digits."""


@cache
def batch():
    world = PaperWorld(N_IMAGES, split="test")
    samples = [world[i] for i in range(N_IMAGES)]
    return torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])


def recipes_of(row):
    """How a method makes maps, and its masks by name."""
    name, _, preset = row.rpartition("-")
    if name == "cam":
        cam = CAM("paper", weights="web", preset=preset, device="cpu")
        cam.fit(PaperWorld(40), train_backbone=False, seed=0, progress=False)
        maps, masks = (partial(of, method=cam) for of in (recipes.cam_maps, recipes.cam_masks))
        return maps, {"masks": masks}
    if name == "clip-es":
        clip = load_clip("paper", device="cpu")
        method = CLIPES(clip, prompts=Prompts.paper(), preset=preset).fit()
        crf = partial(recipes.clip_es_masks, method=method)
        every = partial(recipes.clip_es_masks, method=method, min_confidence=None)
        return partial(recipes.clip_es_maps, method=method), {"confident": crf, "crf": every}
    known = {"sc-cam": (SCCAM, recipes.sc_cam_masks), "clims": (CLIMS, recipes.clims_masks)}
    variant, masks = known[row]
    method = variant.load("paper", device="cpu")
    plain, crf = (partial(masks, method=method, crf=crf) for crf in (False, True))
    return partial(recipes.cam_maps, method=method), {"masks": plain, "crf": crf}


def outputs(row):
    """Every fourth cell of the maps of the classes present, and whole masks."""
    images, labels = batch()
    maps_of, masks_of = recipes_of(row)
    maps = maps_of(images, labels)[labels > 0][:, ::4, ::4]  # (classes present, 24, 24)
    masks = {f"{row}/{name}": of(images, labels).byte() for name, of in masks_of.items()}
    return {f"{row}/maps": maps.half().contiguous(), **masks}


@pytest.mark.parametrize("row", ROWS)
def test_maps_and_masks_are_those_recorded(row):
    recorded = np.load(FILE)
    for name, result in outputs(row).items():
        expected = torch.from_numpy(recorded[name])
        assert result.shape == expected.shape, name
        if name.endswith("/maps"):
            assert (result.float() - expected.float()).abs().max() <= MAPS_APART, name
        else:
            assert (result != expected).float().mean() <= PIXELS_APART, name


if __name__ == "__main__":
    np.savez_compressed(FILE, **{k: v.numpy() for row in ROWS for k, v in outputs(row).items()})
