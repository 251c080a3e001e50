"""What goes past the paper, each by itself: values, class distributions, sizes."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from tests.clip.clips import CLIPS
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.methods.clip_es import CLIPES, PRESETS
from wsss_kit.methods.clip_es.views import TAU, similarity_of_classes
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts


@pytest.fixture(scope="module")
def batch():
    samples = list(PaperWorld(4))
    return torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("make", CLIPS.values(), ids=CLIPS)
@torch.no_grad()
def test_similarity_of_values(make, n_layers):
    """Softmax of values times values, by open_clip's own projections, block by block."""
    clip, images = make(), torch.rand(2, 3, 24, 40, dtype=torch.float64)
    x, grid = clip.embed(images)
    mask, maps = clip.attention_mask(grid), []
    for block in clip.blocks:
        D, heads = x.shape[2], block.attn.num_heads
        weight, bias = block.attn.in_proj_weight[2 * D :], block.attn.in_proj_bias[2 * D :]
        values = torch.nn.functional.linear(block.ln_1(x), weight, bias)
        v = values.unflatten(2, (heads, -1)).transpose(1, 2)  # (B, heads, T, d)
        logits = v @ v.mT / v.shape[-1] ** 0.5
        maps.append((logits if mask is None else logits + mask).softmax(-1).mean(1)[:, 1:, 1:])
        x = block(x, attn_mask=mask)
    expected = torch.stack(maps[-n_layers:]).mean(0)
    last, result, _ = clip.last_block(images, n_layers=n_layers, similarity="values")
    torch.testing.assert_close(result, expected)
    plain, attention, _ = clip.last_block(images, n_layers=n_layers)
    torch.testing.assert_close(last.embedding, plain.embedding)  # what passes is as it was
    assert not torch.allclose(result, attention, atol=1e-3)
    assert clip.last_block(images, similarity=None)[1] is None


def test_patches_are_what_the_embedding_is_the_mean_of():
    clip = CLIPS["QuickGELU"]()
    last, _, _ = clip.last_block(torch.rand(2, 3, 24, 40, dtype=torch.float64))
    assert last.patches.shape == (2, 15, 12)
    torch.testing.assert_close(last.patches.mean(1), last.embedding)


def test_similarity_of_classes_against_scipy(rng):
    logits = 4 * torch.randn(9, 5, generator=rng)
    probs = logits.double().softmax(1).numpy()
    result = similarity_of_classes(logits)
    for i in range(9):
        divergence = [jensenshannon(probs[i], other, base=2) ** 2 for other in probs]
        row = ((1 - torch.tensor(divergence)) / TAU).softmax(0)
        torch.testing.assert_close(result[i], row.float(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(result.sum(1), torch.ones(9))


def test_large_images_are_compared_a_few_rows_at_a_time(rng):
    logits = torch.randn(3000, 3, generator=rng)
    result = similarity_of_classes(logits)  # more entries than go together
    part = similarity_of_classes(logits[:40])
    ratio = result[:40, :40] / part  # rows are normalised over more cells
    torch.testing.assert_close(ratio, ratio[:, :1].expand(40, 40), atol=1e-4, rtol=1e-3)


def test_maps_of_several_sizes_are_averaged(clip, batch):
    images, labels = batch[0][:1, :, :72], batch[1][:1]
    options = {"prompts": Prompts.paper(), "preset": "clean", "flip": False}
    method = CLIPES(clip, scales=(1.0, 1.5), **options).fit()
    plain = CLIPES(clip, scales=(1.0,), **options).fit()
    larger = upsample(images, (108, 144))
    views = [plain(images, labels).cams, upsample(plain(larger, labels).cams, (9, 12))]
    mean = normalize_cams(sum(views) / 2, subtract_min=True, eps=1e-7)
    output = method(images, labels)
    torch.testing.assert_close(output.cams, mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.affinity, plain(images, labels).affinity)
    assert not torch.allclose(output.cams, views[0], atol=0.05)


def test_the_images_own_size_is_always_among_them(clip, batch):
    options = {"prompts": Prompts.paper(), "preset": "clean", "flip": False}
    one, two = (CLIPES(clip, scales=s, **options).fit() for s in ((1.5,), (1.0, 1.5)))
    for a, b in zip(one(*batch), two(*batch), strict=True):
        assert torch.equal(a, b)


CHANGES = ({"scales": (1.0,)}, {"similarity": "queries"}, {"flip": False}, {"distribution": False})


def test_every_choice_of_plus_is_among_the_changes():
    plus, reference = PRESETS["plus"], PRESETS["reference"]
    differs = {name for name, value in plus.items() if value != reference[name]}
    assert differs == {"round_positions"}.union(*CHANGES)
    assert plus["clamp_boxes"] and not PRESETS["clean"]["clamp_boxes"]


@pytest.mark.parametrize("change", CHANGES)
def test_each_can_be_switched_off(clip, batch, change):
    plus = CLIPES(clip, prompts=Prompts.paper(), preset="plus").fit()
    less = CLIPES(clip, prompts=Prompts.paper(), preset="plus", **change).fit()
    (cams, affinity), (fewer, other) = plus(*batch), less(*batch)
    changed = (not torch.allclose(cams, fewer, atol=1e-3), not torch.allclose(affinity, other))
    assert any(changed)
    all_off = {"scales": (1.0,), "similarity": "queries", "distribution": False}
    clean = CLIPES(clip, prompts=Prompts.paper(), preset="clean").fit()(*batch)
    off = CLIPES(clip, prompts=Prompts.paper(), preset="plus", **all_off).fit()(*batch)
    assert all(torch.equal(a, b) for a, b in zip(clean, off, strict=True))
