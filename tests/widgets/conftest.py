"""A small world and fitted methods for all instruments."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from wsss_kit.clip import load_clip
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts


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


def decoded(png: bytes) -> np.ndarray:
    """(h, w, 3) in [0, 1] of a PNG file."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255


def same(png: bytes, pixels: np.ndarray) -> bool:
    """Whether a PNG file holds these pixels, rounding aside."""
    found = decoded(png)
    return found.shape == pixels.shape and np.abs(found - pixels).max() < 1.01 / 255
