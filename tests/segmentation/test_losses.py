"""Losses of a segmenter against loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wsss_kit.segmentation import balanced_cross_entropy, confident_cross_entropy
from wsss_kit.segmentation.networks import multi_scale_loss


@pytest.fixture
def given(rng):
    logits = torch.randn(2, 4, 3, 5, generator=rng)
    masks = torch.randint(0, 4, (2, 3, 5), generator=rng)
    masks[0, 0] = 255
    return logits, masks


def pixel_losses(logits, masks):
    """(value, loss) of every pixel that says something."""
    result = []
    for b, y, x in torch.cartesian_prod(*map(torch.arange, masks.shape)).tolist():
        value = masks[b, y, x].item()
        if value != 255:
            of = logits[b, :, y, x].tolist()
            result.append((value, math.log(sum(map(math.exp, of))) - of[value]))
    return result


def test_cross_entropy_against_a_loop(given):
    every = pixel_losses(*given)
    mean = sum(loss for _, loss in every) / len(every)
    assert confident_cross_entropy(*given).item() == pytest.approx(mean, rel=1e-5)
    objects = [loss for value, loss in every if value]
    background = [loss for value, loss in every if not value]
    halves = (sum(objects) / len(objects) + sum(background) / len(background)) / 2
    assert balanced_cross_entropy(*given).item() == pytest.approx(halves, rel=1e-5)


@pytest.mark.parametrize("value", [0, 2, 255])
def test_a_mask_of_one_value_gives_no_nan(given, value):
    logits, masks = given[0].requires_grad_(), torch.full_like(given[1], value)
    for loss in (confident_cross_entropy, balanced_cross_entropy):
        result = loss(logits, masks)
        (gradient,) = torch.autograd.grad(result, logits)
        assert result.isfinite() and gradient.isfinite().all()
        assert (result == 0) == (value == 255)


def test_deeplab_s_loss_of_several_sizes_written_out(rng):
    net = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Tanh())
    images = torch.rand(2, 3, 64, 96, generator=rng)
    masks = torch.randint(0, 4, (2, 64, 96), generator=rng)
    masks[masks == 3] = 255
    whole, half = net(images), net(F.interpolate(images, scale_factor=0.5, mode="bilinear"))
    larger = torch.maximum(whole, F.interpolate(half, size=(8, 12), mode="bilinear"))
    under_centres, coarser = masks[:, 4::8, 4::8], masks[:, 8::16, 8::16]
    expected = (
        F.cross_entropy(whole, under_centres, ignore_index=255)
        + F.cross_entropy(half, coarser, ignore_index=255)
        + F.cross_entropy(larger, under_centres, ignore_index=255)
    )
    options = {"loss": confident_cross_entropy}
    result = multi_scale_loss(net, images, masks, scales=(0.5,), **options)
    torch.testing.assert_close(result, expected)
    alone = multi_scale_loss(net, images, masks, scales=(), **options)
    torch.testing.assert_close(alone, F.cross_entropy(whole, under_centres, ignore_index=255))
