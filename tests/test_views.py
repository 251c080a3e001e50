"""Random views of images; an image and its mask are cut alike."""

import pytest
import torch

from wsss_kit.classes import IMAGENET_MEAN
from wsss_kit.views import augment, random_view


def test_crops_take_image_and_labels_from_one_place(rng):
    image = torch.arange(30.0).view(1, 5, 6).expand(3, 5, 6)
    labels = torch.arange(30).view(5, 6)
    for _ in range(30):
        shown, given = random_view(image, labels, rng, crop=4)
        assert shown.shape == (3, 4, 4) and torch.equal(shown[0].long(), given)
    shown, given = random_view(image, labels, rng, crop=8)
    beyond = torch.tensor(IMAGENET_MEAN).view(3, 1, 1).expand(3, 8, 2)
    assert (given[5:] == 255).all() and torch.equal(shown[:, :, 6:], beyond)
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


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(height, width):
    """An image in which every pixel is different, so that a crop shows where it was cut."""
    pixels = torch.arange(1, height * width + 1).float() / (height * width)
    return pixels.view(1, height, width).expand(3, -1, -1).clone()


# -- augmentation ---------------------------------------------------------------------------


def windows(image, height, width):
    """Every window of an image and of its mirror image."""
    for view in (image, image.flip(-1)):
        for y in range(view.shape[1] - height + 1):
            for x in range(view.shape[2] - width + 1):
                yield view[:, y : y + height, x : x + width]


@pytest.mark.parametrize("size", [(9, 12), (12, 9), (8, 8)])
def test_a_crop_is_a_window_of_the_image_or_of_its_mirror_image(size):
    image = numbered(*size)
    possible = list(windows(image, 8, 8))
    result = set()
    for seed in range(60):
        view = augment(image, generator(seed), crop=8, long_side=None)
        places = [k for k, window in enumerate(possible) if torch.equal(view, window)]
        assert places
        result.update(places)
    assert len(result) == len(possible)  # corners too: no window is out of reach
    flips = [augment(image[:, :8, :8], generator(s), crop=8, long_side=None) for s in range(200)]
    mirrored = sum(torch.equal(view, image[:, :8, :8].flip(-1)) for view in flips)
    assert 70 <= mirrored <= 130  # four standard deviations around 100


@pytest.mark.parametrize("size", [(5, 12), (12, 5), (1, 1)])
def test_beyond_a_small_image_is_the_mean_colour(size):
    image, colour = numbered(*size), torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1)
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    for seed in range(20):
        view = augment(image, generator(seed), crop=8, long_side=None, fill=colour)
        inside = (view != colour).any(0)
        height, width = min(8, size[0]), min(8, size[1])
        assert view.shape == (3, 8, 8) and inside.sum() == height * width
        rows, columns = inside.nonzero().T
        seen = view[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert any(torch.equal(seen, window) for window in windows(image, height, width))
        usual = augment(image, generator(seed), crop=8, long_side=None)
        assert torch.equal(usual, torch.where(inside, view, mean))


def test_without_a_crop_an_image_moves_by_at_most_a_tenth():
    image = numbered(20, 30)
    mirrored = torch.nn.functional.pad(image[None], (3, 3, 2, 2), mode="reflect")[0]
    possible = list(windows(mirrored, 20, 30))
    views = [augment(image, generator(seed), crop=None, long_side=None) for seed in range(40)]
    assert all(any(torch.equal(view, window) for window in possible) for view in views)
    assert len({view.numpy().tobytes() for view in views}) > 20
    for size in ((1, 1), (9, 200), (200, 9)):  # too small to move
        small = torch.rand(3, *size)
        assert augment(small, generator(), crop=None, long_side=None).shape == small.shape


def test_the_longer_side_is_resized_within_its_range():
    seen = set()
    for seed in range(60):
        view = augment(torch.ones(3, 20, 40), generator(seed), crop=64, long_side=(16, 24))
        inside = (view > 0.5).all(0)
        height, width = inside.any(1).sum().item(), inside.any(0).sum().item()
        assert abs(height - width / 2) <= 0.5
        torch.testing.assert_close(view[:, inside], torch.ones(3, int(inside.sum())))
        seen.add(width)
    assert seen == set(range(16, 25))
    image, options = torch.rand(3, 40, 30), {"crop": 24, "long_side": (20, 60)}
    before = image.clone()
    first, second = (augment(image, generator(5), **options) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(image, before)
    assert 0 <= first.min() and first.max() <= 1
