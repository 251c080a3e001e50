"""What is let in and what is refused, kind by kind; `test_refusals` asks all public functions."""

from functools import partial

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

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_images_of_every_floating_type_rounding_and_nothing_are_let_in(dtype):
    images = torch.rand(2, 3, 4, 5).to(dtype)
    assert check_images(images.requires_grad_()) is check_image(images[0], "it") is None
    for beyond in (-0.9 * RANGE_TOLERANCE, 1 + 0.9 * RANGE_TOLERANCE):
        assert check_images(torch.full((1, 3, 1, 1), beyond)) is None
    assert check_range("scores", torch.zeros(0), "") is check_labels(torch.zeros(0, 3)) is None


ODD = [NAN, True, None, "1"]
CHECKS = [
    (check_count, [1], [0, -1, 1.0, np.float64(1)], "a whole number of at least 1"),
    (check_positive, [1e-9, 3], [0, -1.0, INF], "a number above 0"),
    (check_probability, [0, 1, 0.3], [-0.1, 1.1], r"a number in \[0, 1\]"),
    (partial(check_word, known=("plums", "pears")), ["plums"], ["", ["plums"]], "one of plums, pe"),
]


@pytest.mark.parametrize(("check", "right", "wrong", "expected"), CHECKS)
def test_numbers_and_words(check, right, wrong, expected):
    assert all(check("x", value) is None for value in right)
    for value in [*wrong, *ODD]:
        with pytest.raises(ValueError, match=f"x is .*, expected {expected}"):
            check("x", value)
