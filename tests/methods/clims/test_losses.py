"""What the four losses make of extremes; their values are golden figures and in `test_method`."""

import math

import pytest
import torch

from wsss_kit.methods import clims


@pytest.mark.parametrize("loss", [clims.object_text_loss, clims.background_text_loss])
def test_extreme_cosines_cost_a_finite_amount_and_no_pair_nothing(loss):
    assert torch.isfinite(loss(torch.tensor([-1.0, 1.0, 0.0])))
    empty = torch.zeros(0, requires_grad=True)
    assert loss(empty).item() == 0
    loss(empty).backward()  # a batch without a positive still has a graph
    assert torch.isfinite(clims.cooccurrence_loss(torch.ones(1, 1), threshold=0.26))
    assert clims.cooccurrence_loss(torch.zeros(3, 0), threshold=0.26) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -2.0])
def test_what_is_no_cosine_does_not_pass(value):
    cosines = torch.tensor([0.5, value])
    for loss in (clims.object_text_loss, clims.background_text_loss):
        with pytest.raises(ValueError, match="expected cosines"):
            loss(cosines)
    with pytest.raises(ValueError, match="expected cosines"):
        clims.cooccurrence_loss(cosines[:, None], threshold=0.26)


MISFITS = [
    (clims.object_text_loss, (2, 3), {}, r"expected \(pairs,\)"),
    (clims.object_text_loss, (2,), {"weights": torch.ones(3)}, r"weights has shape \(3,\)"),
    (clims.cooccurrence_loss, (2,), {"threshold": 0.26}, r"expected \(pairs, P\)"),
    (clims.cooccurrence_loss, (2, 3), {"threshold": 26}, "threshold is 26"),
    (clims.cooccurrence_loss, (2, 3), {"threshold": 0.3, "related": torch.ones(2)}, "related has"),
    (clims.area_loss, (0, 1, 2, 2), {}, r"maps of shape .* expected numbers in \[0, 1\]"),
]


@pytest.mark.parametrize(("loss", "given", "options", "message"), MISFITS)
def test_shapes_and_thresholds_that_do_not_fit(loss, given, options, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(given), **options)
