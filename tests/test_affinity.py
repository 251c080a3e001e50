"""From affinity to refined maps: what must hold of any walk, and boxes against a flood fill."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from wsss_kit.affinity import balanced_walk, box_masks, random_walk, transition_matrix


@pytest.fixture
def affinity(rng):
    return torch.rand(2, 6, 6, generator=rng) + 0.01


# -- walks; powers, three rounds of Sinkhorn and the steps themselves are golden figures ---------


def test_one_round_of_sinkhorn_by_hand(affinity):
    columns = affinity / affinity.sum(1, keepdim=True)
    rows = columns / columns.sum(2, keepdim=True)
    result = transition_matrix(affinity, sinkhorn=1, squarings=0)
    torch.testing.assert_close(result, (rows + rows.mT) / 2)


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
    lonely = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])  # nobody looks at the second cell
    with pytest.raises(ValueError, match="no empty row or column"):
        balanced_walk(scores[:1, :, :1, :2], lonely)
    with pytest.raises(ValueError, match="no empty row or column"):
        transition_matrix(lonely, sinkhorn=2)
    for call, message in (
        (lambda: balanced_walk(scores[..., :2], affinity), r"6, 6.*for 2 maps of 2x2; resize"),
        (lambda: balanced_walk(scores, affinity[:, 1:]), r"\(2, 5, 6\), expected \(B, N, N\)"),
        (lambda: transition_matrix(affinity[0]), r"\(6, 6\), expected \(B, N, N\)"),
        (lambda: random_walk(scores[..., :2], affinity), "transition .*for 2 maps of 2x2; resize"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# -- box masks ------------------------------------------------------------------------------


def flood_fill_boxes(kept, clamp):
    """Boxes of the 8-connected regions of one map, each grown from one of its cells."""
    (h, w), left, mask = kept.shape, kept.copy(), np.zeros(kept.shape)
    while left.any():
        start = np.zeros(kept.shape, bool)
        start.flat[left.argmax()] = True
        region = binary_dilation(start, np.ones((3, 3)), iterations=-1, mask=kept)
        left &= ~region
        ys, xs = region.nonzero()
        y1, x1 = ys.max() + 1, xs.max() + 1
        if clamp:
            y1, x1 = min(y1, h - 1), min(x1, w - 1)
        mask[ys.min() : y1, xs.min() : x1] = 1
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
