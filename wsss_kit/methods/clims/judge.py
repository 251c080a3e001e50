"""Compute the four losses of a batch of maps with a frozen CLIP."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.classifier.pretrained import IMAGENET_MEAN, IMAGENET_STD
from wsss_kit.clip import FrozenCLIP
from wsss_kit.methods.clims.losses import (
    area_loss,
    background_text_loss,
    cooccurrence_loss,
    object_text_loss,
)
from wsss_kit.prompts import Prompts


class Judge:
    """A frozen CLIP with its texts encoded, which gives maps their losses.

    Args:
        clip: the evaluator.
        prompts: classes, backgrounds and which of these belong to which class.
        choices: a preset's values, see ``train.PRESETS``.

    Attributes:
        texts: (C, D) unit; several templates are averaged.
        backgrounds: (P, D) unit.
        related: (C, P), how much a background counts for a class.
    """

    def __init__(self, clip: FrozenCLIP, prompts: Prompts, choices: Mapping[str, Any]) -> None:
        self.clip, self.choices = clip, choices
        self.texts = clip.encode_sentences(prompts.class_sentences())
        self.backgrounds = clip.encode_sentences(prompts.background_sentences())
        backgrounds = [prompts.backgrounds_of(name) for name in prompts.classes]
        rows = [[word in words for word in prompts.backgrounds] for words in backgrounds]
        self.related = torch.tensor(rows, device=clip.device).float()  # (C, P)
        if choices["backgrounds"] == "texts":  # a mean over the texts of a class
            self.related = self.related / self.related.sum(1, keepdim=True).clamp(min=1)
        factors = [choices["heavy_classes"].get(name, 1.0) for name in prompts.classes]
        self.factors = torch.tensor(factors, device=clip.device)

    def losses(self, images: Tensor, maps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the four losses, not yet weighted.

        Reference: the released code normalises images by ImageNet's statistics, masks them, and
        shows CLIP the result; the camera-ready code normalises by CLIP's.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            maps: (B, C, h, w) in [0, 1], with a graph.
            labels: (B, C) of 0 and 1.

        Returns:
            ``otm``, ``btm``, ``cbs`` and ``reg`` -> scalar on CLIP's device.
        """
        choices, clip = self.choices, self.clip
        maps, labels, pixels = (x.to(clip.device) for x in (maps.float(), labels, images))
        normalised = choices["pixels"] != "rgb"
        if normalised:
            of_clip = choices["pixels"] == "clip"
            statistics = (clip.mean, clip.std) if of_clip else (IMAGENET_MEAN, IMAGENET_STD)
            mean, std = (torch.as_tensor(v).to(pixels).view(3, 1, 1) for v in statistics)
            pixels = (pixels - mean) / std
        side, pairs = choices["side"], pairs_of(maps, labels)
        size = clip.whole_patches(pixels) if side is None else (side, side)
        masked = masked_images(pixels, pairs, size=size, align_corners=choices["align_corners"])
        texts = self.texts, self.backgrounds
        shown, left, other = cosines(clip, masked, pairs.classes, *texts, normalised=normalised)
        heavy, related = self.factors[pairs.classes], self.related[pairs.classes]
        cbs = cooccurrence_loss(other, threshold=choices["cbs_threshold"], related=related)
        if choices["backgrounds"] == "pairs":
            cbs = cbs / max(1, len(pairs.classes))
        counted = maps if choices["area"] == "all" or not len(pairs.classes) else pairs.maps
        return {
            "otm": object_text_loss(shown, weights=heavy),
            "btm": background_text_loss(left, weights=heavy),
            "cbs": cbs,
            "reg": area_loss(counted),
        }


class Pairs(NamedTuple):
    """Every class present in every image, and its map.

    Args:
        images: (pairs,) int64, which image of the batch.
        classes: (pairs,) int64, which class.
        maps: (pairs, h, w) in [0, 1].
    """

    images: Tensor
    classes: Tensor
    maps: Tensor


def pairs_of(maps: Tensor, labels: Tensor) -> Pairs:
    """Collect the pairs of a batch in the order of images and, in each, of classes.

    Args:
        maps: (B, C, h, w) in [0, 1].
        labels: (B, C) of 0 and 1.

    Example:
        >>> pairs = pairs_of(torch.rand(2, 3, 4, 4), torch.tensor([[0, 1, 1], [0, 0, 0]]))
        >>> pairs.images.tolist(), pairs.classes.tolist(), tuple(pairs.maps.shape)
        ([0, 0], [1, 2], (2, 4, 4))
    """
    images, classes = labels.to(maps.device).nonzero(as_tuple=True)
    return Pairs(images, classes, maps[images, classes])


def masked_images(
    pixels: Tensor, pairs: Pairs, *, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Compute the part of an image that each map shows, and the part that it leaves.

    Args:
        pixels: (B, 3, H, W), in whatever units the evaluator takes; hidden pixels are 0.
        pairs: from `pairs_of`.
        size: (H', W') that images and maps are resized to first.
        align_corners: of the resizing; the released code says True.

    Returns:
        (2 * pairs, 3, H', W'): first what all maps show, then all remainders.
    """
    options = {"size": size, "mode": "bilinear", "align_corners": align_corners}
    maps, pixels = (
        x if tuple(x.shape[-2:]) == size else F.interpolate(x, **options)
        for x in (pairs.maps[:, None], pixels)
    )
    shown = pixels[pairs.images]  # (pairs, 3, H', W')
    return torch.cat([shown * maps, shown * (1 - maps)])


def cosines(
    clip: FrozenCLIP,
    masked: Tensor,
    classes: Tensor,
    texts: Tensor,
    backgrounds: Tensor,
    *,
    normalised: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute cosines of masked images with texts; gradients reach the images, never CLIP.

    Args:
        clip: the evaluator.
        masked: (2 * pairs, 3, H, W) from `masked_images`, RGB in [0, 1].
        classes: (pairs,) int64, the class of each pair.
        texts: (C, D) unit embeddings of the classes.
        backgrounds: (P, D) unit embeddings of the backgrounds; P may be 0.
        normalised: whether the images are normalised already; CLIP then does not.

    Returns:
        (pairs,) what the map shows against its class, (pairs,) what it leaves against its class,
        and (pairs, P) what it shows against all background texts.
    """
    if not len(masked):
        none = masked.new_zeros(0)
        return none, none, none[:, None].expand(0, len(backgrounds))
    seen = F.normalize(clip.encode_image(masked, normalised=normalised), dim=-1)  # (2 * pairs, D)
    shown, left = seen.chunk(2)
    of_pairs = texts[classes]  # (pairs, D)
    return (shown * of_pairs).sum(1), (left * of_pairs).sum(1), shown @ backgrounds.T
