"""PAMR against nested loops, and what must hold of it."""

import pytest
import torch

from wsss_kit.crf import pamr


def literal(scores, images, iterations, dilations):
    """One image; neighbours are shifted copies, and what is beyond the border is the border."""
    _, H, W = images.shape

    def near(x):
        copies = []
        for d in dilations:
            wide = torch.nn.functional.pad(x[None], (d, d, d, d), mode="replicate")[0]
            places = [(v, u) for v in (0, d, 2 * d) for u in (0, d, 2 * d) if (v, u) != (d, d)]
            copies += [wide[:, v : v + H, u : u + W] for v, u in places]
        return torch.stack(copies)

    around = near(images)  # (neighbours, 3, H, W)
    spread = torch.cat([around, images.expand(len(dilations), 3, H, W)]).std(0)
    distances = ((around - images).abs() / (0.1 * spread + 1e-8)).mean(1, keepdim=True)
    probs = scores / scores.sum(0, keepdim=True)
    for _ in range(iterations):
        probs = (torch.softmax(-distances, 0) * near(probs)).sum(0)
    return probs


@pytest.mark.parametrize(("iterations", "dilations"), [(1, (1,)), (3, (1, 2)), (2, (4,))])
def test_equals_the_loops(iterations, dilations, rng):
    scores = torch.rand(2, 3, 6, 7, generator=rng)
    images = torch.rand(2, 3, 6, 7, generator=rng)
    result = pamr(scores, images, iterations=iterations, dilations=dilations)
    for b in range(2):
        expected = literal(scores[b], images[b], iterations, dilations)
        torch.testing.assert_close(result[b], expected, atol=1e-5, rtol=1e-4)


def test_published_dilations_on_a_batch_and_no_iterations(rng):
    scores, images = torch.rand(2, 2, 3, 30, 20, generator=rng)
    probs = pamr(scores, images)
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 30, 20))
    assert probs.min() >= 0
    torch.testing.assert_close(pamr(scores[1][None], images[1][None])[0], probs[1])
    scores = torch.tensor([[0.2, 0.6], [0.0, 0.0]]).T.reshape(1, 2, 1, 2)
    probs = pamr(scores, torch.zeros(1, 3, 1, 2), iterations=0)[0, :, 0]
    expected = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).T  # nothing known of the second
    torch.testing.assert_close(probs, expected)
    alone = pamr(scores[..., :1], torch.zeros(1, 3, 1, 1))[0, :, 0]
    torch.testing.assert_close(alone, expected[:, :1])


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
