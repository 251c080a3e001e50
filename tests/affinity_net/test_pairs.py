"""Pairs of near cells: labels, affinities, losses and the walk against nested loops."""

from __future__ import annotations

import math

import pytest
import torch

from wsss_kit.affinity import random_walk, transition_matrix
from wsss_kit.affinity_net import (
    AffinityNet,
    confident_seeds,
    feature_affinity,
    half_plane,
    labels_on_grid,
    pair_kinds,
)
from wsss_kit.affinity_net.neighbours import (
    balanced_pair_loss,
    boundary_affinity,
    dense,
    windowed_walk,
)
from wsss_kit.masks import IRN_THRESHOLDS, PSA_POWERS, BackgroundRule, confident_labels
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline

H = W = 6


@pytest.fixture
def labels(rng):
    """Two images with every kind of label."""
    return torch.tensor([0, 0, 1, 2, 255])[torch.randint(0, 5, (2, H, W), generator=rng)]


@pytest.fixture
def features(rng):
    return torch.randn(2, 7, H, W, generator=rng)


def near(radius):
    """All ordered pairs of different cells nearer than the radius, by nested loops."""
    cells = [(y, x) for y in range(H) for x in range(W)]
    for i, (y, x) in enumerate(cells):
        for j, (v, u) in enumerate(cells):
            if i != j and math.hypot(y - v, x - u) < radius:
                yield i, j, (y, x), (v, u)


def alike(features, first, second):
    """exp(- mean of the absolute differences) of two cells of (D, h, w)."""
    differences = [abs(float(f[first]) - float(f[second])) for f in features]
    return math.exp(-sum(differences) / len(differences))


@pytest.mark.parametrize(("radius", "count"), [(2, 4), (3, 12), (5, 34), (10, 152)])
def test_every_pair_comes_once(radius, count):
    offsets = half_plane(radius)
    assert len(offsets) == len(set(offsets)) == count
    both = {*offsets, *((-dy, -dx) for dy, dx in offsets)}
    assert len(both) == 2 * count
    limit = range(-radius, radius + 1)
    assert both == {(dy, dx) for dy in limit for dx in limit if 0 < math.hypot(dy, dx) < radius}


@pytest.mark.parametrize("radius", [2, 3, 5])
def test_the_affinity_of_features_by_nested_loops(features, radius):
    offsets = half_plane(radius)
    whole = dense(feature_affinity(features, offsets), offsets)
    expected = torch.eye(H * W).repeat(2, 1, 1)
    for b in range(2):
        for i, j, first, second in near(radius):
            expected[b, i, j] = alike(features[b], first, second)
    assert torch.allclose(whole, expected, atol=1e-6)
    assert torch.equal(whole, whole.mT)


@pytest.mark.parametrize("radius", [2, 5])
def test_kinds_of_pairs_and_the_loss_by_nested_loops(features, labels, radius):
    offsets = half_plane(radius)
    between = feature_affinity(features, offsets)
    result = balanced_pair_loss(between, pair_kinds(labels, offsets))
    logs = {"background": [], "foreground": [], "different": []}
    for b in range(2):
        for i, j, first, second in near(radius):
            one, other = int(labels[b][first]), int(labels[b][second])
            if i > j or 255 in (one, other):
                continue
            a = alike(features[b], first, second)
            if one != other:
                logs["different"].append(-math.log(1 - a + 1e-5))
            else:
                logs["foreground" if one else "background"].append(-math.log(a + 1e-5))
    mean = {variant: sum(values) / len(values) for variant, values in logs.items()}
    expected = mean["background"] / 4 + mean["foreground"] / 4 + mean["different"] / 2
    assert result.item() == pytest.approx(expected, rel=1e-4)


def test_a_kind_without_pairs_costs_nothing(features):
    offsets = half_plane(3)
    between = feature_affinity(features, offsets).requires_grad_()
    for value in (255, 0):
        kinds = pair_kinds(torch.full((2, H, W), value), offsets)
        loss = balanced_pair_loss(between, kinds)
        assert loss.isfinite() and (loss == 0) == (value == 255)


def test_the_loss_pulls_alike_cells_together_and_others_apart():
    features = torch.randn(1, 8, H, W, generator=torch.Generator().manual_seed(1))
    features.requires_grad_()
    labels = torch.zeros(1, H, W, dtype=torch.int64)
    labels[:, :, 3:] = 1
    offsets, optimiser = half_plane(3), torch.optim.Adam([features], 0.1)
    kinds = pair_kinds(labels, offsets)
    for _ in range(60):
        loss = balanced_pair_loss(feature_affinity(features, offsets), kinds)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    between = feature_affinity(features.detach(), offsets)
    assert between[kinds == 2].max() < 0.2 < 0.8 < between[(kinds == 0) | (kinds == 1)].min()


@pytest.mark.parametrize("squarings", [0, 1, 3, 8])
@pytest.mark.parametrize("power", [1, 8])
def test_the_walk_by_matrix_powers(features, rng, power, squarings):
    offsets, steps = half_plane(5), 2**squarings
    between = feature_affinity(features.double(), offsets)
    scores = torch.rand(2, 4, H, W, generator=rng).double()
    walk = transition_matrix(dense(between, offsets), power=power, squarings=squarings)
    assert torch.allclose(walk.sum(2), walk.new_ones(2, H * W), atol=1e-9)  # rows: who gives
    expected = random_walk(scores, walk)
    result = windowed_walk(scores, between, offsets, power=power, steps=steps)
    assert torch.allclose(result, expected, atol=1e-9)
    result = windowed_walk(scores.float(), between.float(), offsets, power=power, steps=steps)
    assert torch.allclose(result.double(), expected, atol=2e-4)


def test_psa_writes_the_same_walk_with_columns(features, rng):
    # infer_aff.py: T = A^8, divided by column sums, squared 8 times; maps (K, N) times T
    offsets = half_plane(5)
    between = feature_affinity(features[:1].double(), offsets)
    whole = dense(between, offsets)[0] ** 8
    T = whole / whole.sum(0, keepdim=True)
    for _ in range(8):
        T = T @ T
    scores = torch.rand(1, 3, H, W, generator=rng).double()
    expected = (scores[0].flatten(1) @ T).view(3, H, W)
    assert torch.allclose(windowed_walk(scores, between, offsets)[0], expected, atol=1e-9)


def test_a_wall_of_no_affinity_is_not_walked_through():
    features = torch.zeros(1, 1, H, W)
    features[..., 3:] = 1000  # affinity 0
    offsets = half_plane(3)
    scores = torch.zeros(1, 1, H, W)
    scores[..., 0, 0] = 1
    walked = windowed_walk(scores, feature_affinity(features, offsets), offsets, steps=512)
    assert (walked[..., 3:] == 0).all() and (walked[..., :3] > 0.04).all()


def test_maps_of_another_grid_are_refused(features):
    offsets = half_plane(3)
    between = feature_affinity(features, offsets)
    with pytest.raises(ValueError, match="resize the maps to the grid of the affinity"):
        windowed_walk(torch.zeros(2, 1, H, W + 1), between, offsets)
    with pytest.raises(ValueError, match="radius is 1, expected"):
        half_plane(1)


def test_small_images_have_fewer_neighbours(rng):
    offsets = half_plane(5)
    for h, w in ((1, 1), (1, 9), (7, 2)):
        between = feature_affinity(torch.randn(1, 3, h, w, generator=rng), offsets)
        walk = transition_matrix(dense(between, offsets), power=8, squarings=2)
        scores = torch.rand(1, 2, h, w, generator=rng)
        result = windowed_walk(scores, between, offsets, power=8, steps=4)
        assert torch.allclose(result, random_walk(scores, walk), atol=1e-6)


def test_confident_labels_by_hand():
    # scores as a CRF leaves them: background, cow, cat; five pixels
    objects = torch.tensor([[0.9, 0.8, 0.1, 0.2, 0.1], [0.1, 0.2, 0.8, 0.3, 0.9]])
    doubting = torch.stack([objects[0], objects[1], torch.zeros(5)])[None, :, None]
    background = torch.tensor([[0.8, 0.3, 0.1, 0.1, 0.7], [0.2, 0.7, 0.9, 0.2, 0.3]])
    background = torch.stack([background[0], background[1], torch.zeros(5)])[None, :, None]
    doubting[0, 2, 0, 3] = background[0, 2, 0, 3] = 0.5
    options = {"images": torch.zeros(1, 3, 1, 5), "labels": torch.ones(1, 2)}
    options["refine"] = lambda scores, images, labels: scores
    #                both background, weak object, both cow, both cat, strong cow but background
    result = confident_labels(doubting, background, **options)
    assert result.tolist() == [[[0, 255, 1, 2, 0]]]
    result = confident_labels(doubting, background, **options, background_first=False)
    assert result.tolist() == [[[0, 255, 1, 2, 1]]]


def test_seeds_of_a_data_set_are_two_passes_of_every_image():
    world, cam = PaperWorld(3), torch.linspace(0, 1, 96).expand(96, 96)

    def maps_of(images, labels):
        return labels[:, :, None, None] * cam

    result = confident_seeds(maps_of, world, powers=(2, 8), refine=lambda s, i, la: s, shown=False)
    for sample in world:
        value = 1 + int(sample.labels.argmax())
        sure, background = cam > (1 - cam) ** 2, cam <= (1 - cam) ** 8
        expected = torch.full((96, 96), 255)
        expected[sure] = value
        expected[background] = 0
        assert torch.equal(result[sample.name], expected)
        assert {0, value, 255} == set(expected.unique().tolist())
    by_constants = confident_seeds(
        maps_of, world, thresholds=(0.3, 0.05), refine=lambda s, i, la: s, shown=False
    )
    seed = by_constants[world.names[0]]
    assert (seed[cam > 0.3] > 0).all() and (seed[cam <= 0.05] == 0).all()
    assert (seed[(cam > 0.05) & (cam <= 0.3)] == 255).all()


def test_two_backgrounds_of_one_kind_the_strong_one_first():
    options = {"refine": lambda s, i, la: s}
    for given in ({}, {"powers": PSA_POWERS, "thresholds": IRN_THRESHOLDS}):
        with pytest.raises(ValueError, match="give powers or thresholds"):
            confident_seeds(None, PaperWorld(1), **given, **options)
    for given in ({"powers": (8, 2)}, {"thresholds": (0.1, 0.3)}):
        with pytest.raises(ValueError, match="expected the strong background first"):
            confident_seeds(None, PaperWorld(1), **given, **options)


def test_published_constants():
    assert PSA_POWERS == (4, 32) and IRN_THRESHOLDS == (0.30, 0.05)
    walks, images, scores = [], torch.zeros(1, 3, 2, 2), torch.ones(1, 2, 2, 2)

    class Recorded(AffinityNet):
        def walk(self, scores, images, **options):
            walks.append(options)
            return scores

    def maps_of(images, labels):
        return scores

    for background in (BackgroundRule(power=16), BackgroundRule(threshold=0.2)):
        pipeline = Pipeline(maps_of, background=background, affinity=Recorded(device="cpu"))
        pipeline(images, torch.ones(1, 2))
    assert walks == [{"power": 8, "squarings": 8}, {"power": 10, "squarings": 8}]


def test_cells_take_what_most_of_their_pixels_are(rng):
    values = torch.tensor([0, 1, 2, 255])
    labels = values[torch.randint(0, 4, (2, 12, 20), generator=rng)]
    result = labels_on_grid(labels, (3, 5), 2)
    for b in range(2):
        for y in range(3):
            for x in range(5):
                cell = labels[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten().tolist()
                assert cell.count(int(result[b, y, x])) == max(map(cell.count, cell))


@pytest.mark.parametrize("radius", [2, 3, 5])
def test_the_boundary_between_two_cells_by_nested_loops(rng, radius):
    edges = torch.rand(2, 1, H, W, generator=rng)
    offsets = half_plane(radius)
    whole = dense(boundary_affinity(edges, offsets), offsets)
    for b in range(2):
        for i, j, (y, x), (v, u) in near(radius):
            length, met = math.hypot(v - y, u - x), []
            for r in range(min(y, v), max(y, v) + 1):
                for c in range(min(x, u), max(x, u) + 1):
                    apart = abs((v - y) * (c - x) - (u - x) * (r - y)) / length
                    if apart < 1 - 1e-9:
                        met.append(float(edges[b, 0, r, c]))
            assert whole[b, i, j] == pytest.approx(1 - max(met), abs=1e-6)
