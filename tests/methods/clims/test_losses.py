"""The four losses against arithmetic on paper and a literal loop over pairs."""

from __future__ import annotations

import math

import pytest
import torch

from wsss_kit.methods.clims import (
    area_loss,
    background_text_loss,
    cooccurrence_loss,
    object_text_loss,
)


def test_arithmetic_on_paper():
    close = torch.testing.assert_close
    cosines = torch.tensor([0.5, 0.25])
    close(object_text_loss(cosines).item(), (math.log(2) + math.log(4)) / 2)
    close(background_text_loss(cosines).item(), (math.log(2) - math.log(0.75)) / 2)
    many = torch.tensor([[0.5, 0.25], [0.26, 0.3]])
    close(cooccurrence_loss(many, threshold=0.26).item(), math.log(2) - math.log(0.7))
    assert area_loss(torch.full((2, 3, 4, 5), 0.7)).item() == pytest.approx(0.7)


def literal(similarity, threshold, related):
    total = 0.0
    for row, pair in enumerate(similarity.tolist()):
        for column, cosine in enumerate(pair):
            if threshold is None or cosine > threshold:
                weight = 1.0 if related is None else related[row, column].item()
                total -= weight * math.log(1 - cosine)
    return total


@pytest.mark.parametrize("threshold", [None, 0.0, 0.26, 1.0])
@pytest.mark.parametrize("chosen", [False, True])
def test_cooccurrence_equals_a_loop(rng, threshold, chosen):
    similarity = torch.rand(5, 4, generator=rng) * 1.6 - 0.8
    related = (torch.rand(5, 4, generator=rng) > 0.5).float() if chosen else None
    result = cooccurrence_loss(similarity, threshold=threshold, related=related)
    assert result.item() == pytest.approx(literal(similarity, threshold, related), abs=1e-5)


def test_nothing_above_the_threshold_costs_nothing():
    """The oracle of methods.md: no s above tau, no loss; equal to tau is not above it."""
    assert cooccurrence_loss(torch.full((3, 2), 0.25), threshold=0.25).item() == 0
    assert cooccurrence_loss(torch.zeros(3, 0), threshold=0.26).item() == 0


def test_weights_of_classes():
    cosines = torch.tensor([0.5, 0.25])
    weights = torch.tensor([3.0, 1.0])
    expected = (3 * math.log(2) + math.log(4)) / 2
    assert object_text_loss(cosines, weights=weights).item() == pytest.approx(expected)
    expected = (3 * math.log(2) - math.log(0.75)) / 2
    assert background_text_loss(cosines, weights=weights).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [object_text_loss, background_text_loss])
def test_extreme_cosines_cost_a_finite_amount_and_no_pair_nothing(loss):
    assert torch.isfinite(loss(torch.tensor([-1.0, 1.0, 0.0])))
    empty = torch.zeros(0, requires_grad=True)
    assert loss(empty).item() == 0
    loss(empty).backward()  # a batch without a positive still has a graph
    assert torch.isfinite(cooccurrence_loss(torch.ones(1, 1), threshold=0.26))


def test_slopes_point_the_way_they_should():
    """A better object, a lesser remainder and a lesser background each lower their loss."""
    for loss, sign in (
        (object_text_loss, -1),
        (background_text_loss, 1),
        (lambda s: cooccurrence_loss(s[:, None], threshold=0.2), 1),
    ):
        cosines = torch.tensor([0.3, 0.6], requires_grad=True)
        loss(cosines).backward()
        assert (cosines.grad.sign() == sign).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -2.0, 30.0])
def test_what_is_no_cosine_does_not_pass(value):
    cosines = torch.tensor([0.5, value])
    for loss in (object_text_loss, background_text_loss):
        with pytest.raises(ValueError, match="expected cosines"):
            loss(cosines)
    with pytest.raises(ValueError, match="expected cosines"):
        cooccurrence_loss(cosines[:, None], threshold=0.26)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected \(pairs,\)"):
        object_text_loss(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected \(pairs, P\)"):
        cooccurrence_loss(torch.zeros(2), threshold=0.26)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\), expected \(2,\)"):
        object_text_loss(torch.zeros(2), weights=torch.ones(3))
    with pytest.raises(ValueError, match=r"related has shape \(2, 1\), expected \(2, 3\)"):
        cooccurrence_loss(torch.zeros(2, 3), threshold=0.26, related=torch.ones(2, 1))
    with pytest.raises(ValueError, match="threshold is 26"):
        cooccurrence_loss(torch.zeros(2, 3), threshold=26)


@pytest.mark.parametrize("maps", [torch.full((1, 1, 2, 2), math.nan), torch.zeros(0, 1, 2, 2)])
def test_maps_that_are_no_numbers_do_not_pass(maps):
    with pytest.raises(ValueError, match=r"maps of shape .* expected numbers in \[0, 1\]"):
        area_loss(maps)
