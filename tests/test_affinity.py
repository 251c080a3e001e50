"""From affinity to refined maps: what must hold of any walk, and boxes against a flood fill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss_kit.affinity import balanced_walk, box_masks, random_walk, transition_matrix


@pytest.fixture
def affinity(rng):
    return torch.rand(2, 6, 6, generator=rng) + 0.01


# -- transition matrix ----------------------------------------------------------------------


def test_transition_equals_the_loop(affinity):
    """PSA's: powers, column normalisation and repeated squaring, here transposed."""
    before = affinity.clone()
    result = transition_matrix(affinity, power=8, squarings=2)
    for b in range(2):
        psa = affinity[b].T.double().numpy() ** 8
        psa = psa / psa.sum(0, keepdims=True)
        literal = np.linalg.matrix_power(psa, 4).T
        np.testing.assert_allclose(result[b].numpy(), literal, rtol=1e-4)
    assert torch.equal(affinity, before)
    with pytest.raises(ValueError, match=r"affinity has shape \(6, 6\), expected \(B, N, N\)"):
        transition_matrix(affinity[0])


@pytest.mark.parametrize("rounds", [1, 3])
def test_sinkhorn_equals_the_loop_and_is_symmetric(affinity, rounds):
    result = transition_matrix(affinity, sinkhorn=rounds, squarings=1)
    for b in range(2):
        d = affinity[b].double().numpy()
        for _ in range(rounds):
            d = d / d.sum(axis=0, keepdims=True)
            d = d / d.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(d.sum(1), 1)
        half = (d + d.T) / 2
        np.testing.assert_allclose(result[b].numpy(), half @ half, rtol=1e-4)
    assert torch.allclose(result, result.transpose(1, 2))


# -- random walk ----------------------------------------------------------------------------


def test_a_step_equals_the_loop(rng, affinity):
    scores, walk = torch.rand(2, 3, 2, 3, generator=rng), transition_matrix(affinity)
    result = random_walk(scores, walk)
    for b in range(2):
        for k in range(3):
            old = scores[b, k].flatten().tolist()
            for i in range(6):
                new = sum(walk[b, i, j].item() * old[j] for j in range(6))
                assert result[b, k, i // 3, i % 3].item() == pytest.approx(new, abs=1e-5)


@pytest.mark.parametrize(("sinkhorn", "squarings"), [(1, 0), (3, 1), (5, 3)])
def test_the_thin_walk_is_the_walk_with_the_whole_matrix(rng, affinity, sinkhorn, squarings):
    scores, before = torch.rand(2, 4, 2, 3, generator=rng), affinity.clone()
    options = {"sinkhorn": sinkhorn, "squarings": squarings}
    expected = random_walk(scores, transition_matrix(affinity, **options))
    torch.testing.assert_close(balanced_walk(scores, affinity, **options), expected)
    assert torch.equal(affinity, before)
    assert balanced_walk(scores[:, :0], affinity).shape == (2, 0, 2, 3)


def test_an_affinity_that_is_refused(affinity):
    scores = torch.rand(2, 1, 2, 3)
    for bad in (-affinity, affinity * torch.nan, affinity * (torch.arange(6) > 0)[:, None]):
        with pytest.raises(ValueError, match="expected numbers of 0 or more and no empty row"):
            balanced_walk(scores, bad)
    with pytest.raises(ValueError, match=r"affinity has shape .*6, 6.*for 2 maps of 2x2; resize"):
        balanced_walk(scores[..., :2], affinity)
    with pytest.raises(ValueError, match=r"affinity has shape \(2, 5, 6\), expected \(B, N, N\)"):
        balanced_walk(scores, affinity[:, 1:])
    with pytest.raises(ValueError, match=r"transition has shape .*for 2 maps of 2x2; resize the"):
        random_walk(scores[..., :2], affinity)


# -- box masks ------------------------------------------------------------------------------


def flood_fill_boxes(kept, clamp):
    """Boxes of the 8-connected regions of one map, found by walking from cell to cell."""
    (h, w), mask = kept.shape, np.zeros(kept.shape)
    left = {tuple(place) for place in np.argwhere(kept).tolist()}
    while left:
        region, waiting = [], [left.pop()]
        while waiting:
            y, x = waiting.pop()
            region.append((y, x))
            near = {(v, u) for v in (y - 1, y, y + 1) for u in (x - 1, x, x + 1)} & left
            left -= near
            waiting.extend(near)
        ys, xs = zip(*region, strict=True)
        y1, x1 = max(ys) + 1, max(xs) + 1
        if clamp:
            y1, x1 = min(y1, h - 1), min(x1, w - 1)
        mask[min(ys) : y1, min(xs) : x1] = 1
    return mask


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.7, 0.95])
def test_boxes_equal_a_flood_fill(rng, clamp, threshold):
    cams = torch.rand(3, 4, 7, 9, generator=rng) ** 3  # a few separate peaks
    cams[0, 0] = 0
    cams[0, 1] *= 0.3  # a maximum below 1
    result = box_masks(cams, threshold=threshold, clamp=clamp)
    for b in range(3):
        for c in range(4):
            level = np.floor(cams[b, c].numpy().astype(np.float32) * np.float32(255))
            kept = level > np.floor(threshold * level.max())
            literal = flood_fill_boxes(kept, clamp)
            np.testing.assert_array_equal(result[b, c].numpy(), literal)
    assert result.dtype == cams.dtype and result.shape == cams.shape
    cams = torch.tensor([102, 103, 255, 0]).view(1, 1, 1, 4) / 255  # int(0.4 * 255) is 102
    kept = box_masks(cams + 1e-4, threshold=0.4, clamp=False)
    assert kept.flatten().tolist() == [0, 1, 1, 0]  # the threshold itself is not kept
