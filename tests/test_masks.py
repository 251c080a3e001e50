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
    scores, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[1.0, 0.0]])
    assert (scores_to_masks(scores, labels) == 0).all()
    scores[:, 0] = -5  # logits
    for value, best in ((-9, 0), (-4, 1)):
        scores[:, 1] = value
        for dtype in (torch.float16, torch.float64, torch.int64):
            assert (scores_to_masks(scores.to(dtype), labels.bool()) == best).all()


def test_power_background_by_hand():
    cams = torch.tensor([[0.5, 0.2], [0.1, 0.9]]).reshape(1, 2, 2, 1)  # two classes, two pixels
    scores = add_background(cams.requires_grad_(), power=2)
    assert scores.shape == (1, 3, 2, 1) and not scores.requires_grad
    torch.testing.assert_close(scores[0, 0].flatten(), torch.tensor([0.25, 0.01]))
    assert torch.equal(scores[:, 1:], cams)
    cams = torch.tensor([0.2, 0.25, 0.3]).reshape(1, 1, 1, 3)
    masks = scores_to_masks(add_background(cams, threshold=0.25), torch.ones(1, 1))
    assert masks.flatten().tolist() == [0, 0, 1]  # what a class has to beat
    scores = torch.tensor([0.05, 0.95]).reshape(1, 2, 1, 1)  # a confidence at the border is kept
    assert scores_to_masks(scores, torch.ones(1, 1), min_confidence=0.95).item() == 1


REFUSED = [
    (add_background, (1, 1, 1, 1), {}, "exactly one"),
    (add_background, (1, 1, 1, 1), {"threshold": 0.2, "power": 1}, "exactly one"),
    (add_background, (2, 4, 4), {"power": 1}, r"\(2, 4, 4\).*cams\[None\]"),
    (add_background, (1, 0, 4, 4), {"power": 1}, "at least one class"),
    (scores_to_masks, (3, 4, 4), {"labels": torch.zeros(1, 2)}, r"scores\[None\]"),
    (scores_to_masks, (1, 3, 4, 4), {"labels": torch.zeros(2)}, r"labels\[None\]"),
    (scores_to_masks, (1, 3, 4, 4), {"labels": torch.zeros(2, 2)}, "1 images .* and 2 rows of"),
    (scores_to_masks, (1, 2, 4, 4), {"labels": torch.zeros(1, 2)}, "add_background"),
    (scores_to_masks, (1, 5, 4, 4), {"labels": torch.zeros(1, 2)}, "expected 3 channels"),
]


@pytest.mark.parametrize(("function", "shape", "given", "message"), REFUSED)
def test_shapes_and_rules_that_are_refused(function, shape, given, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(shape), **given)
