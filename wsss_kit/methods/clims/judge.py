"""What CLIP says of a batch of maps: the four losses."""

from __future__ import annotations

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
        choices: a preset's values, see ``presets.PRESETS``.

    Attributes:
        texts: (C, D) unit; several templates are averaged.
        backgrounds: (P, D) unit.
        related: (C, P), how much a background counts for a class.
    """

    def __init__(self, clip: FrozenCLIP, prompts: Prompts, choices: Mapping[str, Any]) -> None:
        self.clip, self.choices = clip, choices
        self.texts = clip.encode_sentences(prompts.class_sentences())
        self.backgrounds = clip.encode_sentences(prompts.background_sentences())
        rows = [
            [word in prompts.backgrounds_of(name) for word in prompts.backgrounds]
            for name in prompts.classes
        ]
        related = torch.tensor(rows, device=clip.device).float()  # (C, P)
        if choices["backgrounds"] == "texts":  # a mean over the texts of a class
            related = related / related.sum(1, keepdim=True).clamp(min=1)
        self.related = related
        heavy = choices["heavy_classes"]
        factors = [heavy.get(name, 1.0) for name in prompts.classes]
        self.factors = torch.tensor(factors, device=clip.device)

    def losses(self, images: Tensor, maps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The four losses, not yet weighted.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            maps: (B, C, h, w) in [0, 1], with a graph.
            labels: (B, C) of 0 and 1.

        Returns:
            ``otm``, ``btm``, ``cbs`` and ``reg`` -> scalar on CLIP's device.
        """
        choices, device = self.choices, self.clip.device
        maps, labels = maps.float().to(device), labels.to(device)
        pairs = pairs_of(maps, labels)
        pixels, empty = self._pixels(images.to(device))
        masked = masked_images(
            pixels,
            pairs,
            size=self._size(pixels),
            align_corners=choices["align_corners"],
            empty=empty,
        )
        seen = cosines(
            self.clip,
            masked,
            pairs.classes,
            self.texts,
            self.backgrounds,
            normalised=choices["pixels"] != "rgb",
        )
        heavy = self.factors[pairs.classes]
        cbs = cooccurrence_loss(
            seen.cooccurrence,
            threshold=choices["cbs_threshold"],
            related=self.related[pairs.classes],
        )
        if choices["backgrounds"] == "pairs":
            cbs = cbs / max(1, len(pairs.classes))
        counted = maps if choices["area"] == "all" or not len(pairs.classes) else pairs.maps
        return {
            "otm": object_text_loss(seen.object_text, weights=heavy),
            "btm": background_text_loss(seen.background_text, weights=heavy),
            "cbs": cbs,
            "reg": area_loss(counted),
        }

    def _size(self, pixels: Tensor) -> tuple[int, int]:
        """What masked images are resized to: a square, or the next whole patches."""
        if self.choices["side"] is not None:
            return self.choices["side"], self.choices["side"]
        return self.clip.whole_patches(pixels)

    def _pixels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images in the units in which they are masked, and what stands where nothing is shown.

        Reference: the released code normalises by ImageNet's statistics, masks, and shows CLIP
        the result; the camera-ready code normalises by CLIP's.
        """
        nothing = images.new_zeros(3, 1, 1)
        if self.choices["pixels"] == "rgb":
            return images, nothing
        mean, std = self.clip.mean, self.clip.std
        if self.choices["pixels"] == "imagenet":
            mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (images - mean) / std, nothing


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
    """The pairs of a batch in the order of images and, in each, of classes.

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
    pixels: Tensor, pairs: Pairs, *, size: tuple[int, int], align_corners: bool, empty: Tensor
) -> Tensor:
    """What each map shows of its image, and then what it leaves.

    Args:
        pixels: (B, 3, H, W), in whatever units the evaluator takes.
        pairs: from `pairs_of`.
        size: (H', W') that images and maps are resized to first.
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
    shown = pixels[pairs.images] - empty  # (pairs, 3, H', W')
    return torch.cat([shown * maps, shown * (1 - maps)]) + empty


class Cosines(NamedTuple):
    """How the masked images of all pairs look to CLIP.

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
    """Cosines of masked images with texts; gradients reach the images, never CLIP.

    Args:
        clip: the evaluator.
        masked: (2 * pairs, 3, H, W) from `masked_images`, RGB in [0, 1].
        classes: (pairs,) int64, the class of each pair.
        texts: (C, D) unit embeddings of the classes.
        backgrounds: (P, D) unit embeddings of the backgrounds; P may be 0.
        normalised: whether the images are normalised already; CLIP then does not.
    """
    if not len(masked):
        none = masked.new_zeros(0)
        return Cosines(none, none, none[:, None].expand(0, len(backgrounds)))
    seen = F.normalize(clip.encode_image(masked, normalised=normalised), dim=-1)  # (2 * pairs, D)
    shown, left = seen.chunk(2)
    own = texts[classes]  # (pairs, D)
    return Cosines((shown * own).sum(1), (left * own).sum(1), shown @ backgrounds.T)
