"""How far sets of masks agree where there is no ground truth to say which is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.evaluation import confusion

if TYPE_CHECKING:
    import pandas as pd


def disagreement_map(masks: Sequence[Tensor]) -> Tensor:
    """Compute how far several masks of one image disagree at each pixel.

    Args:
        masks: M masks (H, W) of integers, at least two; 255 is a value as any other.

    Returns:
        (H, W) float32 in [0, 1]: the share of the pairs of masks with two values there.

    Raises:
        ValueError: if there are fewer than two masks, or their sizes differ.

    Example:
        >>> disagreement_map([torch.tensor([[0, 1]]), torch.tensor([[0, 2]])]).tolist()
        [[0.0, 1.0]]
    """
    masks = [confusion.as_mask(mask, f"mask {i}") for i, mask in enumerate(masks)]
    if len(masks) < 2 or len({mask.shape for mask in masks}) > 1:
        shapes = [tuple(mask.shape) for mask in masks]
        raise ValueError(f"masks have shapes {shapes}, expected at least two of one size")
    unequal = [(first != second).float() for first, second in combinations(masks, 2)]
    return torch.stack(unequal).mean(0)


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far sets of masks agree. Nothing here says which of them is right.

    Args:
        names: of M sets.
        pixels: (M, M) share of the pixels with one value in both.
        iou: (M, M) mean IoU of one set scored by the other; pixels that are 255 in either are left
            out.
        images: image name -> mean of its `disagreement_map`.
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    iou: np.ndarray
    images: dict[str, float]

    @property
    def most_disputed(self) -> list[tuple[str, float]]:
        """Up to ten (image name, its mean disagreement), the highest first."""
        return sorted(self.images.items(), key=lambda item: (-item[1], item[0]))[:10]

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each pair: ``first``, ``second``, ``pixels`` and ``iou``."""
        import pandas as pd

        pairs = combinations(range(len(self.names)), 2)
        rows = [(self.names[i], self.names[j], self.pixels[i, j], self.iou[i, j]) for i, j in pairs]
        return pd.DataFrame(rows, columns=["first", "second", "pixels", "iou"])

    def __str__(self) -> str:
        """Write the pairs in percent, and the images with most disagreement."""
        frame = self.to_frame()
        frame[["pixels", "iou"]] *= 100
        worst = ", ".join(f"{name} {100 * share:.1f}" for name, share in self.most_disputed[:3])
        return f"{frame.round(1).to_string(index=False)}\nmost disputed images: {worst}"

    __repr__ = __str__


def agree(masks: Mapping[str, Mapping[str, Tensor]], classes: Sequence[str]) -> Agreement:
    """Measure how far sets of masks agree, without a ground truth.

    Args:
        masks: name of a set -> image name -> (H, W) integers; all of the images of the first set.
        classes: C names without background.

    Returns:
        An `Agreement`; print it.

    Raises:
        ValueError: if there are fewer than two sets, an image has no mask in one, sizes differ, or
            a value is no class.

    Example:
        >>> masks = {"a": torch.tensor([[0, 1, 1, 255]])}, {"a": torch.tensor([[0, 0, 1, 1]])}
        >>> print(agree({"mine": masks[0], "yours": masks[1]}, ["cow"]))
        first second  pixels  iou
         mine  yours    50.0 50.0
        most disputed images: a 50.0
    """
    if len(masks) < 2:
        raise ValueError(f"masks holds {len(masks)} sets, expected at least two to compare")
    first, numbers = next(iter(masks.values())), [*combinations(range(len(masks)), 2)]
    for name, each in masks.items():
        confusion.check_complete(repr(name), each, first)
    matrices = {pair: confusion.ConfusionMatrix(1 + len(classes)) for pair in numbers}
    pixels, iou = np.eye(len(masks)), np.eye(len(masks))
    total, images = 0, {}
    doubted, found = np.zeros(len(masks), int), np.zeros(len(masks), int)
    for image in first:
        of_image = [confusion.as_mask(each[image], name) for name, each in masks.items()]
        try:
            images[image] = disagreement_map(of_image).mean().item()
        except ValueError as error:
            raise ValueError(f"image {image!r} in {', '.join(masks)}: {error}") from error
        total += of_image[0].numel()
        doubted += [int((mask == IGNORE_INDEX).sum()) for mask in of_image]
        found += [int(((mask > 0) & (mask != IGNORE_INDEX)).sum()) for mask in of_image]
        for i, j in numbers:
            one, other = of_image[i], of_image[j]
            pixels[i, j] += int((one == other).sum())
            counted = one.masked_fill(other == IGNORE_INDEX, IGNORE_INDEX)  # where both are sure
            matrices[i, j].update(other, counted)
    for name, n_doubted, n_found in zip(masks, doubted, found, strict=True):
        finds = {"finds_objects": n_found > 0, "finds_background": n_found + n_doubted < total}
        try:
            confusion.check_use_of_255(n_doubted / total, **finds)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for i, j in numbers:
        pixels[i, j] = pixels[j, i] = pixels[i, j] / total
        iou[i, j] = iou[j, i] = matrices[i, j].mean_iou()
    return Agreement(tuple(masks), pixels, iou, images)
