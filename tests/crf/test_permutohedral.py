"""The lattice against a literal one that walks from point to point and keeps corners in a dict."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from wsss_kit.crf import permutohedral
from wsss_kit.crf.permutohedral import Lattice


class LiteralLattice:
    """Adams et al., one point after the other, corners by their full coordinates."""

    def __init__(self, features):
        self.d = features.shape[0]
        self.corners, self.places = {}, []
        for point in features.T.double().numpy():
            self.places.append([(self._number(c), w) for c, w in self._corners_around(point)])

    def _number(self, corner):
        return self.corners.setdefault(tuple(corner), len(self.corners))

    def _corners_around(self, point):
        d = self.d
        basis = np.zeros((d + 1, d))  # each column is orthogonal to (1, ..., 1) and to the others
        for j in range(1, d + 1):
            basis[:j, j - 1], basis[j, j - 1] = 1, -j
            basis[:, j - 1] /= np.sqrt(j * (j + 1))
        x = np.sqrt(2 / 3) * (d + 1) * basis @ point
        nearest = np.round(x / (d + 1)).astype(int) * (d + 1)
        excess = nearest.sum() // (d + 1)
        order = np.argsort(-(x - nearest), kind="stable")  # farthest above its corner first
        if excess < 0:  # the plane is above: the farthest go up a cell
            nearest[order[:-excess]] += d + 1
        else:  # the plane is below: the nearest go down
            nearest[order[d + 1 - excess :]] -= d + 1
        order = np.argsort(-(x - nearest), kind="stable")
        y = (x - nearest)[order] / (d + 1)
        weights = [1 - y[0] + y[-1], *(y[d - r] - y[d + 1 - r] for r in range(1, d + 1))]
        for r, weight in enumerate(weights):
            corner = nearest + r
            corner[order[d + 1 - r :]] -= d + 1  # the r nearest step back
            yield corner, weight

    def filter(self, values):
        held = np.zeros((len(self.corners), values.shape[1]))
        for place, value in zip(self.places, values, strict=True):
            for corner, weight in place:
                held[corner] += weight * value
        for axis in range(self.d + 1):
            step = np.full(self.d + 1, -1)
            step[axis] = self.d
            before, around = held, defaultdict(lambda: 0)
            around.update({c: before[i] for c, i in self.corners.items()})
            held = np.array(
                [
                    before[i]
                    + (around[tuple(np.array(c) + step)] + around[tuple(np.array(c) - step)]) / 2
                    for c, i in self.corners.items()
                ]
            )
        gain = 1 / (1 + 2.0**-self.d)
        return gain * np.array([sum(w * held[c] for c, w in place) for place in self.places])

    def __matmul__(self, values):
        norm = 1 / np.sqrt(self.filter(np.ones((len(self.places), 1))))
        return norm * self.filter(norm * values.double().numpy())


@pytest.fixture(params=["numpy", "torch"])
def path(request, monkeypatch):
    """Both ways to sort and search; CUDA takes torch's."""
    if request.param == "torch":
        monkeypatch.setattr(permutohedral, "_numpy_is_faster", lambda codes: False)


@pytest.mark.parametrize(("d", "spread"), [(1, 4.0), (2, 3.0), (5, 1.0), (5, 0.1)])
def test_the_lattice_equals_the_literal_one(d, spread, rng, path):
    features = torch.randn(d, 60, generator=rng) * spread
    values = torch.rand(60, 3, generator=rng)
    lattice, literal = Lattice(features), LiteralLattice(features)
    assert lattice.n_corners == len(literal.corners)
    np.testing.assert_allclose((lattice @ values).numpy(), literal @ values, atol=2e-5)


@pytest.mark.parametrize(("d", "error"), [(2, 0.006), (3, 0.01), (5, 0.04)])
def test_it_comes_near_to_the_gaussian(d, error, rng):
    """Krähenbühl's model asks for the exact kernel; the lattice is known to be close, not equal."""
    features = torch.randn(d, 400, generator=rng)
    values = torch.rand(400, 2, generator=rng)
    kernel = torch.exp(-(torch.cdist(features.T, features.T) ** 2) / 2)
    norm = kernel.sum(1, keepdim=True).rsqrt()
    exact = norm * (kernel @ (norm * values))
    result = Lattice(features) @ values
    assert (result - exact).abs().mean() < error < (values - exact).abs().mean() / 5


def test_both_paths_agree_to_the_bit(monkeypatch, rng):
    features, values = torch.randn(5, 300, generator=rng), torch.rand(300, 4, generator=rng)
    by_numpy = Lattice(features) @ values
    monkeypatch.setattr(permutohedral, "_numpy_is_faster", lambda codes: False)
    by_torch = Lattice(features) @ values
    # sorting breaks ties in another order, so sums differ by rounding
    torch.testing.assert_close(by_torch, by_numpy, atol=1e-6, rtol=0)


def test_codes_too_large_to_hold_an_index_are_sorted_as_well(rng):
    codes = torch.randint(2**61, (50,), generator=rng)
    ordered, places = permutohedral._sort(codes)
    assert torch.equal(ordered, codes.sort().values)
    assert torch.equal(codes[places], ordered)


def test_a_lattice_beyond_64_bits_is_refused():
    features = torch.tensor([[0.0, 1e7]] * 5)
    with pytest.raises(ValueError, match=r"can number; use larger standard deviations"):
        Lattice(features)
