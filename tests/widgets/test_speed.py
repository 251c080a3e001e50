"""From an edit to the new image, inside the widget: what a reader waits for."""

from __future__ import annotations

import random
import statistics
import time

import pytest
import torch

from wsss_kit.clip import load_clip
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.widgets import PromptLab

EDITS = 50


@pytest.fixture
def one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def median_of_edits(lab, words):
    """Seconds until another image is on the screen, each edit with a word not said before."""
    dice, seconds = random.Random(0), []
    for i in range(EDITS):
        new = f"{'abcdefghij'[i % 10]}{'klmno'[i // 10]} {dice.choice(words)}"
        text = ", ".join([*dice.sample(words, 8), new])
        before = lab.screen.after
        start = time.perf_counter()
        lab.edit("backgrounds", text)
        seconds.append(time.perf_counter() - start)
        assert lab.screen.after != before and not lab.problem
    print(f"median of {EDITS} edits: {1000 * statistics.median(seconds):.0f} ms")
    return statistics.median(seconds)


def test_an_edit_in_the_embedded_world(one_core):
    world = PaperWorld(2, split="val")
    method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper())
    lab = PromptLab(method, world, world.masks)
    assert median_of_edits(lab, method.prompts.backgrounds) <= 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # random weights are warned of
def test_an_edit_with_the_shape_of_vit_b_16(one_core):
    clip = load_clip("ViT-B-16-quickgelu", device="cpu")
    sample = PaperWorld(1, split="val", size=500)[0]
    labels = torch.zeros(20)
    labels[[3, 9]] = 1
    image = sample.image[:, :375]  # 500x375, as VOC's are
    lab = PromptLab(
        CLIPES(clip, prompts=Prompts.voc()), [sample._replace(image=image, labels=labels)]
    )
    assert median_of_edits(lab, lab.prompts.backgrounds) <= 0.25
