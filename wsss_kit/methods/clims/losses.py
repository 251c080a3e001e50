r"""The losses of CLIMS (Xie et al., CVPR 2022, section 3.3), as the released code computes them.

A *pair* is an image and a class present in it. :math:`s^{oo}` is the cosine between the image
masked to the class's map and the class's text, :math:`s^{bo}` between what the map leaves and the
same text, :math:`s^{ob}_l` between the masked image and the text of a background. Cosines carry
no logit scale.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wsss_kit.checks import check_floating, check_probability

SMALLEST, LARGEST = 1e-4, 0.9999
"""Where the released code cuts cosines off before it takes a logarithm."""


def object_text_loss(similarity: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""OTM: what the map shows should look like its class, :math:`-\mathrm{mean}\log s^{oo}`.

    Args:
        similarity: (pairs,) cosines in [-1, 1] of masked images and their class's text.
        weights: (pairs,) factors on the terms; the camera-ready code gives some classes 3.

    Returns:
        Scalar, 0 without a pair. Cosines are cut to [0.0001, 0.9999] first.

    Raises:
        ValueError: if a cosine is NaN or no cosine, or the shapes do not fit.

    Example:
        >>> object_text_loss(torch.tensor([1.0, 0.0])).round(decimals=3)
        tensor(4.6050)
    """
    return _mean(similarity, weights, lambda cosines: -cosines.log())


def background_text_loss(similarity: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""BTM: what the map leaves should not, :math:`-\mathrm{mean}\log(1 - s^{bo})`.

    Args:
        similarity: (pairs,) cosines of the images' remainders and their class's text.
        weights: as for `object_text_loss`.

    Returns:
        Scalar, 0 without a pair. Cosines are cut to [0.0001, 0.9999] first.

    Raises:
        ValueError: as `object_text_loss`.
    """
    return _mean(similarity, weights, lambda cosines: -(1 - cosines).log())


def cooccurrence_loss(
    similarity: Tensor, *, threshold: float | None, related: Tensor | None = None
) -> Tensor:
    r"""CBS: nor should it show a background, :math:`-\sum [s^{ob} > \tau] \log(1 - s^{ob})`.

    Reference: a sum over pairs and backgrounds, so it grows with the batch. The camera-ready code
    takes no threshold and only the backgrounds of a class; ``related`` says which.

    Args:
        similarity: (pairs, P) cosines of masked images and the texts of the backgrounds.
        threshold: cosines up to this cost nothing (0.26 for VOC, 0.285 for COCO); None lets none
            go free.
        related: (pairs, P) of 0 and 1, or weights: how much a background counts for a pair; None
            for all.

    Returns:
        Scalar, 0 where nothing exceeds the threshold.

    Raises:
        ValueError: as `object_text_loss`, and if the threshold is no number in [0, 1].

    Example:
        >>> cosines = torch.tensor([[0.2, 0.5], [0.26, 0.3]])
        >>> cooccurrence_loss(cosines, threshold=0.26).round(decimals=3)
        tensor(1.0500)
    """
    _check_cosines(similarity, 2)
    # a cosine of 1, as of an all too similar image, would cost without end
    costs = -(1 - similarity.clamp(max=LARGEST)).log()
    if threshold is not None:
        check_probability("threshold", threshold)
        costs = torch.where(similarity > threshold, costs, 0.0)
    return _weighted(costs, related, "related").sum()


def area_loss(maps: Tensor) -> Tensor:
    r"""REG: maps should be no larger than they must, :math:`\mathrm{mean}_{n,k,h,w} P`.

    Reference: the mean over all maps of the batch, absent classes included.

    Args:
        maps: (B, C, h, w) in [0, 1].

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: if a map is NaN, or there is none.

    Example:
        >>> area_loss(torch.full((2, 3, 4, 4), 0.25))
        tensor(0.2500)
    """
    check_floating(maps, "maps")
    if not maps.numel() or maps.isnan().any():
        raise ValueError(
            f"maps of shape {tuple(maps.shape)} hold {'NaN' if maps.numel() else 'nothing'}, "
            "expected numbers in [0, 1]; look at the network's last step"
        )
    return maps.mean()


def _mean(similarity: Tensor, weights: Tensor | None, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the mean cost over the pairs; without a pair 0, and still part of the graph."""
    _check_cosines(similarity, 1)
    costs = _weighted(cost(similarity.clamp(SMALLEST, LARGEST)), weights, "weights")
    return costs.mean() if costs.numel() else costs.sum()


def _weighted(costs: Tensor, weights: Tensor | None, name: str) -> Tensor:
    """Multiply costs by weights of the same shape, if there are some."""
    if weights is None:
        return costs
    if weights.shape != costs.shape:
        raise ValueError(f"{name} has shape {tuple(weights.shape)}, expected {tuple(costs.shape)}")
    return costs * weights.to(costs)


def _check_cosines(similarity: Tensor, ndim: int) -> None:
    check_floating(similarity, "similarity")
    if similarity.ndim != ndim:
        expected = "(pairs,)" if ndim == 1 else "(pairs, P)"
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}, expected {expected}")
    largest = similarity.detach().abs().amax().item() if similarity.numel() else 0.0
    if not largest <= 1.001:  # NaN fails
        raise ValueError(
            f"similarity ranges to {largest:.4g}, expected cosines in [-1, 1]: products of unit "
            "embeddings, without a logit scale"
        )
