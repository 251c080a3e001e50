"""The same maps on a GPU; run with ``-m gpu`` where there is one."""

from __future__ import annotations

import pytest
import torch

from tests.methods.clip_es.literal import literal_maps
from wsss_kit.clip import load_clip
from wsss_kit.methods.clip_es import CLIPES, PRESETS, refined_maps
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


def batch():
    samples = list(PaperWorld(8))
    return torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])


@pytest.mark.parametrize("preset", PRESETS)
def test_maps_are_those_of_the_cpu(preset):
    images, labels = batch()
    cpu, gpu = (
        CLIPES(load_clip("paper", device=d), prompts=Prompts.paper(), preset=preset).fit()
        for d in ("cpu", "cuda")
    )
    for ours, theirs in zip(gpu(images, labels), cpu(images, labels), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)
    opened = gpu.open(images[0], labels[0]).prepare()
    result = opened.maps().cams.cpu()
    torch.testing.assert_close(
        result, gpu(images[:1], labels[:1]).cams[0, labels[0] > 0], atol=1e-3, rtol=0
    )


def test_the_fast_way_is_the_literal_one():
    clip = load_clip("paper", device="cuda")
    texts = clip.encode_text(["a cow", "a cat", "grass", "sky"])
    image = PaperWorld(1)[0].image
    result, literal = (
        make(clip, image, texts[:2], texts[2:]) for make in (refined_maps, literal_maps)
    )
    for a, b in zip(result, literal, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
