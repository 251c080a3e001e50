"""What CLIP says of a batch of maps: the four losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsss_kit.classifier.pretrained import IMAGENET_MEAN, IMAGENET_STD
from wsss_kit.clip import FrozenCLIP
from wsss_kit.methods.clims.losses import (
    area_loss,
    background_text_loss,
    cooccurrence_loss,
    object_text_loss,
)
from wsss_kit.methods.clims.pairs import cosines, masked_pictures, pairs_of
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
        masked = masked_pictures(
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
        """What masked pictures are resized to: a square, or the next whole patches."""
        if self.choices["side"] is not None:
            return self.choices["side"], self.choices["side"]
        return self.clip.whole_patches(pixels)

    def _pixels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in the units in which they are masked, and what stands where nothing is shown.

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
