"""PAMR against nested loops, and what must hold of it."""

from __future__ import annotations

import math

import pytest
import torch

from wsss_kit.crf import pamr


def literal(scores, images, iterations, dilations):
    """One image, pixel by pixel."""
    K, H, W = scores.shape
    probs = scores / scores.sum(0, keepdim=True)

    def inside(y, x):
        return min(max(y, 0), H - 1), min(max(x, 0), W - 1)

    def around(y, x, d):
        return [inside(y + v, x + u) for v in (-d, 0, d) for u in (-d, 0, d) if (v, u) != (0, 0)]

    weights = {}
    for y in range(H):
        for x in range(W):
            near = [place for d in dilations for place in around(y, x, d)]
            distances = torch.zeros(len(near))
            for c in range(3):
                mine = images[c, y, x]
                values = torch.stack([images[c, v, u] for v, u in near])
                spread = torch.cat([values, mine.repeat(len(dilations))]).std()
                distances += (values - mine).abs() / (0.1 * spread + 1e-8) / 3
            weights[y, x] = near, torch.softmax(-distances, 0)
    for _ in range(iterations):
        new = torch.zeros_like(probs)
        for (y, x), (near, shares) in weights.items():
            for (v, u), share in zip(near, shares, strict=True):
                new[:, y, x] += share * probs[:, v, u]
        probs = new
    return probs


@pytest.mark.parametrize(("iterations", "dilations"), [(1, (1,)), (3, (1, 2)), (2, (4,))])
def test_equals_the_loops(iterations, dilations, rng):
    scores = torch.rand(2, 3, 6, 7, generator=rng)
    images = torch.rand(2, 3, 6, 7, generator=rng)
    result = pamr(scores, images, iterations=iterations, dilations=dilations)
    for b in range(2):
        expected = literal(scores[b], images[b], iterations, dilations)
        torch.testing.assert_close(result[b], expected, atol=1e-5, rtol=1e-4)


def test_probabilities_with_the_published_dilations(rng):
    scores, images = (
        torch.rand(2, 3, 30, 20, generator=rng),
        torch.rand(2, 3, 30, 20, generator=rng),
    )
    probs = pamr(scores, images)
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 30, 20))
    assert probs.min() >= 0
    one = pamr(scores[1][None], images[1][None])
    torch.testing.assert_close(one[0], probs[1])


def test_without_iterations_scores_are_divided_by_their_sum():
    scores = torch.tensor([[0.2, 0.6], [0.0, 0.0]]).T.reshape(1, 2, 1, 2)
    probs = pamr(scores, torch.zeros(1, 3, 1, 2), iterations=0)
    torch.testing.assert_close(probs[0, :, 0, 0], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(probs[0, :, 0, 1], torch.tensor([0.5, 0.5]))  # nothing known


def test_a_flat_image_gives_the_plain_mean_and_finite_gradients(rng):
    scores = torch.rand(1, 2, 5, 5, generator=rng, requires_grad=True)
    images = torch.full((1, 3, 5, 5), 0.3, requires_grad=True)
    probs = pamr(scores, images, iterations=1, dilations=(1,))
    given = scores / scores.sum(1, keepdim=True)
    around = [given[0, :, y, x] for y in (1, 2, 3) for x in (1, 2, 3) if (y, x) != (2, 2)]
    torch.testing.assert_close(probs[0, :, 2, 2], torch.stack(around).mean(0))
    probs[0, 0].sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().sum() > 0
    assert images.grad.isfinite().all()


def test_gradients_equal_finite_differences(rng):
    scores = torch.rand(1, 2, 4, 4, generator=rng)
    images = torch.rand(1, 3, 4, 4, generator=rng)

    def loss(scores, images):
        return pamr(scores, images, iterations=2, dilations=(1, 2))[0, 0, 1, 1]

    for chosen, step in ((scores, 1e-2), (images, 1e-3)):
        chosen.requires_grad_()
        (slope,) = torch.autograd.grad(loss(scores, images), chosen)
        with torch.no_grad():
            for place in ((0, 0, 1, 2), (0, 1, 2, 1), (0, 0, 1, 1)):
                high, low = chosen.detach().clone(), chosen.detach().clone()
                high[place] += step
                low[place] -= step
                pairs = [(m, images) if chosen is scores else (scores, m) for m in (high, low)]
                numeric = (loss(*pairs[0]) - loss(*pairs[1])) / (2 * step)
                assert math.isclose(slope[place], numeric, rel_tol=0.05, abs_tol=2e-3)
        chosen.requires_grad_(False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"iterations": -1}, r"iterations is -1"),
        ({"dilations": ()}, r"dilations is \(\), expected whole numbers of pixels"),
        ({"dilations": (0, 1)}, r"dilations is \(0, 1\)"),
        ({"dilations": (1.5,)}, r"dilations is \(1.5,\)"),
        ({"images": torch.zeros(1, 3, 4, 4)}, r"expected \(1, 3, 4, 5\)"),
        ({"scores": torch.full((1, 2, 4, 5), float("nan"))}, r"scores holds NaN"),
    ],
)
def test_bad_input_is_refused(options, reason):
    good = {"scores": torch.ones(1, 2, 4, 5), "images": torch.zeros(1, 3, 4, 5)}
    with pytest.raises(ValueError, match=reason):
        pamr(**{**good, **options})


def test_one_pixel_keeps_its_scores():
    probs = pamr(torch.tensor([0.2, 0.6]).view(1, 2, 1, 1), torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(probs.flatten(), torch.tensor([0.25, 0.75]))
