r"""Classes against background words: probabilities, and whose gradient makes a map.

With the picture embedding f, texts of unit length :math:`t_k` and the scale s,
:math:`\ell_k = s\, t_k \cdot f / |f|` and :math:`p = \mathrm{softmax}(\ell)`. The probability of a
class has the gradient :math:`\sum_{k \ne c} p_c p_k (\nabla \ell_c - \nabla \ell_k)`, which is
how it is computed here: where p is nearly 1, :math:`1 - p` would have lost its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

TARGETS = ("softmax", "classes", "logit")
"""Whose gradient makes a map: a class's probability among the classes present and the background
words (the method), among the classes present alone, or its logit (plain Grad-CAM)."""


def logits_of(embedding: Tensor, texts: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Logits of texts and their derivatives by the picture embedding.

    Args:
        embedding: (E,), of any length.
        texts: (T, E) of unit length.
        scale: factor on cosines.

    Returns:
        (T,) and (T, E), in the precision of ``embedding``.
    """
    texts = texts.to(embedding)
    length = embedding.norm()
    unit = embedding / length
    cosines = texts @ unit
    return scale * cosines, scale / length * (texts - cosines[:, None] * unit)


def probability_weights(probs: Tensor, n_positives: int) -> Tensor:
    """How the derivatives of all logits combine into those of the positives' probabilities.

    Args:
        probs: (T,) softmax over the positives first, then their rivals.
        n_positives: C.

    Returns:
        (C, T); times (T, anything) derivatives of the logits it gives those of the probabilities.

    Example:
        >>> probability_weights(torch.tensor([0.75, 0.25]), 1).tolist()
        [[0.1875, -0.1875]]
    """
    first = probs[:n_positives]
    weights = -first[:, None] * probs  # (C, T)
    own = torch.arange(n_positives, device=probs.device)
    weights[own, own] = 0
    weights[own, own] = -weights.sum(1)  # p_c times the sum of the others, not 1 - p_c
    return weights


def wide(values: Tensor) -> Tensor:
    """In double precision, where the device has it."""
    return values.float() if values.device.type == "mps" else values.double()


def directions(
    embedding: Tensor, positives: Tensor, rivals: Tensor, scale: float, *, softmax: bool
) -> tuple[Tensor, Tensor]:
    """What is carried back through the last block: derivatives by the picture embedding.

    Args:
        embedding: (E,) of one picture.
        positives: (C, E) unit texts of the classes present.
        rivals: (P, E) unit texts of the background words.
        scale: factor on cosines.
        softmax: whether the probabilities are differentiated, or the logits.

    Returns:
        (C, E) and the probabilities (C + P,), both in double precision where the device has it.
    """
    logits, slopes = logits_of(wide(embedding), torch.cat([positives, rivals]), scale)
    probs = logits.softmax(0)
    n_positives = len(positives)
    if not softmax:
        return slopes[:n_positives], probs
    return probability_weights(probs, n_positives) @ slopes, probs
