"""Every notebook with ``DATA = "folder"``: images of two sizes, without the paper world's doors.

What would be downloaded is replaced by the models of the embedded world, and the data are few.
"""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.commands.voc_layout import build_own
from tests.test_notebooks import NOTEBOOKS, SOURCES, build
from wsss_kit.paperworld import PaperWorld

INSTEAD = """
import wsss_kit.notebook_data as doors
from wsss_kit.clip import load_clip

_real = doors.CAM, doors.AffinityNet, doors.train_segmenter, doors.open_data


def cam(backbone, weights=None, **options):
    return _real[0]("paper", weights="web", preset="clean", scales=(1.0,))


def taught(samples, masks, **options):
    for name in ("network", "backbone", "weights", "loss"):
        options.pop(name, None)
    return _real[2](samples, masks, crop=64, **{**options, "epochs": 1})


def opened(name="paper", n_train=40, n_val=8, n_test=10, **options):
    few = {"n_train": min(n_train, 32), "n_val": min(n_val, 8), "n_test": min(n_test, 10)}
    return _real[3](name, **few, **options)


doors.load_clip = lambda *_, **__: load_clip("paper", device="cpu")
doors.CAM, doors.train_segmenter, doors.open_data = cam, taught, opened
doors.AffinityNet = lambda backbone, **_: _real[1]("paper", weights="web", stride=8)
"""
"""The first cell: stand-ins for ResNet-50, CLIP ViT-B/16 and DeepLab."""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder as a reader would bring it: 120 images of two sizes, labels, masks."""
    return build_own(tmp_path_factory.mktemp("mine"), PaperWorld(120, split="train"))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_runs_on_a_folder(source, mine, monkeypatch):
    monkeypatch.setenv("WSSS_KIT_FOLDER", str(mine))
    notebook = build.read_source(source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (first,) = (cell for cell in code if 'DATA = "paper"' in cell.source)
    first.source = first.source.replace('DATA = "paper"', 'DATA = "folder"')
    notebook.cells.insert(0, nbformat.v4.new_code_cell(INSTEAD))
    where = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()
