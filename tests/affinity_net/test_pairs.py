"""Pairs of near cells: labels, offsets and the walk; affinities and losses are golden figures."""

import pytest
import torch

from wsss_kit import affinity_net
from wsss_kit.affinity import random_walk, transition_matrix
from wsss_kit.affinity_net.neighbours import balanced_pair_loss, dense, windowed_walk
from wsss_kit.masks import IRN_THRESHOLDS, PSA_POWERS, confident_labels
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline

H = W = 6


def test_a_kind_without_pairs_costs_nothing(rng):
    offsets = affinity_net.half_plane(3)
    between = affinity_net.feature_affinity(torch.randn(2, 7, H, W, generator=rng), offsets)
    for value in (255, 0):
        kinds = affinity_net.pair_kinds(torch.full((2, H, W), value), offsets)
        loss = balanced_pair_loss(between, kinds)
        assert loss.isfinite() and (loss == 0) == (value == 255)


@pytest.mark.parametrize(("power", "squarings"), [(1, 0), (8, 3)])
@pytest.mark.parametrize("size", [(H, W), (1, 1), (1, 9), (7, 2)])
def test_the_walk_by_matrix_powers(rng, size, power, squarings):
    offsets, steps = affinity_net.half_plane(5), 2**squarings
    between = affinity_net.feature_affinity(
        torch.randn(2, 7, *size, generator=rng).double(), offsets
    )
    scores = torch.rand(2, 4, *size, generator=rng).double()
    walk = transition_matrix(dense(between, offsets), power=power, squarings=squarings)
    expected = random_walk(scores, walk)
    result = windowed_walk(scores, between, offsets, power=power, steps=steps)
    assert torch.allclose(result, expected, atol=1e-9)
    result = windowed_walk(scores.float(), between.float(), offsets, power=power, steps=steps)
    assert torch.allclose(result.double(), expected, atol=2e-4)
    with pytest.raises(ValueError, match="resize the maps to the grid of the affinity"):
        windowed_walk(scores[..., :0], between, offsets)


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


def test_two_backgrounds_of_one_kind_the_strong_one_first():
    options = {"refine": lambda s, i, la: s}
    for given in ({}, {"powers": PSA_POWERS, "thresholds": IRN_THRESHOLDS}):
        with pytest.raises(ValueError, match="give powers or thresholds"):
            affinity_net.confident_seeds(None, PaperWorld(1), **given, **options)
    for given in ({"powers": (8, 2)}, {"thresholds": (0.1, 0.3)}):
        with pytest.raises(ValueError, match="expected the strong background first"):
            affinity_net.confident_seeds(None, PaperWorld(1), **given, **options)


def test_published_constants():
    """Others are among the golden figures, and powers of a walk in `test_recipes`."""
    assert IRN_THRESHOLDS == (0.30, 0.05) and Pipeline(lambda *_: None).squarings == 8


def test_cells_take_what_most_of_their_pixels_are(rng):
    values = torch.tensor([0, 1, 2, 255])
    labels = values[torch.randint(0, 4, (2, 12, 20), generator=rng)]
    result = affinity_net.labels_on_grid(labels, (3, 5), 2)
    for b in range(2):
        for y in range(3):
            for x in range(5):
                cell = labels[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten().tolist()
                assert cell.count(int(result[b, y, x])) == max(map(cell.count, cell))
