"""From an edit to the new image, inside the widget: what a reader waits for."""

import random
import statistics
import time
from functools import partial

import pytest
import torch

from wsss_kit.clip import load_clip
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.widgets import PromptLab


@pytest.mark.filterwarnings("ignore")  # random weights are warned of
@pytest.mark.parametrize(
    ("model", "size", "limit"),
    [("paper", 96, 0.1), pytest.param("ViT-B-16-quickgelu", 500, 0.25, marks=pytest.mark.slow)],
)
def test_the_median_of_fifty_edits(model, size, limit, request):
    """Seconds until another image is on the screen, each edit with a word not said before."""
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)
    prompts = Prompts.paper() if model == "paper" else Prompts.voc()
    sample = PaperWorld(1, split="val", size=size)[0]
    if model != "paper":
        labels = torch.zeros(20)
        labels[[3, 9]] = 1
        sample = sample._replace(image=sample.image[:, :375], labels=labels)  # as large as VOC's
    lab = PromptLab(CLIPES(load_clip(model, device="cpu"), prompts=prompts), [sample])
    dice, seconds, words = random.Random(0), [], prompts.backgrounds
    for i in range(50):
        new = f"{'abcdefghij'[i % 10]}{'klmno'[i // 10]} {dice.choice(words)}"
        text, before = ", ".join([*dice.sample(words, 8), new]), lab.screen.after
        start = time.perf_counter()
        lab.edit("backgrounds", text)
        seconds.append(time.perf_counter() - start)
        assert lab.screen.after != before and not lab.problem
    print(f"median of 50 edits: {1000 * statistics.median(seconds):.0f} ms")
    assert statistics.median(seconds) <= limit
