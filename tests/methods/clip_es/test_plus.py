"""What goes past the paper, each by itself: values, class distributions, sizes."""

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from tests.clip.clips import CLIPS
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.clip_es.views import TAU, similarity_of_classes
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts


@pytest.fixture(scope="module")
def batch():
    samples = list(PaperWorld(2))
    return torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])


@pytest.mark.parametrize("make", CLIPS.values(), ids=CLIPS)
@torch.no_grad()
def test_similarity_of_values(make, n_layers=2):
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


def test_similarity_of_classes_against_scipy(rng):
    logits = 4 * torch.randn(9, 5, generator=rng)
    probs = logits.double().softmax(1).numpy()
    result = similarity_of_classes(logits)
    for i in range(9):
        divergence = [jensenshannon(probs[i], other, base=2) ** 2 for other in probs]
        row = ((1 - torch.tensor(divergence)) / TAU).softmax(0)
        torch.testing.assert_close(result[i], row.float(), atol=1e-4, rtol=1e-3)
    large = torch.randn(3000, 3, generator=rng)
    rows = similarity_of_classes(large)  # more entries than are compared at once
    torch.testing.assert_close(rows.sum(1), torch.ones(3000))
    ratio = rows[:40, :40] / similarity_of_classes(large[:40])  # normalised over more cells
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
    one = CLIPES(clip, scales=(1.5,), **options).fit()(images, labels)  # 1 is always among them
    two = CLIPES(clip, scales=(1.0, 1.5), **options).fit()(images, labels)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_each_choice_can_be_switched_off(clip, batch):
    def outputs(preset="plus", **change):
        return CLIPES(clip, prompts=Prompts.paper(), preset=preset, **change).fit()(*batch)

    choices = {"scales": (1.0,), "similarity": "queries", "flip": False, "distribution": False}
    plus = outputs()
    for name, value in choices.items():
        less = outputs(**{name: value})
        assert not all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plus, less, strict=True))
    assert choices.pop("flip") is False  # the clean preset has it too
    for a, b in zip(outputs("clean"), outputs(**choices), strict=True):
        assert torch.equal(a, b)
