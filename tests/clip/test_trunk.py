"""The backbone in reused arrays against open_clip's own blocks; dtypes and image sizes."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

from tests.clip.clips import CLIPS, small_clip
from tests.programs import run_python
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.clip.vision import Backbone

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("keep_attention", [False, True])
@pytest.mark.parametrize("make", CLIPS.values(), ids=CLIPS)
@torch.no_grad()
def test_a_block_is_open_clips(make, keep_attention):
    clip = make()
    x, grid = clip.embed(torch.rand(2, 3, 24, 40, dtype=torch.float64))
    mask = clip.attention_mask(grid)
    backbone, plain = Backbone(x.clone(), mask), x
    for block in clip.blocks:
        y = block.ln_1(plain)
        _, weights = block.attn(y, y, y, need_weights=True, attn_mask=mask)
        before = 0 if backbone.attention is None else backbone.attention.clone()
        backbone.run(block, keep_attention=keep_attention)
        plain = block(plain, attn_mask=mask)
        torch.testing.assert_close(backbone.x, plain)
        if keep_attention:
            torch.testing.assert_close(backbone.attention - before, weights)
    assert keep_attention or backbone.attention is None


def test_autocast_moves_the_attention_a_little():
    images = torch.rand(1, 3, 48, 48)
    plain = load_clip("paper", device="cpu")
    cast = load_clip("paper", device="cpu", autocast=torch.bfloat16)
    assert cast.dtype == torch.float32
    (exact, attention, _), (rough, near, _) = (c.last_block(images) for c in (plain, cast))
    assert rough.embedding.dtype == near.dtype == torch.float32
    assert 0 < (near - attention).abs().max() < 0.05
    torch.testing.assert_close(rough.embedding, exact.embedding, atol=0.1, rtol=0.1)
    assert not torch.equal(rough.embedding, exact.embedding)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((80, 96), None), ((96, 88), (88, 80)), ((400, 8), None), ((8, 2400), (8, 960))],
)
def test_an_image_beyond_the_limit_is_made_smaller_with_a_warning(size, shown):
    """At most 120 cells of 8 pixels, in the image's shape as nearly as whole cells allow."""
    clip = FrozenCLIP(small_clip(quick_gelu=True).model, max_cells=120)
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = clip.fit_to_patches(image)
    assert tuple(fitted.shape[2:]) == (shown or size)
    assert len(caught) == (shown is not None)


MEMORY = """
import re, numpy as np, torch
from tests.clip.clips import small_clip
from wsss_kit.clip import FrozenCLIP
from wsss_kit.methods.clip_es import refined_maps
torch.set_num_threads(1)
vision = {"width": 192, "head_width": 16, "patch_size": 16, "image_size": 224}
clip = FrozenCLIP(small_clip(quick_gelu=True, **vision).model.float())
texts = torch.nn.functional.normalize(torch.randn(13, 12), dim=-1)
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def run(size):
    return refined_maps(clip, np.zeros((*size, 3), np.uint8), texts[:3], texts[3:])
run((160, 160))
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
before = status("VmRSS")
run((800, 800))
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for its peak")
def test_memory_is_that_of_a_few_attention_maps():
    """2,500 cells: a map is 24 MiB; differentiation would keep 12 of the last block and more."""
    assert 24 < float(run_python("-c", MEMORY, cwd=ROOT)) < 14 * 24
