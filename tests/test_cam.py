"""Class activation maps against loops and the closed form."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.clip.clips import CLIPS
from wsss_kit.cam import class_activation_maps, multi_scale, normalize_cams, softmax_grad_cam

# -- plain CAM ------------------------------------------------------------------------------


def test_features_and_weights_that_do_not_fit():
    """What the maps are is among the golden figures."""
    with pytest.raises(ValueError, match=r"features \(2, 3, 2, 4\) and weight \(3, 5\) do not fit"):
        class_activation_maps(torch.zeros(2, 3, 2, 4), torch.zeros(3, 5))


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


GRIDS = [
    ({}, (4, 6), (4, 6)),
    ({"stride": None, "round_to": 16}, (16, 32), (16, 22)),
    ({"stride": None, "round_to": 1}, (16, 22), (16, 22)),
]


@pytest.mark.parametrize(("options", "grid", "size"), GRIDS)
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
        whole = nn.functional.interpolate(maps, grid, mode="bilinear")
        literal += whole[:, :, : size[0], : size[1]]
    result = multi_scale(maps_of, images, scales=(1.0, 0.5, 1.5), flip=flip, **options)
    torch.testing.assert_close(result, literal, atol=1e-5, rtol=1e-4)
    assert result.min() >= 0


# -- softmax Grad-CAM -----------------------------------------------------------------------


@pytest.fixture
def scene(rng):
    """Tokens, texts of three classes and of four backgrounds, and the last block of a CLIP."""
    clip = CLIPS["QuickGELU"]()
    texts = nn.functional.normalize(torch.randn(7, 12, generator=rng).double(), dim=-1)
    options = {
        "head": lambda tokens, normed: clip.finish(tokens, normed, (3, 4)),
        "norm": clip.blocks[-1].ln_1,
        "grid": (3, 4),
        "logit_scale": 5.0,
    }
    return torch.randn(13, 32, generator=rng).double(), texts[:3], texts[3:], options


@pytest.mark.parametrize("softmax", [True, False])
def test_weights_have_the_closed_form(scene, softmax):
    r"""p_c (g_c - sum p g), with g the mean gradients of the logits; g itself without softmax."""
    tokens, positives, backgrounds, options = scene
    normed = options["norm"](tokens[None])

    def logits(patches):
        seen = options["head"](tokens[None], torch.cat([normed[:, :1], patches[None]], 1))[0]
        return 5.0 * torch.cat([positives, backgrounds]) @ (seen / seen.norm())

    patches = normed[0, 1:]
    g = torch.autograd.functional.jacobian(logits, patches).mean(1)  # (7, D)
    p = logits(patches).softmax(0)
    result = softmax_grad_cam(tokens, positives, backgrounds, softmax=softmax, **options)
    for c in range(3):
        weights = p[c] * (g[c] - (p[:, None] * g).sum(0)) if softmax else g[c]
        literal = (patches @ weights).clamp_min(0).view(3, 4)
        torch.testing.assert_close(result[c], literal.float(), atol=1e-6, rtol=1e-4)
    assert (result.amax((1, 2)) > 0).any()


@torch.no_grad()
def test_a_single_text_gives_a_map_of_zeros_and_no_class_no_map(scene):
    tokens, positives, backgrounds, options = scene
    nothing = positives[:0]
    alone = softmax_grad_cam(tokens, positives[:1], nothing, **options)
    assert (alone == 0).all()
    logit = softmax_grad_cam(tokens, positives[:1], nothing, softmax=False, **options)
    competing = softmax_grad_cam(tokens, positives[:2], nothing, **options)
    assert logit.max() > 0 and competing.max() > 0 and not competing.requires_grad
    none = softmax_grad_cam(tokens, nothing, backgrounds, **options)
    assert none.shape == (0, 3, 4) and none.dtype == torch.float32
    for shape in ((12, 8), (1, 13, 8)):
        with pytest.raises(ValueError, match=r"expected \(1 \+ 3\*4, D\): the class token and one"):
            softmax_grad_cam(torch.zeros(shape), positives, backgrounds, **options)
