"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

from wsss_kit.clip import FrozenCLIP, load_clip

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers share the cores, and so do the processes they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def rng() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def clip() -> FrozenCLIP:
    """The tiny CLIP, which no test changes."""
    return load_clip("paper", device="cpu")


@pytest.fixture(scope="session")
def voc_root() -> Path:
    """Folder of PASCAL VOC images, named by the environment variable WSSS_KIT_VOC."""
    named = os.environ.get("WSSS_KIT_VOC")
    if not named:
        pytest.skip("WSSS_KIT_VOC is not set; set it to a folder with VOC's JPEGImages/")
    root = Path(named).expanduser()
    if not root.is_dir():
        pytest.fail(f"WSSS_KIT_VOC is {named!r}, expected an existing folder; unset it to skip")
    return root


collect_ignore = ["golden/compare_released.py"]
