"""Pictures masked by their maps, pair by pair, and what CLIP sees in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.clip import FrozenCLIP


class Pairs(NamedTuple):
    """Every class present in every picture, and its map.

    Args:
        pictures: (pairs,) int64, which picture of the batch.
        classes: (pairs,) int64, which class.
        maps: (pairs, h, w) in [0, 1].
    """

    pictures: Tensor
    classes: Tensor
    maps: Tensor


def pairs_of(maps: Tensor, labels: Tensor) -> Pairs:
    """The pairs of a batch in the order of pictures and, in each, of classes.

    Args:
        maps: (B, C, h, w) in [0, 1].
        labels: (B, C) of 0 and 1.

    Example:
        >>> pairs = pairs_of(torch.rand(2, 3, 4, 4), torch.tensor([[0, 1, 1], [0, 0, 0]]))
        >>> pairs.pictures.tolist(), pairs.classes.tolist(), tuple(pairs.maps.shape)
        ([0, 0], [1, 2], (2, 4, 4))
    """
    pictures, classes = labels.to(maps.device).nonzero(as_tuple=True)
    return Pairs(pictures, classes, maps[pictures, classes])


def masked_pictures(
    pixels: Tensor, pairs: Pairs, *, size: tuple[int, int], align_corners: bool, empty: Tensor
) -> Tensor:
    """What each map shows of its picture, and then what it leaves.

    Args:
        pixels: (B, 3, H, W), in whatever units the evaluator takes.
        pairs: from `pairs_of`.
        size: (H', W') that pictures and maps are resized to first.
        align_corners: of the resizing; the released code says True.
        empty: (3, 1, 1) what stands where nothing is shown, in the units of ``pixels``.

    Returns:
        (2 * pairs, 3, H', W'): first all maps' own, then all remainders.
    """
    maps = pairs.maps[:, None]
    if tuple(maps.shape[-2:]) != size:
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=align_corners)
    if tuple(pixels.shape[-2:]) != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=align_corners)
    shown = pixels[pairs.pictures] - empty  # (pairs, 3, H', W')
    return torch.cat([shown * maps, shown * (1 - maps)]) + empty


class Cosines(NamedTuple):
    """How the masked pictures of all pairs look to CLIP.

    Args:
        object_text: (pairs,) what the map shows against its class.
        background_text: (pairs,) what it leaves against its class.
        cooccurrence: (pairs, P) what it shows against all background texts.
    """

    object_text: Tensor
    background_text: Tensor
    cooccurrence: Tensor


def cosines(
    clip: FrozenCLIP,
    masked: Tensor,
    classes: Tensor,
    texts: Tensor,
    backgrounds: Tensor,
    *,
    normalised: bool = False,
) -> Cosines:
    """Cosines of masked pictures with texts; gradients reach the pictures, never CLIP.

    Args:
        clip: the evaluator.
        masked: (2 * pairs, 3, H, W) from `masked_pictures`, RGB in [0, 1].
        classes: (pairs,) int64, the class of each pair.
        texts: (C, D) unit embeddings of the classes.
        backgrounds: (P, D) unit embeddings of the backgrounds; P may be 0.
        normalised: whether the pictures are normalised already; CLIP then does not.
    """
    if not len(masked):
        none = masked.new_zeros(0)
        return Cosines(none, none, none[:, None].expand(0, len(backgrounds)))
    seen = F.normalize(clip.encode_image(masked, normalised=normalised), dim=-1)  # (2 * pairs, D)
    shown, left = seen.chunk(2)
    own = texts[classes]  # (pairs, D)
    return Cosines((shown * own).sum(1), (left * own).sum(1), shown @ backgrounds.T)
