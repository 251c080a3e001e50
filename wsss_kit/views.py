"""What networks see: random views of images for training, and images resized as by Pillow."""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.checks import check_image
from wsss_kit.classes import IGNORE_INDEX, IMAGENET_MEAN, Sample, labels_of

Chance = Callable[[int], torch.Generator]
"""Number to a random generator: 1 + the number of an image in a pass, or 0 for the pass."""
Jitter = Callable[[Tensor, torch.Generator], Tensor]


class LabelledImages:
    """Training images and their labels: random views, see `engine.fit`.

    Args:
        samples: M images with labels.
        crop: see `augment`.
        long_side: see `augment`.
        fill: see `augment`.
        change: of the colours of a view (3, h, w), with a random generator; None for none.
        more_labels: (M, K) further labels, a tensor of their own.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        crop: int | None = None,
        long_side: tuple[int, int] | None = None,
        fill: Tensor | None = None,
        change: Jitter | None = None,
        more_labels: Tensor | None = None,
    ) -> None:
        self.samples, self.change, self.more_labels = samples, change, more_labels
        self.view = {"crop": crop, "long_side": long_side, "fill": fill}

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, numbers: Sequence[int], chance: Chance) -> list[Tensor]:
        """Return images (B, 3, h, w), their labels (B, C) and perhaps the further ones (B, K).

        Raises:
            ValueError: if an image is not RGB in [0, 1], a label neither 0 nor 1, or the images of
                a batch differ in size.
        """
        chosen, views = [self.samples[number] for number in numbers], []
        for number, sample in zip(numbers, chosen, strict=True):
            random = chance(1 + number)
            check_image(sample.image, f"image {sample.name!r}")
            view = augment(sample.image.float(), random, **self.view)
            views.append(view if self.change is None else self.change(view, random))
        more = [] if self.more_labels is None else [self.more_labels[list(numbers)]]
        return [_stacked(views), labels_of(chosen), *more]


def _stacked(images: Sequence[Tensor]) -> Tensor:
    if len({image.shape for image in images}) > 1:
        raise ValueError(
            "the images of a batch differ in size; give fit a crop, for example "
            "crop=512, long_side=(320, 640)"
        )
    return torch.stack(list(images))


def augment(
    image: Tensor,
    generator: torch.Generator,
    *,
    crop: int | None,
    long_side: tuple[int, int] | None,
    fill: Tensor | None = None,
) -> Tensor:
    """Return a random view of an image for training.

    Args:
        image: (3, H, W) RGB in [0, 1].
        generator: of the random choices.
        crop: side of the square crop; None keeps the image's size and shifts it by up to a tenth,
            mirrored at the border.
        long_side: range in pixels that the longer side is resized to before cropping; None keeps
            the size. The released code resizes by Pillow's bicubic filter on 8 bits, this function
            by an antialiased bilinear one.
        fill: (3, 1, 1) colour beyond the image, the mean that the network subtracts, as the
            released code crops after it has normalised; None for ImageNet's.

    Returns:
        (3, crop, crop), or (3, H, W) without a crop.
    """

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    if integer(0, 1):
        image = image.flip(-1)
    if long_side is not None:
        factor = integer(*long_side) / max(image.shape[-2:])
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    H, W = image.shape[-2:]
    if crop is None:
        dy, dx = H // 10, W // 10
        padded = F.pad(image[None], (dx, dx, dy, dy), mode="reflect")[0] if dy and dx else image
        top, left = integer(0, padded.shape[-2] - H), integer(0, padded.shape[-1] - W)
        return padded[:, top : top + H, left : left + W]
    y, x = integer(0, abs(H - crop)), integer(0, abs(W - crop))
    top, left = (-y if crop < H else y), (-x if crop < W else x)
    # a padding below 0 cuts off
    return _filled(image, (left, crop - W - left, top, crop - H - top), fill)


def mean_colour(backbone: nn.Module | None) -> Tensor | None:
    """Return the colour (3, 1, 1) that a backbone subtracts, if it says it as ``mean``."""
    mean = getattr(backbone, "mean", None)
    return mean.cpu() if isinstance(mean, Tensor) else None


def _filled(image: Tensor, padding: Sequence[int], fill: Tensor | None) -> Tensor:
    """Pad or cut an image (3, H, W); what lies beyond it gets a colour (3, 1, 1)."""
    colour = torch.tensor(IMAGENET_MEAN) if fill is None else fill
    inside = F.pad(torch.ones_like(image[:1]), list(padding)) > 0
    return torch.where(inside, F.pad(image, list(padding)), colour.view(3, 1, 1).to(image))


class MaskedImages:
    """Training images and their masks: pairs (3, H, W) and (H, W).

    Without a crop all images are of one size; they are read once and kept. With a crop each is read
    when it is needed, so that any number of them fits into memory.

    Args:
        samples: images.
        masks: name to (H, W) int64.
        what: a mask is called in messages: ``"mask"`` or ``"seed"``.
        recipe: perhaps with ``crop``, ``scales`` and ``fill``, see `random_view`.
        n_classes: C, where masks hold 0 to C and 255; None for any values.

    Raises:
        ValueError: if there is no image, one has no mask or one of another size or with another
            value, or the images differ in size and are not cropped.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        masks: Mapping[str, Tensor],
        what: str,
        recipe: Mapping,
        *,
        n_classes: int | None = None,
    ) -> None:
        if not len(samples):
            raise ValueError("there are no images to learn from, expected at least one")
        self.samples, self.masks, self._what, self._n = samples, masks, what, n_classes
        self._options = {name: recipe.get(name, none) for name, none in _VIEW.items()}
        for name in getattr(samples, "names", ()):
            self._check_name(name)
        self._kept = None
        if self._options["crop"] is None:
            self._kept = [self._read(sample) for sample in samples]
            sizes = sorted({tuple(mask.shape) for _, mask in self._kept})
            if len(sizes) > 1:
                raise ValueError(
                    f"images are of sizes {sizes[0]} and {sizes[1]}, expected all images of one "
                    "size; give a crop for images of several sizes"
                )

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, numbers: Sequence[int], chance: Chance) -> list[Tensor]:
        """Return random views of images (B, 3, h, w) and of their masks (B, h, w)."""
        views = []
        for number in numbers:
            image, mask = self._kept[number] if self._kept else self._read(self.samples[number])
            views.append(random_view(image, mask, chance(1 + number), **self._options))
        images, masks = zip(*views, strict=True)
        return [_stacked(images), torch.stack(masks)]

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor]:
        self._check_name(sample.name)
        mask, size = self.masks[sample.name], tuple(sample.image.shape[1:])
        if tuple(mask.shape) != size:
            raise ValueError(
                f"{sample.name!r} has {size[0]}x{size[1]} pixels and a {self._what} of shape "
                f"{tuple(mask.shape)}, expected both alike"
            )
        if self._n is not None:
            self._check_values(sample.name, mask, self._n)
        return sample.image.float(), mask

    def _check_values(self, name: str, mask: Tensor, n: int) -> None:
        odd = mask[(mask != IGNORE_INDEX) & ((mask < 0) | (mask > n))]
        if odd.numel():
            raise ValueError(
                f"the {self._what} of {name!r} holds {odd[0]}, expected 0 to {n} or "
                f"{IGNORE_INDEX}; check the class list, and that masks are read as indices, not as "
                "colours"
            )

    def _check_name(self, name: str) -> None:
        if name not in self.masks:
            make = {"mask": "make a pseudo mask", "seed": "make confident labels"}[self._what]
            raise ValueError(
                f"there is no {self._what} for {name!r}; {make} for every image that is learned "
                "from, or leave it out"
            )


_VIEW = {"crop": None, "scales": (), "fill": None}


def random_view(
    image: Tensor,
    mask: Tensor,
    random: torch.Generator,
    *,
    crop: int | None,
    scales: Sequence[float] = (),
    fill: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Flip an image and its mask half of the time; scale and crop them alike.

    Args:
        image: (3, H, W).
        mask: (H, W) int64.
        random: source of the choices.
        crop: side of the square; None keeps the size. What lies beyond the image is neutral (255).
        scales: factors of which one is chosen; the mask takes its nearest values. None of them
            keeps the size.
        fill: colour beyond the image, see `augment`.

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
    return _filled(image, beyond, fill), F.pad(mask, beyond, value=IGNORE_INDEX)


_FIXED_POINT = 2**22  # what Pillow multiplies its weights by


def resize_bicubic(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images as Pillow resizes 8-bit images: (B, 3, H, W) RGB in [0, 1] to ``size``.

    A CPU runs Pillow itself, a GPU the same integer arithmetic: the 8-bit levels are equal. Where a
    side gets shorter, Pillow's versions differ in which side they begin with, so it runs itself.
    """
    if not len(images):
        return images.new_zeros(0, images.shape[1], *size)
    levels = (images.detach() * 255).round_().clamp_(0, 255)
    if levels.is_cuda and all(map(operator.ge, size, images.shape[2:])):
        return enlarge_levels(levels, size).float().div_(255)
    pixels = levels.byte().permute(0, 2, 3, 1).cpu()
    shown = (Image.fromarray(each.numpy()) for each in pixels)
    resized = [np.asarray(each.resize(size[::-1], Image.Resampling.BICUBIC)) for each in shown]
    fitted = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
    return fitted.to(images.device).float().div_(255)


def enlarge_levels(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge 8-bit levels (B, C, H, W) bicubically in Pillow's arithmetic, by two products.

    Returns:
        (B, C, *size) float64, whole numbers from 0 to 255.
    """
    rows, columns = (
        _pillow_weights(before, after, levels.device)
        for before, after in zip(levels.shape[2:], size, strict=True)
    )
    levels = _rounded(levels.double() @ columns.T)  # Pillow goes along the rows first
    return _rounded(rows @ levels)


def _rounded(sums: Tensor) -> Tensor:
    """Bring sums in fixed point back to 8-bit levels, halves upwards."""
    return (sums / _FIXED_POINT + 0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _pillow_weights(before: int, after: int, device: torch.device) -> Tensor:
    """Compute Pillow's bicubic weights (after, before) in fixed point, as whole numbers."""
    centre = (torch.arange(after, dtype=torch.float64)[:, None] + 0.5) * (before / after)
    x = (torch.arange(before) - centre + 0.5).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    kernel = torch.where(x < 1, near, far) * (x < 2)
    fixed = kernel / kernel.sum(1, keepdim=True) * _FIXED_POINT
    return (fixed + 0.5 * fixed.sign()).trunc().to(device)
