"""What pictures, labels and numbers have to be: one check for each kind of thing.

Every public door asks these before its work begins. A check costs one pass over the values.
"""

from __future__ import annotations

import math

from torch import Tensor

RANGE_TOLERANCE = 1e-3
"""How far rounding may carry pictures, maps and scores outside [0, 1]."""


def check_range(name: str, values: Tensor, advice: str) -> None:
    """Refuse values outside [0, 1], but for rounding, and NaN.

    Args:
        name: what the values are, for the message.
        values: of any shape.
        advice: what to do about values outside.

    Raises:
        ValueError: with the range that arrived.
    """
    if not values.numel():
        return
    low, high = (value.item() for value in values.detach().float().aminmax())
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"{name} holds NaN, expected numbers in [0, 1]; look at what made them")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(f"{name} ranges from {low:.4g} to {high:.4g}, expected [0, 1]; {advice}")


def check_images(images: Tensor, name: str = "images") -> None:
    """Refuse what is no batch of pictures.

    Args:
        images: (B, 3, H, W) RGB in [0, 1], of a floating-point type.
        name: what they are called where they arrived.

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(
            f"{name} have shape {tuple(images.shape)}, expected (B, 3, H, W) RGB in [0, 1]; "
            "add a batch axis with image[None]"
        )
    _check_colours(images, name)


def check_image(image: Tensor, name: str) -> None:
    """Refuse what is no single picture (3, H, W), as `check_images` does for a batch."""
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape[1:]:
        raise ValueError(f"{name} has shape {tuple(image.shape)}, expected (3, H, W) RGB in [0, 1]")
    _check_colours(image, name)


def _check_colours(values: Tensor, name: str) -> None:
    advice = "divide 8-bit pictures by 255; a network's own normalisation is its own affair"
    if not values.is_floating_point():
        raise ValueError(
            f"{name} hold {str(values.dtype).removeprefix('torch.')}, expected floating-point RGB "
            f"in [0, 1]; {advice}"
        )
    check_range(name, values, advice)


def check_labels(labels: Tensor, name: str = "labels") -> None:
    """Refuse labels that are anything but 0 and 1, of any number type.

    Raises:
        ValueError: with the first value that is neither.
    """
    odd = labels[(labels != 0) & (labels != 1)]
    if odd.numel():
        raise ValueError(f"{name} holds {odd[0].item():.4g}, expected only 0 and 1; threshold them")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        ValueError: with what arrived.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least {least}")


def check_positive(name: str, value: float) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        ValueError: with what arrived.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}, expected a number above 0")


def check_probability(name: str, value: float) -> None:
    """Refuse what is no number in [0, 1].

    Raises:
        ValueError: with what arrived.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, expected a number in [0, 1]")
