"""An image and its mask are cut alike."""

from __future__ import annotations

import torch

from wsss_kit.views import random_view


def test_crops_take_image_and_labels_from_one_place(rng):
    image = torch.arange(30.0).view(1, 5, 6).expand(3, 5, 6)
    labels = torch.arange(30).view(5, 6)
    for _ in range(30):
        shown, given = random_view(image, labels, rng, crop=4)
        assert shown.shape == (3, 4, 4) and torch.equal(shown[0].long(), given)
    shown, given = random_view(image, labels, rng, crop=8)
    assert (given[5:] == 255).all() and (shown[:, :, 6:] == 0).all()
    assert sorted(given[:5, :6].flatten().tolist()) == list(range(30))


def test_resized_masks_keep_their_values(rng):
    image, mask = torch.rand(3, 8, 10, generator=rng), torch.tensor([[0, 255], [3, 7]])
    mask = mask.repeat_interleave(4, 0).repeat_interleave(5, 1)
    sizes = set()
    for _ in range(30):
        seen, labels = random_view(image, mask, rng, crop=None, scales=(0.5, 1.5))
        assert seen.shape[1:] == labels.shape and set(labels.unique().tolist()) == {0, 3, 7, 255}
        sizes.add(tuple(labels.shape))
    assert sizes == {(4, 5), (12, 15)}
    quarters = {tuple(labels[:: h - 1, :: w - 1].flatten().tolist()) for h, w in [labels.shape]}
    assert quarters <= {(0, 255, 3, 7), (255, 0, 7, 3)}
