"""What an affinity sees of a picture while it learns: the picture and its labels, cut alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.classes import IGNORE_INDEX, Sample


def with_seeds(
    samples: Sequence[Sample], seeds: Mapping[str, Tensor], *, cropped: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """All pictures (3, H, W) and their seeds (H, W), in order."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for sample in samples:
        if sample.name not in seeds:
            raise ValueError(
                f"there is no seed for {sample.name!r}; make confident labels for every picture "
                "that is learned from, or leave it out"
            )
        seed, size = seeds[sample.name], tuple(sample.image.shape[1:])
        differs = bool(images) and images[0].shape != sample.image.shape and not cropped
        if tuple(seed.shape) != size or differs:
            raise ValueError(
                f"{sample.name!r} has {size[0]}x{size[1]} pixels and a seed of shape "
                f"{tuple(seed.shape)}, expected both alike, and all pictures of one size; give "
                "crop=448 for pictures of several sizes"
            )
        images.append(sample.image)
        labels.append(seed)
    if not images:
        raise ValueError("there are no pictures to learn from, expected at least one")
    return images, labels


def random_view(
    image: Tensor, labels: Tensor, crop: int | None, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A picture and its labels, mirrored half of the time, cropped alike; beyond them neutral."""

    def integer(below: int) -> int:
        return int(torch.randint(below, (), generator=random))

    if integer(2):
        image, labels = image.flip(-1), labels.flip(-1)
    if crop is None:
        return image, labels
    H, W = labels.shape
    top, left = integer(max(0, H - crop) + 1), integer(max(0, W - crop) + 1)
    image = image[:, top : top + crop, left : left + crop]
    labels = labels[top : top + crop, left : left + crop]
    beyond = (0, crop - labels.shape[1], 0, crop - labels.shape[0])
    return F.pad(image, beyond), F.pad(labels, beyond, value=IGNORE_INDEX)
