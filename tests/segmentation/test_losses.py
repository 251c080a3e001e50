"""Losses of a segmenter against loops over pixels; DeepLab's sum is among the golden figures."""

import pytest
import torch

from wsss_kit.segmentation import balanced_cross_entropy, confident_cross_entropy


@pytest.fixture
def given(rng):
    logits = torch.randn(2, 4, 3, 5, generator=rng)
    masks = torch.randint(0, 4, (2, 3, 5), generator=rng)
    masks[0, 0] = 255
    return logits, masks


@pytest.mark.parametrize("value", [0, 2, 255])
def test_a_mask_of_one_value_gives_no_nan(given, value):
    logits, masks = given[0].requires_grad_(), torch.full_like(given[1], value)
    for loss in (confident_cross_entropy, balanced_cross_entropy):
        result = loss(logits, masks)
        (gradient,) = torch.autograd.grad(result, logits)
        assert result.isfinite() and gradient.isfinite().all()
        assert (result == 0) == (value == 255)
