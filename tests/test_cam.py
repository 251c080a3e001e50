"""Class activation maps against loops and the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from wsss_kit.cam import (
    class_activation_maps,
    multi_scale,
    normalize_cams,
    softmax_grad_cam,
)

# -- plain CAM ------------------------------------------------------------------------------


def test_maps_equal_the_loop(rng):
    features, weight = torch.randn(2, 3, 2, 4, generator=rng), torch.randn(5, 3, generator=rng)
    literal = torch.zeros(2, 5, 2, 4)
    for b, c, y, x in torch.cartesian_prod(*map(torch.arange, literal.shape)).tolist():
        literal[b, c, y, x] = sum(weight[c, d] * features[b, d, y, x] for d in range(3))
    torch.testing.assert_close(class_activation_maps(features, weight), literal)
    with pytest.raises(ValueError, match=r"features \(2, 3, 2, 4\) and weight \(3, 5\) do not fit"):
        class_activation_maps(features, weight.T)


# -- scaling --------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["map", "image"])
@pytest.mark.parametrize("subtract_min", [False, True])
def test_normalising_equals_the_loop(rng, over, subtract_min):
    cams = torch.randn(2, 3, 2, 4, generator=rng)
    result = normalize_cams(cams, over=over, subtract_min=subtract_min, eps=1e-3)
    for b in range(2):
        for c in range(3):
            family = cams[b, c] if over == "map" else cams[b]
            low = family.min().item() if subtract_min else 0
            high = max(max(value - low, 0) for value in family.flatten().tolist())
            literal = [max(v - low, 0) / (high + 1e-3) for v in cams[b, c].flatten().tolist()]
            assert result[b, c].flatten().tolist() == pytest.approx(literal, abs=1e-6)
    assert result.min() == 0 and result.max() < 1


def test_maps_without_a_positive_value_stay_zero():
    negative = -torch.rand(1, 2, 3, 3)
    assert (normalize_cams(negative) == 0).all()
    assert (normalize_cams(torch.full((1, 2, 3, 3), 0.7), subtract_min=True) == 0).all()
    assert normalize_cams(negative, subtract_min=True).max() > 0.9


# -- scales and mirror images ---------------------------------------------------------------


@pytest.fixture
def maps_of():
    """Maps of any sign, one cell every four pixels, that no symmetry leaves alone."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 2, 5, 4, 2).requires_grad_(False)
    return lambda images: layer(images - 0.5)


def pillow(images, height, width):
    """Images resized by Pillow's bicubic filter on 8 bits."""
    pixels = (255 * images.permute(0, 2, 3, 1)).round().byte().numpy()
    views = [Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC) for p in pixels]
    return torch.stack([torch.from_numpy(np.array(v)).permute(2, 0, 1) / 255 for v in views])


@pytest.mark.parametrize(
    ("options", "grid", "size"),
    [
        ({}, (4, 6), (4, 6)),
        ({"stride": None, "round_to": 16}, (16, 32), (16, 22)),
        ({"stride": None, "round_to": 1}, (16, 22), (16, 22)),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_multi_scale_equals_the_literal_sum(rng, maps_of, flip, options, grid, size):
    """At the image's size maps go to the sides rounded up to the stride, and are cut."""
    images = torch.rand(2, 3, 16, 22, generator=rng)
    literal = torch.zeros(2, 2, *size)
    for height, width in ((16, 22), (8, 11), (24, 33)):
        view = images if height == 16 else pillow(images, height, width)
        maps = maps_of(view).clamp_min(0)
        if flip:
            maps = maps + maps_of(view.flip(3)).clamp_min(0).flip(3)
        literal += nn.functional.interpolate(maps, grid, mode="bilinear")[
            :, :, : size[0], : size[1]
        ]
    result = multi_scale(maps_of, images, scales=(1.0, 0.5, 1.5), flip=flip, **options)
    torch.testing.assert_close(result, literal, atol=1e-5, rtol=1e-4)
    assert result.min() >= 0


# -- softmax Grad-CAM -----------------------------------------------------------------------


class Tower(nn.Module):
    """A last block: self-attention after a layer norm, mean of the patches, projection."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.projection = nn.Linear(8, 6, bias=False)
        self.requires_grad_(False)

    def head(self, tokens, normed):
        mixed = self.attention(normed, normed, normed, need_weights=False)[0]
        return self.projection(torch.tanh(tokens + mixed)[:, 1:].mean(1))


@pytest.fixture
def scene(rng):
    tower = Tower()
    texts = nn.functional.normalize(torch.randn(7, 6, generator=rng), dim=-1)
    return tower, torch.randn(13, 8, generator=rng), texts[:3], texts[3:]


def options(tower):
    return {"head": tower.head, "norm": tower.norm, "grid": (3, 4), "logit_scale": 5.0}


def logits_of(tower, tokens, texts):
    """Patches of the normed tokens (12, 8) -> logits, as a function for `jacobian`."""
    normed = tower.norm(tokens[None])

    def run(patches):
        seen = tower.head(tokens[None], torch.cat([normed[:, :1], patches[None]], 1))[0]
        return 5.0 * texts @ (seen / seen.norm())

    return run, normed[0, 1:]


@pytest.mark.parametrize("softmax", [True, False])
def test_weights_have_the_closed_form(scene, softmax):
    r"""p_c (g_c - sum p g), with g the mean gradients of the logits; g itself without softmax."""
    tower, tokens, positives, backgrounds = scene
    texts = torch.cat([positives, backgrounds])
    run, patches = logits_of(tower, tokens, texts)
    g = torch.autograd.functional.jacobian(run, patches).mean(1)  # (7, D)
    p = run(patches).softmax(0)
    result = softmax_grad_cam(tokens, positives, backgrounds, softmax=softmax, **options(tower))
    for c in range(3):
        weights = p[c] * (g[c] - (p[:, None] * g).sum(0)) if softmax else g[c]
        literal = (patches @ weights).clamp_min(0).view(3, 4)
        torch.testing.assert_close(result[c], literal, atol=1e-6, rtol=1e-4)
    assert (result.amax((1, 2)) > 0).any()


@torch.no_grad()
def test_a_single_text_gives_a_map_of_zeros_and_no_class_no_map(scene):
    tower, tokens, positives, backgrounds = scene
    nothing = positives[:0]
    alone = softmax_grad_cam(tokens, positives[:1], nothing, **options(tower))
    assert (alone == 0).all()
    logit = softmax_grad_cam(tokens, positives[:1], nothing, softmax=False, **options(tower))
    competing = softmax_grad_cam(tokens, positives[:2], nothing, **options(tower))
    assert logit.max() > 0 and competing.max() > 0 and not competing.requires_grad
    none = softmax_grad_cam(tokens, nothing, backgrounds, **options(tower))
    assert none.shape == (0, 3, 4) and none.dtype == torch.float32
    for shape in ((12, 8), (1, 13, 8)):
        with pytest.raises(ValueError, match=r"expected \(1 \+ 3\*4, D\): the class token and one"):
            softmax_grad_cam(torch.zeros(shape), positives, backgrounds, **options(tower))
