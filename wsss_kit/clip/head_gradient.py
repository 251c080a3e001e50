"""One head's attention, through which gradients at what it gathered are carried back.

Every way ends at the sums over the patches of the gradients of queries, keys and values; the
formulas are in `last_block`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from wsss_kit.clip.last_block import LastBlock


class HeadGradient:
    """One head of a `LastBlock`.

    Args:
        block: of B pictures.
        head: which one.
    """

    def __init__(self, block: LastBlock, head: int) -> None:
        own = slice(head * block.q.shape[-1], (head + 1) * block.q.shape[-1])
        self.map = block.head_map(head)  # (B, N, T)
        self.to_class = self.map[..., :1]
        self.q, self.k, self.v = block.q[head][:, 1:], block.k[head], block.v[head]
        self.gathered = block.gathered[..., own]  # (B, N, d)
        self.away = self.v[:, :1] - self.gathered

    @cached_property
    def looked_at(self) -> Tensor:
        """(B, N, d) the mean key that each patch attends to."""
        return self.map @ self.k

    def classes(self, grads: Tensor) -> Tensor:
        """A gradient for each class and patch, summed: (B, C, N, d) -> (3, B, C, d)."""
        B, C, _, d = grads.shape
        rho = (grads * self.gathered[:, None]).sum(-1, keepdim=True)  # (B, C, N, 1)
        thin = torch.cat([grads, rho], -1).mT.flatten(1, 2)
        thin = (thin @ self.map).view(B, C, d + 1, -1)  # T and tau, transposed
        queries = ((thin[:, :, :d] * self.v.mT[:, None]).sum(2) - thin[:, :, d]) @ self.k
        drawn = self.to_class.mT * (grads * self.away[:, None]).sum(-1)  # (B, C, N)
        values = ((1 - self.to_class)[:, None] * grads).sum(2)
        return torch.stack([queries, -drawn @ self.q, values])

    def masses(self, mass: Tensor, rows: Tensor) -> Tensor:
        """Gradients mass_im rows_m at patch i, summed: (B, N, M), (M, d) -> (3, B, M, d)."""
        queries = (mass.mT @ self.map * (rows @ self.v.mT)) @ self.k
        queries -= (mass * (self.gathered @ rows.T)).mT @ self.looked_at
        keys = -(mass * self.to_class * (self.away @ rows.T)).mT @ self.q
        values = (mass * (1 - self.to_class)).sum(1)[..., None] * rows
        return torch.stack([queries, keys, values])

    def tokens(self, grads: Tensor) -> Tensor:
        """A gradient for each patch by itself: (B, N, d) -> (3, B, N, d)."""
        queries = (self.map * (grads @ self.v.mT)) @ self.k
        queries -= (grads * self.gathered).sum(2, keepdim=True) * self.looked_at
        keys = -self.to_class * (grads * self.away).sum(2, keepdim=True) * self.q
        return torch.stack([queries, keys, (1 - self.to_class) * grads])
