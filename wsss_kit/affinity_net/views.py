"""What an affinity sees of a picture while it learns: the picture and its labels, cut alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.classes import IGNORE_INDEX, Sample


class SeededPictures:
    """Pictures and their seeds, looked up together: each (3, H, W) and (H, W).

    Pictures of one size are read once and kept. Where they are cropped, each is read when its turn
    comes, so that any number of them fits.

    Args:
        samples: pictures.
        seeds: name to (H, W) int64.
        crop: side of crops, or None.

    Raises:
        ValueError: if there is no picture, one has no seed or one of another size, or the pictures
            differ in size and are not cropped.
    """

    def __init__(
        self, samples: Sequence[Sample], seeds: Mapping[str, Tensor], *, crop: int | None
    ) -> None:
        if not len(samples):
            raise ValueError("there are no pictures to learn from, expected at least one")
        self.samples, self.seeds, self.crop = samples, seeds, crop
        for name in getattr(samples, "names", ()):
            self._check_seed(name)
        self._kept = None
        if crop is None:
            self._kept = [self._read(sample) for sample in samples]
            first = self._kept[0][0].shape
            for sample, (image, _) in zip(samples, self._kept, strict=True):
                if image.shape != first:
                    raise ValueError(
                        f"{sample.name!r} has {image.shape[1]}x{image.shape[2]} pixels and "
                        f"{samples[0].name!r} {first[1]}x{first[2]}, expected all pictures of one "
                        "size; give crop=448 for pictures of several sizes"
                    )

    def __len__(self) -> int:
        return len(self.samples)

    def view(self, number: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A `random_view` of one picture."""
        kept = self._kept
        image, seed = self._read(self.samples[number]) if kept is None else kept[number]
        return random_view(image, seed, self.crop, random)

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor]:
        self._check_seed(sample.name)
        seed, size = self.seeds[sample.name], tuple(sample.image.shape[1:])
        if tuple(seed.shape) != size:
            raise ValueError(
                f"{sample.name!r} has {size[0]}x{size[1]} pixels and a seed of shape "
                f"{tuple(seed.shape)}, expected both alike"
            )
        return sample.image, seed

    def _check_seed(self, name: str) -> None:
        if name not in self.seeds:
            raise ValueError(
                f"there is no seed for {name!r}; make confident labels for every picture that is "
                "learned from, or leave it out"
            )


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
