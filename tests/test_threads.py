"""Threads never import: two that import parts of one library at once can end in a deadlock."""

import pytest

from tests.commands.voc_layout import build_voc
from tests.programs import run_python

WATCHED = """
import sys, threading

imported = []

def watch(event, arguments):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        imported.append(arguments[0])

sys.addaudithook(watch)
import torch

torch.set_num_threads(4)  # as on a machine with four cores, whatever this one has
"""
DEMO = """
from wsss_kit.commands import demo

demo._figures = lambda *_: {{}}  # drawn after the threads have ended
demo.run_demo({out!r}, n_train=8, n_val=2, n_test=2)
"""
CHECK = """
from wsss_kit.commands.download import run_check

run_check("voc", root={root!r}, workers=4)
"""
MASKS = """
from wsss_kit.commands.masks import run_masks

run_masks("clip-es", {out!r}, root={root!r}, clip="paper", workers=4)
"""
AT_THE_END = """
assert not imported, f"threads imported {sorted(set(imported))[:10]}"
"""


@pytest.mark.parametrize("command", [*[DEMO] * 3, CHECK, MASKS])
def test_threads_of_the_demo_and_those_that_read_images_import_nothing(command, tmp_path):
    root = build_voc(tmp_path / "VOC2012")
    code = WATCHED + command.format(root=str(root), out=str(tmp_path / "out")) + AT_THE_END
    printed = run_python("-c", code, timeout=300)
    assert command != DEMO or "4 threads" in printed
