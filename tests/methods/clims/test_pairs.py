"""Masked images and their cosines against a literal loop over pairs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.clip import load_clip
from wsss_kit.methods.clims.losses import cosines, masked_images, pairs_of

LABELS = {
    "some": [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
    "one": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "none": [[0, 0, 0]] * 3,
    "all": [[1, 1, 1]] * 3,
}


@pytest.fixture(scope="module")
def clip():
    return load_clip("paper", device="cpu")


@pytest.mark.parametrize("which", LABELS)
@pytest.mark.parametrize(("side", "align_corners"), [(None, False), (24, True)])
def test_masked_images_equal_a_loop(rng, which, side, align_corners):
    images, maps = torch.rand(3, 3, 16, 20, generator=rng), torch.rand(3, 3, 4, 5, generator=rng)
    labels = torch.tensor(LABELS[which])
    size = (16, 20) if side is None else (side, side)
    result = masked_images(images, pairs_of(maps, labels), size=size, align_corners=align_corners)
    shown, left = [], []
    for n in range(3):
        for c in range(3):
            if labels[n, c]:
                to = {"size": size, "mode": "bilinear", "align_corners": align_corners}
                x = images[n : n + 1] if side is None else F.interpolate(images[n : n + 1], **to)
                p = F.interpolate(maps[n : n + 1, c : c + 1], **to)
                shown.append(x * p)
                left.append(x * (1 - p))
    assert result.shape == (2 * len(shown), 3, *size)
    if shown:
        torch.testing.assert_close(result, torch.cat(shown + left))


def test_a_full_map_shows_the_image_itself(rng):
    """The oracle of methods.md: P = 1 everywhere makes the foreground input X."""
    images, labels = torch.rand(2, 3, 8, 8, generator=rng), torch.tensor([[1], [1]])
    pairs = pairs_of(torch.ones(2, 1, 2, 2), labels)
    masked = masked_images(images, pairs, size=images.shape[-2:], align_corners=False)
    assert torch.equal(masked[:2], images) and not masked[2:].any()


@pytest.mark.parametrize("which", LABELS)
def test_cosines_equal_a_loop_and_leave_clip_alone(clip, rng, which):
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    images = torch.rand(3, 3, 96, 96, generator=rng)
    maps = torch.rand(3, 3, 12, 12, generator=rng).requires_grad_()
    labels = torch.tensor(LABELS[which])
    texts = clip.encode_text([f"a photo of a {name}" for name in PAPER_CLASSES[:3]])
    backgrounds = clip.encode_text(["a photo of a road", "a photo of a sky"])
    pairs = pairs_of(maps, labels)
    masked = masked_images(images, pairs, size=images.shape[-2:], align_corners=False)
    mine, rest, others = cosines(clip, masked, pairs.classes, texts, backgrounds)
    assert others.shape == (int(labels.sum()), 2)
    for i, (n, c) in enumerate(labels.nonzero().tolist()):
        p = F.interpolate(maps[n : n + 1, c : c + 1], (96, 96), mode="bilinear")
        shown = F.normalize(clip.encode_image(images[n : n + 1] * p), dim=-1)[0]
        left = F.normalize(clip.encode_image(images[n : n + 1] * (1 - p)), dim=-1)[0]
        torch.testing.assert_close(mine[i], shown @ texts[c], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(rest[i], left @ texts[c], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(others[i], backgrounds @ shown, atol=1e-5, rtol=1e-4)
    total = mine.sum() + rest.sum() + others.sum()
    if labels.any():
        total.backward()
        moved = maps.grad.abs().sum((2, 3)) > 0
        assert torch.equal(moved, labels > 0)  # gradients reach the pairs' maps and no others
    assert all(p.grad is None and not p.requires_grad for p in clip.parameters())
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
