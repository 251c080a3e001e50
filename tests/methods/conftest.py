"""Images and a fitted CAM, which tests of methods read and none changes."""

import pytest
import torch

from wsss_kit.methods.cam import CAM
from wsss_kit.paperworld import PaperWorld


@pytest.fixture(scope="session")
def world():
    return PaperWorld(12, split="train", size=32)


@pytest.fixture(scope="session")
def batch(world):
    return torch.stack([s.image for s in world]), torch.stack([s.labels for s in world])


@pytest.fixture(scope="session")
def cam(world, batch):
    created = CAM("paper", weights="web", preset="clean", scales=(1.0,), device="cpu")
    created.fit(world, epochs=8, batch_size=4, learning_rate=0.05, progress=False)
    assert (created(*batch).cams.amax((1, 2, 3)) > 0.99).sum() > 6  # maps that can be compared
    return created
