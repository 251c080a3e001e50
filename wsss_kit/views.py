"""Random views of an image and its mask, flipped, scaled and cropped alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.processes import own_views


class MaskedImages:
    """Training images and their masks: pairs (3, H, W) and (H, W).

    Without a crop all images are of one size; they are read once and kept. With a crop each is read
    when it is needed, so that any number of them fits into memory.

    Args:
        samples: images.
        masks: name to (H, W) int64.
        crop: side of crops, or None.
        what: a mask is called in messages.
        make: how to get one, for messages.
        scales: factors of which an image is resized by one before it is cropped.

    Raises:
        ValueError: if there is no image, one has no mask or one of another size, or the images
            differ in size and are not cropped.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        masks: Mapping[str, Tensor],
        *,
        crop: int | None,
        what: str,
        make: str,
        scales: Sequence[float] = (),
    ) -> None:
        if not len(samples):
            raise ValueError("there are no images to learn from, expected at least one")
        self.samples, self.masks, self.crop, self.scales = samples, masks, crop, scales
        self._what, self._make = what, make
        for name in getattr(samples, "names", ()):
            self._check_name(name)
        self._kept = None
        if crop is None:
            self._kept = [self._read(sample) for sample in samples]
            first = self._kept[0][0].shape
            for sample, (image, _) in zip(samples, self._kept, strict=True):
                if image.shape != first:
                    raise ValueError(
                        f"{sample.name!r} has {image.shape[1]}x{image.shape[2]} pixels and "
                        f"{samples[0].name!r} {first[1]}x{first[2]}, expected all images of one "
                        "size; give a crop for images of several sizes"
                    )

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, numbers: Sequence[int], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random views of this process's images: (B, 3, h, w) and (B, h, w)."""
        options = {"crop": self.crop, "scales": self.scales}

        def view(number: int) -> tuple[Tensor, Tensor]:
            kept = self._kept
            image, mask = self._read(self.samples[number]) if kept is None else kept[number]
            return random_view(image, mask, random, **options)

        images, masks = own_views(numbers, view, lambda: skip_view(random, **options))
        return images, masks

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor]:
        self._check_name(sample.name)
        mask, size = self.masks[sample.name], tuple(sample.image.shape[1:])
        if tuple(mask.shape) != size:
            raise ValueError(
                f"{sample.name!r} has {size[0]}x{size[1]} pixels and a {self._what} of shape "
                f"{tuple(mask.shape)}, expected both alike"
            )
        return sample.image, mask

    def _check_name(self, name: str) -> None:
        if name not in self.masks:
            raise ValueError(
                f"there is no {self._what} for {name!r}; {self._make} for every image that is "
                "learned from, or leave it out"
            )


def random_view(
    image: Tensor,
    mask: Tensor,
    random: torch.Generator,
    *,
    crop: int | None,
    scales: Sequence[float] = (),
) -> tuple[Tensor, Tensor]:
    """Flip an image and its mask half of the time; scale and crop them alike.

    Args:
        image: (3, H, W).
        mask: (H, W) int64.
        random: source of the choices.
        crop: side of the square; None keeps the size. What lies beyond the image is black and
            neutral (255).
        scales: factors of which one is chosen; the mask takes its nearest values. None of them
            keeps the size.

    Returns:
        (3, crop, crop) and (crop, crop), or the image's size without a crop.
    """

    def integer(below: int) -> int:
        return int(torch.randint(below, (), generator=random))

    if integer(2):
        image, mask = image.flip(-1), mask.flip(-1)
    if len(scales):
        factor = scales[integer(len(scales))]
        size = [max(1, round(side * factor)) for side in mask.shape]
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
        mask = F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")
        mask = mask[0, 0].long()
    if crop is None:
        return image, mask
    H, W = mask.shape
    top, left = integer(max(0, H - crop) + 1), integer(max(0, W - crop) + 1)
    image = image[:, top : top + crop, left : left + crop]
    mask = mask[top : top + crop, left : left + crop]
    beyond = (0, crop - mask.shape[1], 0, crop - mask.shape[0])
    return F.pad(image, beyond), F.pad(mask, beyond, value=IGNORE_INDEX)


def skip_view(random: torch.Generator, *, crop: int | None, scales: Sequence[float] = ()) -> None:
    """Draw the random numbers of `random_view`, for an image that another process sees."""
    torch.randint(2, (1 + (len(scales) > 0) + 2 * (crop is not None),), generator=random)
