"""Random views of an image and its mask, flipped, scaled and cropped alike."""

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
        what: a mask is called in messages: ``"mask"`` or ``"seed"``.
        recipe: with ``crop``, the side of crops or None, and perhaps ``scales``, factors of which
            an image is resized by one before it is cropped.

    Raises:
        ValueError: if there is no image, one has no mask or one of another size, or the images
            differ in size and are not cropped.
    """

    def __init__(
        self, samples: Sequence[Sample], masks: Mapping[str, Tensor], what: str, recipe: Mapping
    ) -> None:
        if not len(samples):
            raise ValueError("there are no images to learn from, expected at least one")
        self.samples, self.masks, self._what = samples, masks, what
        self._options = {"crop": recipe["crop"], "scales": recipe.get("scales", ())}
        for name in getattr(samples, "names", ()):
            self._check_name(name)
        self._kept = None
        if recipe["crop"] is None:
            self._kept = [self._read(sample) for sample in samples]
            sizes = sorted({tuple(mask.shape) for _, mask in self._kept})
            if len(sizes) > 1:
                raise ValueError(
                    f"images are of sizes {sizes[0]} and {sizes[1]}, expected all images of one "
                    "size; give a crop for images of several sizes"
                )

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, numbers: Sequence[int], random: torch.Generator) -> list[Tensor]:
        """Return random views of this process's images: (B, 3, h, w) and (B, h, w)."""

        def view(number: int) -> tuple[Tensor, Tensor]:
            pair = self._kept[number] if self._kept else self._read(self.samples[number])
            return random_view(*pair, random, **self._options)

        return own_views(numbers, view, lambda: skip_view(random, **self._options))

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
            make = {"mask": "make a pseudo mask", "seed": "make confident labels"}[self._what]
            raise ValueError(
                f"there is no {self._what} for {name!r}; {make} for every image that is learned "
                "from, or leave it out"
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
        mask = F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()
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
