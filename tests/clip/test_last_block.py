"""The last block's gradient in closed form against automatic differentiation, in float64."""

import pytest
import torch

from tests.clip.clips import CLIPS
from wsss_kit.clip import last_block, load_clip, vision


def differentiated(clip, images, directions):
    """The mean gradient of every number by automatic differentiation: (B, C, D)."""
    result = []
    for image, mine in zip(images, directions, strict=True):
        backbone, grid, _ = clip._run_backbone(image[None], None, None)
        normed = clip.blocks[-1].ln_1(backbone.x).detach().requires_grad_()
        embedding = clip.finish(backbone.x, normed, grid)[0]
        gradients = [torch.autograd.grad(embedding @ d, normed, retain_graph=True)[0] for d in mine]
        result.append(torch.stack([gradient[0, 1:].mean(0) for gradient in gradients]))
    return torch.stack(result)


def gradients(last, directions):
    """Those of equally many numbers an image: (B, C, E) -> (B, C, D)."""
    B, C, _ = directions.shape
    image = torch.arange(B).repeat_interleave(C)
    return last.mean_gradients(directions.flatten(0, 1), image).unflatten(0, (B, C))


@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("make", CLIPS.values(), ids=CLIPS)
def test_mean_gradients_are_those_of_automatic_differentiation(make, n_classes):
    clip = make()
    images = torch.rand(2, 3, 24, 40, dtype=torch.float64)
    last, _, _ = clip.last_block(images)
    directions = torch.randn(2, n_classes, last.embedding.shape[1], dtype=torch.float64)
    expected = differentiated(clip, images, directions)
    result = gradients(last, directions)
    assert expected.abs().min() > 0
    exactly = {"rtol": 1e-9, "atol": 1e-12 * expected.abs().max()}
    torch.testing.assert_close(result, expected, **exactly)
    assert not last.prepared
    last.prepare()  # the whole derivative, which gives every gradient
    assert last.prepared and not last._kept and "shared_hidden" not in vars(last)
    torch.testing.assert_close(gradients(last, directions), expected, **exactly)


LIMITS = [
    (last_block, "MOST_KEPT", 1, 0),
    (last_block, "_AT_ONCE", 1, 1),
    (vision, "AT_ONCE", 1, 4),
    (vision, "_MULTIPLE", 7, 1),
]


@pytest.mark.parametrize(("module", "name", "limit", "kept"), LIMITS)
def test_large_images_are_the_same_in_smaller_steps(monkeypatch, module, name, limit, kept):
    """Maps that are not kept, one number or head at a time, and columns of zeros as on a GPU."""
    clip, images = CLIPS["QuickGELU"](), torch.rand(2, 3, 24, 40, dtype=torch.float64)
    last, attention, _ = clip.last_block(images)
    directions = torch.randn(2, 4, last.embedding.shape[1], dtype=torch.float64)
    expected = gradients(last, directions)
    assert len(last._kept) == 1
    monkeypatch.setattr(module, name, {"cpu": limit})
    small, same, _ = clip.last_block(images)
    assert len(small._kept) == kept
    torch.testing.assert_close(gradients(small, directions), expected)
    torch.testing.assert_close(same, attention)
    torch.testing.assert_close(gradients(small.prepare() or small, directions), expected)


def test_folded_weights_follow_the_model():
    clip, images = load_clip("paper", device="cpu"), torch.rand(1, 3, 24, 24)
    before = clip.last_block(images)[0].embedding
    clip.double()
    wide = clip.last_block(images)[0].embedding
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), before, atol=1e-5, rtol=1e-5)
    clip.model.visual.positional_embedding.mul_(2)  # resized once for every grid, and kept
    assert not torch.allclose(clip.last_block(images)[0].embedding, wide)
