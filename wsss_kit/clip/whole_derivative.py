r"""How a picture answers to any text at all: the last block's gradient, carried out once for all.

A gradient through the last block is linear in what it begins with. So instead of one class's
numbers the weights themselves can be carried back: what would be one product a class with the
perceptron becomes one a head with its attention, and the end is a matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsss_kit.clip.head_gradient import HeadGradient

if TYPE_CHECKING:
    from wsss_kit.clip.last_block import LastBlock


def whole_derivative(block: LastBlock) -> Tensor:
    """The mean over the patches of the derivative of ``embedding`` by ``normed``, all at once.

    The costly products are those of the hidden units' shares in each patch, (F, N), with each
    head's attention, (N, 1 + N).

    Args:
        block: of B pictures.

    Returns:
        (B, E, D).
    """
    weights, (B, N, D) = block.weights, block.outer.shape
    heads, _, _, d = block.q.shape
    enter, inner_of_enter, outer_gathered = block.shared_hidden
    alike = enter + outer_gathered - inner_of_enter / D * block.inner_gathered  # (B, N, D)
    mass = block.steep * block.inner_scale  # (B, N, F)
    hidden = mass.new_empty(3, B, mass.shape[2], heads, d)
    patches = mass.new_empty(3, B, N, heads, d)
    total = mass.new_zeros(3, B, D, D)
    for head in range(heads):
        own = slice(head * d, (head + 1) * d)
        carry = HeadGradient(block, head)
        hidden[:, :, :, head] = carry.masses(mass, weights.enter[:, own])
        inner = carry.tokens(block.inner_gathered[..., own])  # (3, B, N, d)
        hidden[:, :, :, head] -= block.steep_hidden.mT @ inner / D
        patches[:, :, :, head] = carry.tokens(alike[..., own])
        even = block.outer_scale.expand(B, N, d)
        unit = carry.masses(even, torch.eye(d, dtype=mass.dtype, device=mass.device))
        total[..., own] += weights.gather[:, own] @ unit
    total += weights.leave @ hidden.flatten(3) - block.outer.mT @ patches.flatten(3) / D
    by_token = total[0] @ weights.queries + total[1] @ weights.keys + total[2] @ weights.values
    embed = weights.embed - weights.embed.mean(0)
    return embed.T @ by_token / N**2
