r"""Class activation maps: tensors in, tensors out.

CAM (Zhou et al., CVPR 2016) weighs the last features by the classifier's own weights. Softmax
Grad-CAM (CLIP-ES, CVPR 2023, section 3.2) weighs CLIP's last tokens by the gradient of a class's
*probability* among the classes present and the background words.

With the image embedding f, texts of unit length :math:`t_k` and the scale s,
:math:`\ell_k = s\, t_k \cdot f / |f|` and :math:`p = \mathrm{softmax}(\ell)`. The probability of a
class has the gradient :math:`\sum_{k \ne c} p_c p_k (\nabla \ell_c - \nabla \ell_k)`, which is
how it is computed here: where p is nearly 1, :math:`1 - p` would have lost its digits. A model that
was trained with a sigmoid (SigLIP) adds one bias to all its logits. It has no influence on the
softmax over the words.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import (
    check_count,
    check_floating,
    check_given,
    check_maps,
    check_positive,
    check_scales,
    check_shape,
    check_size,
    check_word,
)
from wsss_kit.views import resize_bicubic


def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    r"""Project features onto every class: :math:`M_c = w_c^\top F`.

    No ReLU and no scaling: the mean of a map over its cells is the class's logit (for a head
    without bias after global average pooling), which is what makes it an explanation.

    Args:
        features: (B, D, h, w).
        weight: (C, D) of the linear head.

    Returns:
        (B, C, h, w), of any sign.

    Raises:
        ValueError: if the channels do not agree, or one of the two is no floating-point tensor.

    Example:
        >>> features = torch.tensor([1.0, -2.0]).view(1, 1, 1, 2)
        >>> class_activation_maps(features, torch.tensor([[3.0]])).flatten().tolist()
        [3.0, -6.0]
    """
    check_floating(features, "features")
    check_floating(weight, "weight")
    if features.ndim != 4 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        problem = f"features {tuple(features.shape)} and weight {tuple(weight.shape)} do not fit"
        raise ValueError(f"{problem}; expected (B, D, h, w) and (C, D) with the same D")
    return torch.einsum("bdhw,cd->bchw", features, weight)


def normalize_cams(
    cams: Tensor, *, over: str = "map", subtract_min: bool = False, eps: float = 1e-5
) -> Tensor:
    """Scale maps to [0, 1]: negative values to 0, then division by the maximum plus ``eps``.

    Args:
        cams: (B, C, h, w).
        over: ``"map"`` divides each map by its own maximum (CAM, SC-CAM, CLIMS, CLIP-ES);
            ``"image"`` all maps of an image by their common one (IRN's walk).
        subtract_min: shift the minimum to 0 before dividing, instead of cutting at 0 (CLIP-ES).
        eps: added to the maximum; CLIP-ES uses 1e-7.

    Returns:
        Same shape, in [0, 1]. A map without a positive value stays zero.

    Raises:
        ValueError: if ``over`` is neither word, ``cams`` no batch of maps, or ``eps`` not above 0.

    Example:
        >>> cams = torch.tensor([[[[-1.0, 0.0, 4.0]]]])
        >>> normalize_cams(cams).flatten().round(decimals=3).tolist()
        [0.0, 0.0, 1.0]
    """
    check_word("over", over, ("map", "image"))
    check_maps(cams, "cams")
    check_positive("eps", eps)
    dims = (-2, -1) if over == "map" or not cams.shape[1] else (-3, -2, -1)
    low = cams.amin(dims, keepdim=True) if subtract_min else cams.new_zeros(())
    cams = (cams - low).clamp_min(0)
    return cams / (cams.amax(dims, keepdim=True) + eps)


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps bilinearly without aligned corners.

    Args:
        maps: (B, C, h, w).
        size: (H, W).

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if ``maps`` is no batch of maps or ``size`` no size.
    """
    check_maps(maps)
    check_size("size", size)
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def multi_scale(
    maps_of: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    scales: tuple[float, ...],
    flip: bool,
    stride: int | None = 4,
    round_to: int = 16,
) -> Tensor:
    """Sum the ReLU of maps over image scales and mirror images.

    Args:
        maps_of: (B, 3, H', W') RGB in [0, 1] -> (B, C, h', w') maps of any sign.
        images: (B, 3, H, W) RGB in [0, 1].
        scales: factors on the image's sides, each > 0.
        flip: also look at the mirror image and mirror its maps back.
        stride: pixels per cell of the sum; maps of all scales are resized to it. None for the size
            of the image.
        round_to: with ``stride=None`` maps are enlarged to the sides rounded up to multiples of
            this and cut to the image, because a backbone of this stride looks so far; 1 for the
            sides themselves.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)), or (B, C, H, W); not negative.

    Raises:
        ValueError: if ``scales`` is empty or not positive, or ``stride`` no count.
    """
    check_scales(scales)
    check_count("round_to", round_to)
    check_given(check_count, stride=stride)
    H, W = images.shape[-2:]
    grid = tuple(-(-side // round_to) * round_to for side in (H, W))
    if stride is not None:
        grid = (-(-H // stride), -(-W // stride))
    total: Any = 0.0
    for scale in scales:
        view, size = images, (max(1, round(H * scale)), max(1, round(W * scale)))
        if scale != 1:  # as the released code of CLIMS
            view = resize_bicubic(images, size).to(images)
        maps = maps_of(view).relu()
        if flip:
            maps = maps + maps_of(view.flip(-1)).relu().flip(-1)
        total = total + upsample(maps, grid)
    return total if stride is not None else total[:, :, :H, :W]


def softmax_grad_cam(
    tokens: Tensor,
    positives: Tensor,
    backgrounds: Tensor,
    *,
    head: Callable[[Tensor, Tensor], Tensor],
    norm: Callable[[Tensor], Tensor],
    grid: tuple[int, int],
    logit_scale: float | Tensor = 100.0,
    softmax: bool = True,
) -> Tensor:
    r"""Compute the softmax Grad-CAM of one image (CLIP-ES, Eq. 4 to 6) by autograd.

    :math:`M_c = \mathrm{ReLU}(\sum_k w^c_k A_k)` with :math:`A` the last block's normalised input
    and :math:`w^c_k` the mean over patches of :math:`\partial p_c / \partial A_k`, where
    :math:`p` is the softmax over the classes present *and* the background words. With a single
    text the softmax is 1 whatever the image and the map is zero: the competition makes the map.

    Args:
        tokens: (1 + N, D) input of the last block, class token first.
        positives: (C, E) unit text embeddings of the classes present.
        backgrounds: (P, E) unit text embeddings of the background words; P may be 0.
        head: (tokens, normed) each (1, 1 + N, D) -> (1, E) image embedding.
        norm: the last block's first layer norm.
        grid: (h, w) with h * w = N.
        logit_scale: factor on cosines.
        softmax: False differentiates the logit instead, for comparison.

    Returns:
        (C, h, w) float32, not negative and not scaled.

    Raises:
        ValueError: if tokens and grid do not fit.
    """
    h, w = grid
    right = tokens.ndim == 2 and len(tokens) == 1 + h * w
    check_shape(right, "tokens", tokens, f"(1 + {h}*{w}, D): the class token and one token a cell")
    texts = torch.cat([positives, backgrounds]).float()
    with torch.inference_mode(False), torch.enable_grad():  # also where the caller has it on
        tokens, texts = tokens.clone(), texts.clone()
        normed = norm(tokens[None]).detach().requires_grad_()
        seen = F.normalize(head(tokens[None], normed).float(), dim=-1)
        logits = (logit_scale * seen @ texts.T)[0]  # (C + P,)
        target = logits.softmax(0) if softmax else logits
        maps = []
        for c in range(len(positives)):
            (gradient,) = torch.autograd.grad(target[c], normed, retain_graph=True)
            weights = gradient[0, 1:].float().mean(0)  # (D,)
            maps.append((normed.detach()[0, 1:].float() @ weights).relu().view(h, w))
    return torch.stack(maps).detach() if maps else tokens.new_zeros(0, h, w).float()


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


def gradient_maps(
    last: Any, texts: Texts, grid: tuple[int, int], *, scale: float, softmax: bool = True
) -> tuple[Tensor, Tensor]:
    """Compute raw maps (M, h, w) of all pairs of an image and its classes, and `directions`' probs.

    ``last`` is what ``last_block`` of a model gives; the rest is as for `directions`.
    """
    options = {"scale": scale, "softmax": softmax}
    wanted, probs, image = directions(wide(last.embedding), texts, **options)
    return raw_maps(last.cells, last.mean_gradients(wanted, image), image, grid), probs
