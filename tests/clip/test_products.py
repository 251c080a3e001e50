"""The other way of multiplying is used only where it is right, and always put back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from wsss_kit.clip import products
from wsss_kit.clip.products import fast_products

CPU = torch.device("cpu")


@pytest.fixture
def better(monkeypatch):
    """As on a machine where the other way is better."""
    monkeypatch.setattr(products, "_other_way_is_better", lambda: True)


def test_it_is_allowed_inside_and_put_back(better):
    before = products._precision()
    with fast_products(CPU):
        assert products._precision() != before
        with fast_products(CPU):
            assert products._precision() != before
        assert products._precision() != before
    assert products._precision() == before
    with pytest.raises(KeyError), fast_products(CPU):
        raise KeyError
    assert products._precision() == before


def test_cuda_is_none_of_its_business(better):
    before = products._precision()
    with fast_products(torch.device("cuda")):
        assert products._precision() == before


def test_threads_side_by_side(better):
    """The first to leave changes nothing for the one that stays."""
    before, both_in, one_out = products._precision(), Barrier(2), Barrier(2)

    def first():
        with fast_products(CPU):
            both_in.wait(10)
        one_out.wait(10)

    def second():
        with fast_products(CPU):
            both_in.wait(10)
            one_out.wait(10)
            return products._precision()

    with ThreadPoolExecutor(2) as pool:
        seen = [pool.submit(work) for work in (first, second)]
        assert seen[1].result() != before
    assert products._precision() == before


def test_where_it_rounds_it_is_not_used(monkeypatch):
    """As on a machine that really multiplies in bfloat16 when it may, and is faster at that."""
    allowed = []
    monkeypatch.setattr(products, "_allow", lambda allow, before: allowed.append(allow))
    ticks = iter(range(1000))
    monkeypatch.setattr(
        products.time, "perf_counter", lambda: next(ticks) * (0.1 if allowed[-1] else 1.0)
    )
    multiply = torch.Tensor.__matmul__
    for rounds, expected in ((False, True), (True, False)):

        def product(a, b, rounds=rounds):
            if rounds and a.dtype == torch.float32 and allowed and allowed[-1]:
                return multiply(a.bfloat16(), b.bfloat16()).float()
            return multiply(a, b)

        monkeypatch.setattr(torch.Tensor, "__matmul__", product)
        assert products._other_way_is_better.__wrapped__() is expected
        assert allowed[-1] is False
