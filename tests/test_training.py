"""Augmentation, schedule, and files that are written whole or not at all."""

from __future__ import annotations

import pytest
import torch

from wsss_kit.classes import Sample
from wsss_kit.data import LazySamples
from wsss_kit.training import (
    Diverged,
    augment,
    check_loss,
    classes_of,
    labels_of,
    polynomial_decay,
    progress,
    seeded,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(height, width):
    """An image in which every pixel is different, so that a crop shows where it was cut."""
    pixels = torch.arange(1, height * width + 1).float() / (height * width)
    return pixels.view(1, height, width).expand(3, -1, -1).clone()


# -- schedule -------------------------------------------------------------------------------


def rates(steps, **options):
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([{"params": [parameter], "lr": 0.5}])
    schedule = polynomial_decay(optimiser, steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return [*seen, optimiser.param_groups[0]["lr"]]


def test_polynomial_decay_by_hand():
    expected = [0.5 * (1 - k / 4) ** 0.9 for k in range(5)]
    assert rates(4) == pytest.approx(expected)
    assert rates(4)[-1] == 0
    assert rates(2, power=1) == pytest.approx([0.5, 0.25, 0])


def test_warm_up_rises_linearly():
    expected = [0.5 * min(1, (k + 1) / 3) * (1 - k / 6) ** 0.9 for k in range(7)]
    assert rates(6, warmup=3) == pytest.approx(expected)


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


@pytest.mark.parametrize("size", [(5, 12), (12, 5), (5, 6), (1, 1)])
def test_a_small_image_is_padded_with_zeros(size):
    image = numbered(*size)
    for seed in range(20):
        view = augment(image, generator(seed), crop=8, long_side=None)
        assert view.shape == (3, 8, 8)
        rows, columns = view[0].nonzero().T
        seen = view[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        height, width = min(8, size[0]), min(8, size[1])
        assert seen.shape == (3, height, width)
        assert any(torch.equal(seen, window) for window in windows(image, height, width))


def test_without_a_crop_an_image_moves_by_at_most_a_tenth():
    image = numbered(20, 30)
    mirrored = torch.nn.functional.pad(image[None], (3, 3, 2, 2), mode="reflect")[0]
    possible = list(windows(mirrored, 20, 30))
    views = [augment(image, generator(seed), crop=None, long_side=None) for seed in range(40)]
    assert all(any(torch.equal(view, window) for window in possible) for view in views)
    assert len({view.numpy().tobytes() for view in views}) > 20


@pytest.mark.parametrize("size", [(1, 1), (9, 200), (200, 9)])
def test_images_too_small_to_move_keep_their_size(size):
    assert augment(torch.rand(3, *size), generator(), crop=None, long_side=None).shape[1:] == size


def test_half_of_the_views_are_mirrored():
    image = numbered(4, 4)
    flips = 0
    for seed in range(200):
        view = augment(image, generator(seed), crop=4, long_side=None)
        assert torch.equal(view, image) or torch.equal(view, image.flip(-1))
        flips += torch.equal(view, image.flip(-1))
    assert 70 <= flips <= 130  # four standard deviations around 100


def test_the_longer_side_is_resized_within_its_range():
    seen = set()
    for seed in range(60):
        view = augment(torch.ones(3, 20, 40), generator(seed), crop=64, long_side=(16, 24))
        height, width = (view[0] > 0).any(1).sum().item(), (view[0] > 0).any(0).sum().item()
        assert abs(height - width / 2) <= 0.5
        torch.testing.assert_close(view[view > 0], torch.ones(int((view > 0).sum())))
        seen.add(width)
    assert seen == set(range(16, 25))


def test_augmentation_is_seeded_and_leaves_its_image_alone():
    image = torch.rand(3, 40, 30, generator=generator())
    before = image.clone()
    options = {"crop": 24, "long_side": (20, 60)}
    first, second = (augment(image, generator(5), **options) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(image, before)
    assert 0 <= first.min() and first.max() <= 1


# -- samples --------------------------------------------------------------------------------


def test_labels_and_classes_of_samples():
    samples = [
        Sample("a", torch.zeros(3, 2, 2), torch.tensor([0, 1])),
        Sample("b", torch.zeros(3, 4, 2), torch.tensor([1.0, 0.0])),
    ]
    labels = labels_of(samples)
    assert labels.dtype == torch.float32 and labels.tolist() == [[0, 1], [1, 0]]
    assert classes_of(samples) == ("class 1", "class 2")

    class Named(list):
        classes = ("cat", "dog")

    assert classes_of(Named(samples)) == ("cat", "dog")


@pytest.mark.parametrize("shown", [True, False])
def test_progress_passes_everything_on(shown, capsys):
    assert list(progress(iter("abc"), what="letters", shown=shown)) == ["a", "b", "c"]
    assert ("letters" in capsys.readouterr().err) == shown


def test_labels_of_lazy_samples_decode_no_image():
    def decode(name):
        raise AssertionError(name)

    rows = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0, 1.0])}
    lazy = LazySamples(rows, image=decode, labels=rows.__getitem__, classes=("cat", "dog"))
    assert labels_of(lazy).tolist() == [[0, 1], [1, 1]]
    rows["b"] = torch.tensor([1.0, 3.0])
    with pytest.raises(ValueError, match="labels of 'b' holds 3, expected only 0 and 1"):
        labels_of(lazy)


def test_labels_that_are_none_are_named():
    zeros = torch.zeros(3, 2, 2)
    samples = [Sample(name, zeros, torch.tensor([0.0, 1.0])) for name in "abc"]
    with pytest.raises(
        ValueError, match=r"labels of 'c' have shape \(3,\), expected \(2,\) as thos"
    ):
        labels_of([*samples[:2], samples[2]._replace(labels=torch.zeros(3))])
    with pytest.raises(ValueError, match="labels of 'b' holds nan"):
        labels_of(
            [samples[0], samples[1]._replace(labels=torch.tensor([1, torch.nan])), samples[2]]
        )


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 7.01])
def test_a_loss_that_runs_away(loss):
    with pytest.raises(Diverged, match=r"in epoch 3: its loss is .* began at 0.7; .* below 0.05"):
        check_loss(loss, 0.7, where="epoch 3", learning_rate=0.05)
    assert check_loss(6.9, 0.7, where="epoch 3", learning_rate=0.05) is None


def test_seeded_numbers_are_those_of_seed_and_epoch_and_leave_no_trace():
    cpu = torch.device("cpu")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    drawn = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        with seeded(seed, epoch, cpu):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert len({tuple(each.tolist()) for each in drawn}) == 3
    assert torch.equal(torch.rand(3), expected)
