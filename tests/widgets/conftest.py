"""A small world and fitted methods for all instruments."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.clip import load_clip
from wsss_kit.evaluation import BackgroundRule, predict_masks
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.plot import overlay
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps, clip_es_maps

MAP_ERROR = 1e-5
"""What two ways to compute a map in [0, 1] may differ by."""


@pytest.fixture(scope="session")
def world():
    return PaperWorld(5, split="val")


@pytest.fixture(scope="session")
def clip_es():
    return CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()


@pytest.fixture(scope="session")
def cam():
    method = CAM("paper", scales=(1.0,), flip=False, device="cpu", weights="web")
    return method.fit(PaperWorld(20), train_backbone=False, epochs=5, progress=False)


@pytest.fixture(scope="session")
def masks_of(cam, clip_es):
    """Function of a world: the masks of both methods."""
    methods = {
        "CAM": partial(cam_maps, method=cam),
        "CLIP-ES": partial(clip_es_maps, method=clip_es),
    }
    rule = BackgroundRule(threshold=0.3)
    return lambda world: {
        m: predict_masks(of, world, rule, shown=False) for m, of in methods.items()
    }


def decoded(png: bytes) -> np.ndarray:
    """(h, w, 3) in [0, 1] of a PNG file."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255


def same(png: bytes, *pixels: np.ndarray) -> bool:
    """Whether a PNG file holds these pixels, rounding aside.

    Args:
        png: the file.
        pixels: (h, w, 3) in [0, 1]; of several, each pixel is compared with the closest.
    """
    result = decoded(png)
    if {each.shape for each in pixels} != {result.shape}:
        return False
    errors = [np.abs(result - each).max(-1) for each in pixels]  # each (h, w)
    return bool((np.min(errors, axis=0) < 1.01 / 255).all())


def shows_map(png: bytes, image: np.ndarray, cam: torch.Tensor, *, alpha: float) -> bool:
    """Whether a PNG file shows this map over its image.

    A colour map has 256 steps, so that a value that is off by a rounding error may fall into the
    next colour. Each pixel has the colour of its value, or of one that is ``MAP_ERROR`` away.
    """
    cams = [cam, *((cam + error).clamp(0, 1) for error in (-MAP_ERROR, MAP_ERROR))]
    return same(png, *(overlay(image, each, alpha=alpha) for each in cams))


def upload(button, name: str, content: bytes) -> None:
    """Open a file by a button, as the browser does: in parts."""
    for part, last in ((content[:9], False), (content[9:], True)):
        button._handle_custom_msg({"name": name, "last": last}, [memoryview(part)])


def file_of(height: int, width: int, form: str = "PNG") -> bytes:
    """A file of a red image."""
    content = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(content, form)
    return content.getvalue()
