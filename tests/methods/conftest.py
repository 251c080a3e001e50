"""The tiny CLIP, which all tests of methods read and none changes."""

from __future__ import annotations

import pytest

from wsss_kit.clip import load_clip


@pytest.fixture(scope="session")
def clip():
    return load_clip("paper", device="cpu")
