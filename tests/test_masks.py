"""Background rules and the competition of classes, against literal loops."""

import pytest
import torch

from wsss_kit.masks import add_background, scores_to_masks


def literal_masks(scores, labels, min_confidence):
    """Pixel by pixel: the first best among background and present classes."""
    B, K, H, W = scores.shape
    masks = torch.zeros(B, H, W, dtype=torch.int64)
    for b in range(B):
        allowed = [0] + [c + 1 for c in range(K - 1) if labels[b, c] == 1]
        for y in range(H):
            for x in range(W):
                best = max(allowed, key=lambda k: scores[b, k, y, x].item())
                unsure = min_confidence is not None and scores[b, best, y, x] < min_confidence
                masks[b, y, x] = 255 if unsure and len(allowed) > 1 else best
    return masks


@pytest.mark.parametrize("min_confidence", [None, 0.7])
def test_masks_equal_the_literal_loop(min_confidence):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(4, 6, 7, 5, generator=generator)
    labels = (torch.rand(4, 5, generator=generator) > 0.5).float()
    labels[0] = 0  # an image of nothing
    masks = scores_to_masks(scores, labels, min_confidence=min_confidence)
    assert masks.dtype == torch.int64
    assert torch.equal(masks, literal_masks(scores, labels, min_confidence))
    assert (masks == 255).any() == (min_confidence is not None)


def test_absent_classes_never_win_even_over_nothing():
    scores = torch.zeros(1, 3, 2, 2)
    assert (scores_to_masks(scores, torch.tensor([[1.0, 0.0]])) == 0).all()
    scores[:, 0] = -5  # logits
    scores[:, 1] = -9
    assert (scores_to_masks(scores, torch.tensor([[1, 0]])) == 0).all()
    scores[:, 1] = -4
    assert (scores_to_masks(scores, torch.tensor([[1, 0]])) == 1).all()


def test_confidence_at_the_border_is_kept():
    scores = torch.tensor([0.05, 0.95]).reshape(1, 2, 1, 1)
    assert scores_to_masks(scores, torch.ones(1, 1), min_confidence=0.95).item() == 1


def test_an_image_without_labels_is_background_without_confidence():
    masks = scores_to_masks(torch.full((1, 3, 2, 2), 0.3), torch.zeros(1, 2), min_confidence=0.95)
    assert (masks == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_scores_of_any_type(dtype):
    scores = torch.tensor([0, 1, 3]).reshape(1, 3, 1, 1).to(dtype)
    assert scores_to_masks(scores, torch.tensor([[True, False]])).item() == 1


def test_power_background_by_hand():
    cams = torch.tensor([[0.5, 0.2], [0.1, 0.9]]).reshape(1, 2, 2, 1)  # two classes, two pixels
    scores = add_background(cams.requires_grad_(), power=2)
    assert scores.shape == (1, 3, 2, 1) and not scores.requires_grad
    torch.testing.assert_close(scores[0, 0].flatten(), torch.tensor([0.25, 0.01]))
    assert torch.equal(scores[:, 1:], cams)


def test_threshold_is_what_a_class_has_to_beat():
    cams = torch.tensor([0.2, 0.25, 0.3]).reshape(1, 1, 1, 3)
    masks = scores_to_masks(add_background(cams, threshold=0.25), torch.ones(1, 1))
    assert masks.flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize("options", [{}, {"threshold": 0.2, "power": 1}])
def test_exactly_one_background_rule(options):
    with pytest.raises(ValueError, match="exactly one"):
        add_background(torch.zeros(1, 1, 1, 1), **options)


@pytest.mark.parametrize(
    ("cams", "options", "message"),
    [
        (torch.zeros(2, 4, 4), {"power": 1}, r"\(2, 4, 4\).*cams\[None\]"),
        (torch.zeros(1, 0, 4, 4), {"power": 1}, "at least one class"),
        (torch.full((1, 1, 2, 2), 3.0), {"power": 1}, "3 to 3.*normalize_cams"),
        (torch.full((1, 1, 2, 2), float("nan")), {"power": 1}, "NaN"),
        (torch.full((1, 1, 2, 2), float("nan")), {"threshold": 0.3}, "NaN"),
        (torch.full((1, 1, 2, 2), 255), {"threshold": 0.3}, "is int64, expected"),
        (torch.full((1, 1, 2, 2), 255.0), {"threshold": 0.3}, "255 to 255.*normalize_cams"),
        (torch.zeros(1, 1, 2, 2), {"power": 0}, "power is 0"),
        (torch.zeros(1, 1, 2, 2), {"threshold": 40}, "threshold is 40"),
    ],
)
def test_background_errors(cams, options, message):
    with pytest.raises(ValueError, match=message):
        add_background(cams, **options)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(1, 2), r"scores\[None\]"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(2), r"labels\[None\]"),
        (
            torch.zeros(1, 3, 4, 4),
            torch.zeros(2, 2),
            "1 images of scores and 2 rows of labels, expected one row",
        ),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 2), "add_background"),
        (torch.zeros(1, 5, 4, 4), torch.zeros(1, 2), "expected 3 channels"),
        (torch.zeros(1, 3, 4, 4), torch.full((1, 2), 0.4), "holds 0.4"),
        (torch.full((1, 3, 4, 4), float("nan")), torch.zeros(1, 2), "NaN"),
    ],
)
def test_mask_errors(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        scores_to_masks(scores, labels)


@pytest.mark.parametrize("confidence", [-0.1, 95, float("nan")])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match=r"min_confidence is .*expected a number in \[0, 1\]"):
        scores_to_masks(torch.ones(1, 2, 2, 2), torch.ones(1, 1), min_confidence=confidence)
