"""Going on where a training stopped, and with no other training's checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from wsss_kit.checkpoints import (
    check_same_run,
    fingerprint,
    optimiser_tensors,
    restore_optimiser,
)
from wsss_kit.classes import Sample

OPTIMISERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1),
    "sgd with momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.1),
}


def trained(make, steps, tensors=None):
    """Two weights and their optimiser after some steps; the gradient changes from step to step."""
    weights = [torch.ones(2, requires_grad=True), torch.zeros(3, requires_grad=True)]
    optimiser = make(weights)
    if tensors is not None:
        for number, weight in enumerate(weights):
            weight.data = tensors[f"weight.{number}"].clone()
        restore_optimiser(optimiser, tensors)
    for step in steps:
        for weight in weights:
            weight.grad = torch.full_like(weight, 0.5 + step)
        optimiser.step()
    return weights, optimiser


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_restored_optimiser_goes_on_as_if_nothing_had_been(name):
    weights, optimiser = trained(OPTIMISERS[name], range(2))
    kept = {f"weight.{number}": weight.detach() for number, weight in enumerate(weights)}
    tensors = load(save({**kept, **optimiser_tensors(optimiser)}))  # as a file would hold them
    resumed, _ = trained(OPTIMISERS[name], range(2, 4), tensors)
    whole, _ = trained(OPTIMISERS[name], range(4))
    for result, expected in zip(resumed, whole, strict=True):
        assert torch.equal(result, expected)


def test_what_was_taken_does_not_move_with_the_optimiser():
    weights, optimiser = trained(OPTIMISERS["adamw"], range(1))
    before = {key: value.clone() for key, value in optimiser_tensors(optimiser).items()}
    taken = optimiser_tensors(optimiser)
    weights[0].grad = torch.ones(2)
    optimiser.step()
    assert all(torch.equal(taken[key], before[key]) for key in before)
    assert any(not torch.equal(taken[k], v) for k, v in optimiser_tensors(optimiser).items())


def test_checkpoints_of_other_runs():
    stored = json.loads(json.dumps({"seed": 1, "long_side": (3, 4), "crop": None}))
    assert check_same_run(stored, {"seed": 1, "long_side": (3, 4), "crop": None}, "x") is None
    for change in ({"seed": 2}, {"long_side": (3, 5)}, {"crop": 4}, {"new": 1}):
        (key,) = change
        with pytest.raises(
            ValueError, match=f"x is a checkpoint of a run with {key} .* same {key}"
        ):
            check_same_run(stored, {"seed": 1, "long_side": (3, 4), "crop": None, **change}, "x")


def test_a_fingerprint_is_of_names_order_labels_and_the_first_image():
    def made(**changes):
        samples = [Sample(n, torch.full((3, 2, 2), 0.1), torch.tensor([1.0, 0.0])) for n in "ab"]
        samples[1] = samples[1]._replace(**changes)
        return samples

    plain = fingerprint(made())
    assert plain == fingerprint(made()) and len(plain) == 16
    others = [
        made(name="c"),
        made(labels=torch.tensor([0.0, 1.0])),
        made()[::-1],
        made()[:1],
        made(image=torch.zeros(3, 2, 2))[::-1],
    ]
    assert len({plain, *map(fingerprint, others)}) == 6
