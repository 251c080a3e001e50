"""What both refinements ask of their scores, pictures and numbers."""

from __future__ import annotations

from torch import Tensor

from wsss_kit.checks import check_floating, check_not_negative, check_positive, check_range


def check_scores_and_images(scores: Tensor, images: Tensor) -> None:
    """Refuse scores and pictures that do not belong together or are not what they should be.

    Args:
        scores: (B, K, H, W) in [0, 1].
        images: (B, 3, H, W) RGB in [0, 1].

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    check_floating(scores, "scores")
    check_floating(images, "images")
    if scores.ndim != 4 or 0 in scores.shape[1:]:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}, expected (B, K, H, W) with at least one "
            "class and one pixel; give one picture's scores as scores[None]"
        )
    expected = (len(scores), 3, *scores.shape[-2:])
    if images.shape != expected:
        raise ValueError(
            f"images has shape {tuple(images.shape)} but scores {tuple(scores.shape)} needs "
            f"{expected}; resize the scores to the picture with cam.upsample"
        )
    check_range("scores", scores, "scale maps with cam.normalize_cams, logits with a softmax")
    check_range("images", images, "divide 8-bit pictures by 255")


def check_weight(name: str, weight: float) -> None:
    """Refuse a kernel's weight that is negative, infinite or NaN."""
    try:
        check_not_negative(name, weight)
    except ValueError as error:
        raise ValueError(f"{error}; 0 leaves its kernel out") from None


def check_deviation(name: str, deviation: float, weight: str) -> None:
    """Refuse a standard deviation that is not above 0."""
    try:
        check_positive(name, deviation)
    except ValueError as error:
        raise ValueError(f"{error}; {weight}=0 leaves its kernel out") from None
