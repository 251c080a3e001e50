"""The same maps on a GPU; run with ``-m gpu`` where there is one."""

import pytest
import torch

from wsss_kit.clip import load_clip
from wsss_kit.methods.clip_es import CLIPES, PRESETS
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


@pytest.mark.parametrize("preset", PRESETS)
def test_maps_are_those_of_the_cpu(preset):
    images, labels = (torch.stack([s[k] for s in PaperWorld(8)]) for k in (1, 2))
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
