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


@pytest.mark.parametrize(("power", "squarings"), [(1, 0), (8, 0), (0.5, 1), (8, 8)])
def test_rows_sum_to_one(affinity, power, squarings):
    walk = transition_matrix(affinity, power=power, squarings=squarings)
    # each squaring doubles what rounding took away
    torch.testing.assert_close(walk.sum(2), torch.ones(2, 6), atol=1e-6 * 2**squarings, rtol=0)
    assert walk.min() >= 0


def test_transition_equals_the_loop(affinity):
    """PSA's: powers, column normalisation and repeated squaring, here transposed."""
    result = transition_matrix(affinity, power=8, squarings=2)
    for b in range(2):
        psa = affinity[b].T.double().numpy() ** 8
        psa = psa / psa.sum(0, keepdims=True)
        literal = np.linalg.matrix_power(psa, 4).T
        np.testing.assert_allclose(result[b].numpy(), literal, rtol=1e-4)


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


def test_many_rounds_make_it_doubly_stochastic(affinity):
    walk = transition_matrix(affinity, sinkhorn=60)
    for axis in (1, 2):
        torch.testing.assert_close(walk.sum(axis), torch.ones(2, 6))


def test_the_affinity_is_left_alone(affinity):
    before = affinity.clone()
    transition_matrix(affinity, power=2, sinkhorn=2, squarings=1)
    assert torch.equal(affinity, before)


@pytest.mark.parametrize("shape", [(6, 6), (1, 6, 5), (1, 1, 6, 6)])
def test_an_affinity_is_square(shape):
    with pytest.raises(ValueError, match=r"affinity has shape \(.*\), expected \(B, N, N\)"):
        transition_matrix(torch.ones(shape))


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


def test_without_edges_nothing_moves(rng):
    scores, alone = torch.rand(1, 2, 2, 3, generator=rng), torch.eye(6)[None]
    for options in ({}, {"sinkhorn": 3}, {"power": 8, "squarings": 8}):
        walk = transition_matrix(alone, **options)
        torch.testing.assert_close(random_walk(scores, walk), scores)


@pytest.mark.parametrize("options", [{}, {"sinkhorn": 3, "squarings": 1}, {"power": 8}])
def test_a_uniform_affinity_gives_the_mean_everywhere(rng, options):
    scores = torch.rand(1, 2, 2, 3, generator=rng)
    walked = random_walk(scores, transition_matrix(torch.full((1, 6, 6), 0.3), **options))
    expected = scores.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3)
    torch.testing.assert_close(walked, expected)


def test_zeros_stay_zeros_and_constants_constant(affinity):
    walk = transition_matrix(affinity, power=4, squarings=3)
    assert (random_walk(torch.zeros(2, 3, 2, 3), walk) == 0).all()
    constant = torch.full((2, 3, 2, 3), 0.6)
    torch.testing.assert_close(random_walk(constant, walk), constant)


def test_zeroing_columns_equals_zeroing_cells(rng, affinity):
    """The box mask may be laid on the transition's columns or on the map before the walk."""
    scores, walk = torch.rand(2, 1, 2, 3, generator=rng), transition_matrix(affinity, sinkhorn=3)
    box = (torch.rand(2, 1, 2, 3, generator=rng) > 0.5).float()
    on_columns = random_walk(scores, walk * box.flatten(2))
    torch.testing.assert_close(random_walk(scores * box, walk), on_columns)


@pytest.mark.parametrize(("sinkhorn", "squarings"), [(1, 0), (3, 1), (5, 3)])
def test_the_thin_walk_is_the_walk_with_the_whole_matrix(rng, affinity, sinkhorn, squarings):
    scores, before = torch.rand(2, 4, 2, 3, generator=rng), affinity.clone()
    options = {"sinkhorn": sinkhorn, "squarings": squarings}
    expected = random_walk(scores, transition_matrix(affinity, **options))
    torch.testing.assert_close(balanced_walk(scores, affinity, **options), expected)
    assert torch.equal(affinity, before)
    assert balanced_walk(scores[:, :0], affinity).shape == (2, 0, 2, 3)


def test_the_thin_walk_refuses_what_the_matrix_refuses(affinity):
    scores = torch.rand(2, 1, 2, 3)
    for bad in (-affinity, affinity * torch.nan, affinity * (torch.arange(6) > 0)[:, None]):
        with pytest.raises(ValueError, match="expected numbers of 0 or more and no empty row"):
            balanced_walk(scores, bad)
    with pytest.raises(ValueError, match=r"affinity has shape .*6, 6.*for 2 maps of 2x2; resize"):
        balanced_walk(scores[..., :2], affinity)
    with pytest.raises(ValueError, match=r"affinity has shape \(2, 5, 6\), expected \(B, N, N\)"):
        balanced_walk(scores, affinity[:, 1:])


def test_a_transition_of_another_grid():
    text = (
        r"transition has shape \(1, 5, 5\), expected \(1, 60, 60\) for 1 maps of 6x10; resize the"
    )
    with pytest.raises(ValueError, match=text):
        random_walk(torch.zeros(1, 2, 6, 10), torch.zeros(1, 5, 5))


# -- box masks ------------------------------------------------------------------------------


def flood_fill_boxes(level, kept, clamp):
    """Boxes of the 8-connected regions of one map, found by walking from cell to cell."""
    h, w = level.shape
    mask, visited = np.zeros((h, w)), set()
    for start in np.argwhere(kept).tolist():
        if tuple(start) in visited:
            continue
        region, waiting = [], [tuple(start)]
        visited.add(tuple(start))
        while waiting:
            y, x = waiting.pop()
            region.append((y, x))
            for v in range(max(0, y - 1), min(h, y + 2)):
                for u in range(max(0, x - 1), min(w, x + 2)):
                    if kept[v, u] and (v, u) not in visited:
                        visited.add((v, u))
                        waiting.append((v, u))
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
            literal = flood_fill_boxes(level, kept, clamp)
            np.testing.assert_array_equal(result[b, c].numpy(), literal)
    assert result.dtype == cams.dtype and result.shape == cams.shape


def test_diagonal_neighbours_are_one_region():
    cams = torch.zeros(1, 1, 5, 5)
    cams[0, 0, 1, 1] = cams[0, 0, 2, 2] = 1
    expected = torch.zeros(5, 5)
    expected[1:3, 1:3] = 1
    assert torch.equal(box_masks(cams, threshold=0.4)[0, 0], expected)
    cams[0, 0, 2, 2], cams[0, 0, 1, 3] = 0, 1  # a gap makes two boxes
    assert box_masks(cams, threshold=0.4)[0, 0].nonzero().tolist() == [[1, 1], [1, 3]]


def test_clamping_loses_the_last_row_and_column():
    cams = torch.ones(1, 1, 3, 4)
    cams[0, 0, 0, 0] = 0.9
    assert box_masks(cams, threshold=0.4, clamp=False).all()
    clamped = box_masks(cams, threshold=0.4)
    assert clamped[..., :2, :3].all() and not clamped[..., 2, :].any()
    assert not clamped[..., 3].any()
    corner = torch.zeros(1, 1, 3, 4)
    corner[..., 2, 3] = 1
    assert not box_masks(corner, threshold=0.4).any()
    assert box_masks(corner, threshold=0.4, clamp=False).sum() == 1


def test_the_threshold_itself_is_not_kept():
    cams = torch.tensor([102, 103, 255, 0]).view(1, 1, 1, 4) / 255  # int(0.4 * 255) is 102
    kept = box_masks(cams + 1e-4, threshold=0.4, clamp=False)
    assert kept.flatten().tolist() == [0, 1, 1, 0]


def test_empty_maps_have_no_box():
    assert not box_masks(torch.zeros(1, 2, 3, 3), threshold=0.4, clamp=False).any()
