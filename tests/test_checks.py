"""What is let in and what is refused, kind by kind."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from wsss_kit.checks import (
    RANGE_TOLERANCE,
    check_count,
    check_image,
    check_images,
    check_labels,
    check_positive,
    check_probability,
    check_range,
    check_word,
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_images_of_every_floating_type_are_let_in(dtype):
    images = torch.rand(2, 3, 4, 5).to(dtype)
    assert check_images(images) is None and check_image(images[0], "it") is None
    assert check_images(images.requires_grad_()) is None


@pytest.mark.parametrize("beyond", [-0.9 * RANGE_TOLERANCE, 1 + 0.9 * RANGE_TOLERANCE])
def test_rounding_is_let_in(beyond):
    assert check_images(torch.full((1, 3, 1, 1), beyond)) is None
    assert check_range("scores", torch.zeros(0), "") is None


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("inf"), -float("inf"), float("nan")])
def test_one_value_outside_is_enough(value):
    images = torch.full((2, 3, 4, 5), 0.5)
    images[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"images (ranges from|holds NaN).*\[0, 1\]"):
        check_images(images, "images")
    with pytest.raises(ValueError, match=r"image 'a' (ranges from|holds NaN)"):
        check_image(images[1], "image 'a'")


@pytest.mark.parametrize(
    "shape", [(3, 4, 5), (1, 4, 4, 5), (1, 4, 5, 3), (1, 1, 3, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0)]
)
def test_shapes_that_are_no_batch(shape):
    with pytest.raises(ValueError, match=r"images have shape .*, expected \(B, 3, H, W\)"):
        check_images(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 5), (1, 3, 4, 5), (1, 4, 5), (4, 5, 3), (3, 0, 5)])
def test_shapes_that_are_no_image(shape):
    with pytest.raises(ValueError, match=r"it has shape .*, expected \(3, H, W\)"):
        check_image(torch.zeros(shape), "it")


def test_labels_of_every_number_type_are_let_in():
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32):
        assert check_labels(torch.tensor([[0, 1], [1, 0]]).to(dtype)) is None
    assert check_labels(torch.zeros(0, 3)) is None


@pytest.mark.parametrize("value", [-1, 2, 0.5, 255, float("nan"), float("inf")])
def test_labels_are_zero_or_one(value):
    labels = torch.tensor([[0.0, 1.0], [1.0, value]])
    with pytest.raises(ValueError, match=f"labels holds {value:.4g}, expected only 0 and 1"):
        check_labels(labels)


def test_counts():
    assert check_count("n", 1) is None and check_count("n", 0, least=0) is None
    for value in (0, -1, 1.0, True, "1", None, np.float64(1), float("nan")):
        with pytest.raises(ValueError, match=r"n is .*, expected a whole number of at least 1"):
            check_count("n", value)


def test_positive_numbers():
    assert check_positive("x", 1e-9) is None and check_positive("x", 3) is None
    for value in (0, -1.0, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(ValueError, match=r"x is .*, expected a number above 0"):
            check_positive("x", value)


def test_probabilities():
    assert all(check_probability("p", value) is None for value in (0, 1, 0.3))
    for value in (-0.1, 1.1, float("nan"), True, "0.5", None):
        with pytest.raises(ValueError, match=r"p is .*, expected a number in \[0, 1\]"):
            check_probability("p", value)


@pytest.mark.parametrize("word", ["pears", "", None, 3, ["plums"]])
def test_words_of_a_list(word):
    check_word("fruit", "plums", ("apples", "plums"))
    with pytest.raises(ValueError, match=f"fruit is {re.escape(repr(word))}, expected one of app"):
        check_word("fruit", word, ("apples", "plums"))
