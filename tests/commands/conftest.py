"""The small VOC that commands are tried on."""

import pytest

from tests.commands.voc_layout import build_voc


@pytest.fixture
def voc(tmp_path):
    return build_voc(tmp_path / "VOC2012")
