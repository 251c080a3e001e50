"""What images, labels and numbers have to be: one check for each kind of thing.

Every public function checks its arguments before its work begins. A check costs one pass over
the values.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

RANGE_TOLERANCE = 1e-3  # how far rounding may carry images, maps and scores outside [0, 1]
_LARGEST = 3e38  # float32 ends there
_CHECKED = ContextVar("checked", default=False)


@contextmanager
def checked() -> Iterator[None]:
    """Leave out checks of pixels, labels and maps while this lasts: they were checked before.

    `Pipeline` checks values where data enters. Inside the chain only shapes are checked, because a
    check of values reads every pixel and makes a GPU wait.

    Example:
        >>> with checked():
        ...     check_range("maps", torch.tensor([2.0]), "scale them")
    """
    token = _CHECKED.set(True)
    try:
        yield
    finally:
        _CHECKED.reset(token)


def check_shape(right: bool, name: str, values: Any, expected: str) -> None:
    """Raise an error that names the shape and what was expected, if it is not right.

    Raises:
        ValueError: with the shape that arrived.
    """
    if not right:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected {expected}")


def check_tensor(values: Tensor, name: str) -> None:
    """Raise an error for what is no tensor: arrays, lists, None.

    Raises:
        ValueError: with the type that arrived.
    """
    if not isinstance(values, Tensor):
        type_name = type(values).__name__
        raise ValueError(f"{name} is {type_name}, expected a tensor; use torch.from_numpy or stack")


def check_range(name: str, values: Tensor, advice: str) -> None:
    """Raise an error for values outside [0, 1], but for rounding, and for NaN.

    Args:
        name: what the values are, for the message.
        values: of any shape.
        advice: what to do about values outside.

    Raises:
        ValueError: with the range that arrived.
    """
    if not values.numel() or _CHECKED.get():
        return
    low, high = (value.item() for value in values.detach().float().aminmax())
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"{name} holds NaN, expected numbers in [0, 1]; look at what made them")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(f"{name} ranges from {low:.4g} to {high:.4g}, expected [0, 1]; {advice}")


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise an error for what is no batch of images.

    Args:
        images: (B, 3, H, W) RGB in [0, 1], of a floating-point type.
        name: what they are called where they arrived.

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    _check_rgb(images, name, "have", 4, "(B, 3, H, W) RGB in [0, 1]; add an axis with image[None]")


def check_image(image: Tensor, name: str) -> None:
    """Raise an error for what is no single image (3, H, W), as `check_images` does."""
    _check_rgb(image, name, "has", 3, "(3, H, W) RGB in [0, 1]")


def _check_rgb(values: Tensor, name: str, verb: str, n_axes: int, expected: str) -> None:
    """Raise an error for what has another number of axes, no three channels or no colours."""
    check_tensor(values, name)
    shape = tuple(values.shape)
    if len(shape) != n_axes or shape[-3] != 3 or 0 in shape[-2:]:
        raise ValueError(f"{name} {verb} shape {shape}, expected {expected}")
    advice = "divide 8-bit images by 255; a network's own normalisation is its own affair"
    if not values.is_floating_point():
        dtype = str(values.dtype).removeprefix("torch.")
        raise ValueError(f"{name} hold {dtype}, expected floating-point RGB in [0, 1]; {advice}")
    check_range(name, values, advice)


def check_labels(labels: Tensor, name: str = "labels") -> None:
    """Raise an error for labels that are anything but 0 and 1, of any dtype.

    Raises:
        ValueError: with the first value that is neither.
    """
    check_tensor(labels, name)
    if _CHECKED.get():
        return
    odd = labels[(labels != 0) & (labels != 1)]
    if odd.numel():
        raise ValueError(f"{name} holds {odd[0].item():.4g}, expected only 0 and 1; threshold them")


def check_not_nan(name: str, values: Tensor) -> None:
    """Raise an error for NaN.

    Raises:
        ValueError: if there is one.
    """
    if values.isnan().any():
        raise ValueError(f"{name} holds NaN, expected numbers; look at the step that made them")


def check_floating(values: Tensor, name: str) -> None:
    """Raise an error for what is no floating-point tensor: arrays, lists, integers.

    Raises:
        ValueError: with what arrived.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        dtype = str(getattr(values, "dtype", type(values).__name__)).removeprefix("torch.")
        raise ValueError(f"{name} is {dtype}, expected a tensor of floating-point numbers")


def check_maps(maps: Tensor, name: str = "maps") -> None:
    """Raise an error for what is no batch of maps (B, C, h, w) of a floating-point type.

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    check_floating(maps, name)
    expected = f"(B, C, h, w); add the batch axis of one image with {name}[None]"
    check_shape(maps.ndim == 4, name, maps, expected)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise an error for what is no whole number of at least ``least``.

    Raises:
        ValueError: with what arrived.
    """
    right = _is_number(value, Integral) and value >= least
    _expect(right, name, value, f"a whole number of at least {least}")
    _expect(value < 2**31, name, value, "a whole number of at most 2147483647")


def check_seed(seed: int, name: str = "seed") -> None:
    """Raise an error for what is no seed, a whole number from 0 to 2^32 - 1.

    Raises:
        ValueError: with what arrived.
    """
    right = _is_number(seed, Integral) and 0 <= seed < 2**32
    _expect(right, name, seed, "a whole number from 0 to 4294967295")


def check_given(check: Callable[[str, Any], None], **values: Any) -> None:
    """Check the values that are not None, each under its name.

    Example:
        >>> check_given(check_count, rounds=3, crop=None)
    """
    for name, value in values.items():
        if value is not None:
            check(name, value)


def check_word(name: str, word: str, known: Iterable[str]) -> None:
    """Raise an error for a word that is not in a list.

    Raises:
        ValueError: with what arrived, and the list.
    """
    _expect(isinstance(word, str) and word in known, name, word, f"one of {', '.join(known)}")


def check_counts(name: str, values: Sequence[int], unit: str) -> None:
    """Raise an error unless these are whole numbers of at least 1, at least one of them.

    Raises:
        ValueError: with what arrived.
    """
    right = _are_numbers(values, Integral) and min(values) >= 1
    _expect(right, name, values, f"whole numbers of {unit}, at least 1")


def _expect(right: bool, name: str, value: Any, expected: str) -> None:
    """Raise an error that names the value and what was expected, if it is not right."""
    if not right:
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def _is_number(value: Any, number_type: type = Real) -> bool:
    """Return whether a value is a number of a kind; bools are none."""
    return isinstance(value, number_type) and not isinstance(value, bool)


def _are_numbers(values: Any, number_type: type = Real) -> bool:
    """Return whether this is a sequence of numbers of a kind that is not empty."""
    listed = isinstance(values, Sequence) and len(values) > 0
    return listed and all(_is_number(value, number_type) for value in values)


def check_positive(name: str, value: Any, advice: str = "") -> None:
    """Raise an error for what is no finite number above 0; ``advice`` ends the message.

    Raises:
        ValueError: with what arrived.
    """
    _expect(_is_number(value) and 0 < value < math.inf, name, value, f"a number above 0{advice}")
    check_not_negative(name, value)


def check_not_negative(name: str, value: Any, advice: str = "") -> None:
    """Raise an error for what is no finite number of at least 0; ``advice`` ends the message.

    Raises:
        ValueError: with what arrived.
    """
    right = _is_number(value) and 0 <= value < math.inf
    _expect(right, name, value, f"a number of 0 or more{advice}")
    _expect(value <= _LARGEST, name, value, f"a number of at most {_LARGEST:g}")


def check_probability(name: str, value: Any) -> None:
    """Raise an error for what is no number in [0, 1].

    Raises:
        ValueError: with what arrived.
    """
    _expect(_is_number(value) and 0 <= value <= 1, name, value, "a number in [0, 1]")


def check_scales(scales: Sequence[float]) -> None:
    """Raise an error unless these are factors in (0, 100] on an image's sides, at least one.

    Raises:
        ValueError: with what arrived.
    """
    right = _are_numbers(scales) and all(0 < scale <= 100 for scale in scales)
    _expect(right, "scales", scales, "at least one positive factor, up to 100: (1.0, 0.5)")


def check_size(name: str, size: Sequence[int]) -> None:
    """Raise an error unless these are two whole numbers of pixels (H, W), each at least 1.

    Raises:
        ValueError: with what arrived.
    """
    right = _are_numbers(size, Integral) and len(size) == 2 and min(size) >= 1
    _expect(right, name, size, "two whole numbers of pixels (H, W)")


def check_device(device: str | torch.device) -> None:
    """Raise an error for what is neither ``"auto"`` nor a device that is there.

    Raises:
        ValueError: with what arrived and what is there.
    """
    if device == "auto":
        return
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = torch.device("meta")
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    here = ["cpu", *(f"{name}:{i}" for name, count in counts.items() for i in range(count))]
    right = (chosen.index or 0) < counts.get(chosen.type, 1) and chosen.type != "meta"
    _expect(right, "device", device, f"'auto' or one that is here: {', '.join(here)}")


def chosen_device(device: str | torch.device) -> torch.device:
    """Return a device by name; ``"auto"`` is CUDA where there is one.

    Raises:
        ValueError: with what arrived and what is there.
    """
    check_device(device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Raise an error for the recipe of a training with a number out of its range.

    Raises:
        ValueError: naming the number and what was expected.
    """
    counts = ("epochs", "iterations", "batch_size", "accumulate", "crop")
    check_given(check_count, **{name: recipe.get(name) for name in counts})
    check_positive("learning_rate", recipe["learning_rate"])
    check_not_negative("weight_decay", recipe["weight_decay"])
    check_seed(recipe["seed"])
    if recipe["workers"] is not None:
        check_count("workers", recipe["workers"], least=0)
    if recipe.get("long_side") is not None:
        pair = recipe["long_side"]
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"long_side is {pair!r}, expected two numbers, shortest and longest")
        shortest, longest = pair
        check_count("the shortest long_side", shortest)
        check_count("the longest long_side", longest, least=shortest)


def check_samples(samples: Sequence[Any]) -> None:
    """Raise an error for what is no sequence of labelled images; only the first is looked at.

    Raises:
        ValueError: with what arrived.
    """
    type_name = type(samples).__name__
    if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
        raise ValueError(f"samples is a {type_name}, expected a sequence; give list(samples)")
    if len(samples) == 0:
        raise ValueError("samples is empty, expected at least one labelled image")
    first = next(iter(samples))
    if not all(hasattr(first, part) for part in ("name", "image", "labels")):
        type_name = type(first).__name__
        raise ValueError(f"samples holds a {type_name} first, expected Sample(name, image, labels)")
