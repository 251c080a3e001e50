r"""Softmax Grad-CAM: from embeddings of images and texts to the weights of channels.

With the image embedding f, texts of unit length :math:`t_k` and the scale s,
:math:`\ell_k = s\, t_k \cdot f / |f|` and :math:`p = \mathrm{softmax}(\ell)`. The probability of a
class has the gradient :math:`\sum_{k \ne c} p_c p_k (\nabla \ell_c - \nabla \ell_k)`, which is
how it is computed here: where p is nearly 1, :math:`1 - p` would have lost its digits.

A model that was trained with a sigmoid (SigLIP) adds one bias to all its logits. It has no
influence on the softmax over the words, so probabilities among words are formed in the same way.
"""

import math
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Texts(NamedTuple):
    """Texts that compete in a batch of images.

    Args:
        features: (T, E) of unit length, those of all classes first, then of the backgrounds.
        present: (B, C) bool, the classes that an image has.
    """

    features: Tensor
    present: Tensor

    def competing(self, logits: Tensor) -> Tensor:
        """Set the logits (B, ..., T) of classes that are absent to -inf."""
        absent = F.pad(~self.present, (0, len(self.features) - self.present.shape[1]))  # (B, T)
        shape = (len(absent), *(1,) * (logits.ndim - 2), -1)
        return logits.masked_fill(absent.view(shape), -math.inf)


def directions(
    embedding: Tensor, texts: Texts, *, scale: float, softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute derivatives by image embeddings, which start the pass through the last block.

    Args:
        embedding: (B, E) of any length.
        texts: of the classes and backgrounds.
        scale: factor on cosines.
        softmax: whether the probabilities are differentiated, or the logits.

    Returns:
        (M, E) of all M pairs of an image and a class that it has, and probabilities (B, T), both
        in the precision of ``embedding``; (M,) int64, the image of each pair.
    """
    image, classes = texts.present.nonzero(as_tuple=True)  # (M,) each
    features = texts.features.to(embedding)
    length = embedding.norm(dim=1, keepdim=True)
    unit = embedding / length  # (B, E)
    cosines = unit @ features.T  # (B, T)
    probs = texts.competing(scale * cosines).softmax(1)
    # the derivatives of the logits, scale / length * (text - cosine * unit), are combined
    combine = F.one_hot(classes, len(features)).to(probs)
    if softmax:
        combine = probability_weights(probs[image], classes)  # (M, T)
    slopes = combine @ features - (combine * cosines[image]).sum(1, keepdim=True) * unit[image]
    return scale / length[image] * slopes, probs, image


def logits_of(embedding: Tensor, texts: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Compute logits of texts and their derivatives by the image embedding.

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


def probability_weights(probs: Tensor, classes: Tensor) -> Tensor:
    """Return the weights that combine derivatives of logits into those of probabilities.

    Args:
        probs: (M, T) softmax over T texts.
        classes: (M,) int64, whose probability is meant in each row.

    Returns:
        (M, T); times the derivatives (T, anything) of the logits it gives those of the
        probabilities.

    Example:
        >>> probability_weights(torch.tensor([[0.75, 0.25]]), torch.tensor([0])).tolist()
        [[0.1875, -0.1875]]
    """
    own = probs.gather(1, classes[:, None])  # (M, 1)
    weights = (-own * probs).scatter(1, classes[:, None], 0.0)
    # p_c times the sum of the others, not 1 - p_c
    return weights.scatter(1, classes[:, None], -weights.sum(1, keepdim=True))


def wide(values: Tensor) -> Tensor:
    """Convert to double precision, where the device has it."""
    return values.float() if values.device.type == "mps" else values.double()


def raw_maps(cells: Tensor, weights: Tensor, image: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weigh channels of cells (B, N, D) by (M, D) of their images: (M, h, w), never negative."""
    cells = cells if len(cells) == 1 else cells[image]
    return (cells @ weights[:, :, None].to(cells))[..., 0].relu().unflatten(1, grid).float()
