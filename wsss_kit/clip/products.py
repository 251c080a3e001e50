"""Faster matrix products on CPUs whose usual ones are slow, where they are as exact.

On some processors (AMD's with AVX-512) torch's float32 products run at half the speed that its
other library, oneDNN, reaches; the setting that allows bfloat16 products leads there, and on these
processors oneDNN still computes them in float32. On others the same setting really rounds. So a
small product is tried once, and the setting is used only where it is faster *and* as exact, only
around the kit's own work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

MOST_ERROR = 1e-5
"""Relative error that a product may have: twenty times what float32 leaves."""
LEAST_GAIN = 1.15
"""How many times faster the other product has to be."""

_lock = threading.Lock()
_inside = {"threads": 0, "before": ""}


def batched(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    """(B, M, K) times (B, K, N); one picture's as a plain product, which has the faster kernels."""
    if len(a) > 1:
        return torch.bmm(a, b) if out is None else torch.bmm(a, b, out=out)
    if out is None:
        return (a[0] @ b[0])[None]
    torch.mm(a[0], b[0], out=out[0])
    return out


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Let float32 products on the CPU take the faster way, where there is one that is as exact.

    The setting belongs to the process; threads may enter side by side, and the last one out puts
    back what the first one found.

    Args:
        device: of the work inside; nothing changes for anything but a CPU.
    """
    with _lock:  # trying changes the setting too
        better = device.type == "cpu" and _other_way_is_better()
    if not better:
        yield
        return
    with _lock:
        if not _inside["threads"]:
            _inside["before"] = _precision()
            _allow(True, _inside["before"])
        _inside["threads"] += 1
    try:
        yield
    finally:
        with _lock:
            _inside["threads"] -= 1
            if not _inside["threads"]:
                _allow(False, _inside["before"])


def _own_switch() -> object | None:
    """The switch of oneDNN alone, where this torch has one: it does not touch CUDA's products."""
    return getattr(torch.backends.mkldnn, "matmul", None)


def _precision() -> str:
    switch = _own_switch()
    return torch.get_float32_matmul_precision() if switch is None else switch.fp32_precision


def _allow(allow: bool, before: str) -> None:
    switch = _own_switch()
    if switch is None:
        torch.set_float32_matmul_precision("medium" if allow else before)
    else:
        switch.fp32_precision = "bf16" if allow else before


@lru_cache(maxsize=1)
def _other_way_is_better() -> bool:
    """Try a product of a ViT's size both ways, interleaved; keep the better one."""
    if not torch.backends.mkldnn.is_available():
        return False
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 768, generator=draw) for _ in range(2))
    exact = a.double() @ b.double().T
    before, seconds, error = _precision(), {True: [], False: []}, 0.0
    try:
        for _ in range(6):
            for allow in (False, True):
                _allow(allow, before)
                start = time.perf_counter()
                product = a @ b.T
                seconds[allow].append(time.perf_counter() - start)
                if allow:
                    error = ((product - exact).abs().max() / exact.abs().max()).item()
    finally:
        _allow(False, before)
    return error < MOST_ERROR and min(seconds[False]) > LEAST_GAIN * min(seconds[True])
