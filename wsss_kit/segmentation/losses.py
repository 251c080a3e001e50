"""What a segmenter is taught with: cross-entropy where a mask says something, and its variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.processes import total

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K, h, w) and masks (B, h, w) to a scalar."""


def confident_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not 255; 0 where none is left.

    With masks whose doubtful pixels are 255 this is CLIP-ES's confidence-guided loss. Of several
    processes it is this one's part of the whole batch's mean.

    Args:
        logits: (B, K, h, w).
        masks: (B, h, w) int64.

    Returns:
        A scalar.

    Example:
        >>> nothing = torch.full((1, 2, 2), 255)
        >>> confident_cross_entropy(torch.zeros(1, 3, 2, 2), nothing).item()
        0.0
    """
    summed = F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX, reduction="sum")
    return summed / total((masks != IGNORE_INDEX).sum()).clamp(min=1)


def balanced_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean of the cross-entropy over background and of that over all objects, as CLIMS trains.

    Where background is most of every mask, plain cross-entropy from ImageNet's weights may learn
    background alone, and a batch without any object makes a plain mean NaN.

    Args:
        logits: (B, K, h, w).
        masks: (B, h, w) int64.

    Returns:
        A scalar.

    Example:
        One pixel of an object counts as much as three of background:

        >>> logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
        >>> masks = torch.tensor([[[0, 0], [0, 1]]])
        >>> round(balanced_cross_entropy(logits, masks).item(), 3)
        1.127
        >>> round(confident_cross_entropy(logits, masks).item(), 3)
        0.627
    """
    objects = confident_cross_entropy(logits, masks.masked_fill(masks == 0, IGNORE_INDEX))
    background = confident_cross_entropy(logits, masks.masked_fill(masks > 0, IGNORE_INDEX))
    return (objects + background) / 2


LOSSES: dict[str, Loss] = {"plain": confident_cross_entropy, "balanced": balanced_cross_entropy}


def multi_scale_loss(
    net: Callable[[Tensor], Tensor],
    images: Tensor,
    masks: Tensor,
    *,
    loss: Loss,
    scales: Sequence[float],
) -> Tensor:
    """DeepLabV2's loss: at several picture sizes, and once more for the largest logits of all.

    Each is taken on the grid of its logits, to which the mask's nearest values are brought.

    Args:
        net: pictures to logits.
        images: (B, 3, H, W).
        masks: (B, H, W) int64.
        loss: for one size.
        scales: of the pictures beside 1; none for the plain loss.

    Returns:
        The sum, a scalar.
    """
    whole = net(images)
    smaller = [
        net(F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False))
        for scale in scales
    ]
    every = [whole, *smaller]
    if smaller:
        size = whole.shape[2:]
        sized = [F.interpolate(each, size=size, mode="bilinear") for each in smaller]
        every.append(torch.stack([whole, *sized]).amax(0))
    return torch.stack([loss(each, nearest(masks, each.shape[2:])) for each in every]).sum()


def nearest(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (B, H, W) int64 on another grid (B, h, w), by the value under each cell's centre."""
    if masks.shape[1:] == tuple(size):
        return masks
    resized = F.interpolate(masks[:, None].float(), size=tuple(size), mode="nearest-exact")
    return resized[:, 0].long()
