"""The two doors every data set has: a lazy sequence of samples, a lazy mapping of masks."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from wsss_kit.classes import COCO_CLASSES, IGNORE_INDEX, VOC_CLASSES, Sample
from wsss_kit.data.pictures import picture_size, read_mask
from wsss_kit.prompts import Prompts


class LazySamples(Sequence[Sample]):
    """Samples that are read from disk when asked for. A slice is again a lazy sequence.

    Args:
        names: one per picture, unique.
        image: name to (3, H, W) float32 in [0, 1].
        labels: name to (C,) float32 of 0 and 1.
        classes: the C class names.
        split: which part of the data set this is, if it has parts.
        size: name to (H, W) without decoding, where that is possible.
        masks: opens the ground truth, if there is some.

    Example:
        >>> samples = LazySamples(
        ...     ["a", "b", "c"],
        ...     image=lambda name: torch.zeros(3, 1, 1),
        ...     labels=lambda name: torch.tensor([float(name == "b")]),
        ...     classes=("bird",),
        ... )
        >>> samples[1:].names, samples[1:].classes, samples[-2].labels.tolist()
        (('b', 'c'), ('bird',), [1.0])
        >>> samples.pick(["c", "b"])[1].labels.tolist()
        [1.0]
        >>> samples
        LazySamples(3 pictures, 1 classes)
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        image: Callable[[str], Tensor],
        labels: Callable[[str], Tensor],
        classes: Sequence[str],
        split: str | None = None,
        size: Callable[[str], tuple[int, int]] | None = None,
        masks: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.classes = tuple(classes)
        self.split = split
        self._image, self._labels, self._size, self._masks = image, labels, size, masks

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> LazySamples: ...
    def __getitem__(self, index: int | slice) -> Sample | LazySamples:
        """One sample, or a lazy sequence of those in a slice."""
        if isinstance(index, slice):
            return self.pick(self.names[index])
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} was asked for, but there are {len(self)}")
        name = self.names[index]
        return Sample(name, self._image(name), self._labels(name))

    def without_labels(self) -> LazySamples:
        """The same images with labels all zero, read from nowhere."""
        samples = copy(self)
        samples._labels = lambda name: torch.zeros(len(self.classes))
        return samples

    def pick(self, names: Iterable[str]) -> LazySamples:
        """The pictures of these names, in this order, as lazy as before.

        Args:
            names: each among ``names``.

        Raises:
            ValueError: if a name is not.
        """
        names = tuple(names)
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(
                f"{', '.join(unknown[:5])}: not among the {len(self)} pictures; `names` lists them"
            )
        samples = copy(self)
        samples.names = names
        return samples

    def prompts(self, method: str = "clip_es", file: str | Path | None = None) -> Prompts:
        """Prompts for the classes: those of a file, else of the papers, else simple ones.

        Args:
            method: ``"clip_es"`` or ``"clims"``.
            file: of `Prompts.to_json`.
        """
        if file is not None:
            return Prompts.from_json(Path(file))
        known = {VOC_CLASSES: Prompts.voc, COCO_CLASSES: Prompts.coco}.get(self.classes)
        return known(method) if known else Prompts.for_classes(self.classes, method)

    def open_masks(self) -> Mapping[str, Tensor]:
        """Open the ground-truth masks, for evaluation only: name -> (H, W) int64.

        Raises:
            FileNotFoundError: if there are none, with the layout that was expected.
        """
        if self._masks is None:
            raise FileNotFoundError("these images have no ground-truth masks")
        return self._masks()

    def size_of(self, name: str) -> tuple[int, int]:
        """Height and width of a picture in pixels, from its first bytes where that is possible."""
        if self._size is not None:
            return self._size(name)
        return tuple(self._image(name).shape[-2:])

    def image_labels(self) -> Tensor:
        """Labels of all pictures, without decoding any.

        Returns:
            (len(self), C) float32 of 0 and 1.
        """
        rows = [self._labels(name) for name in self.names]
        return torch.stack(rows) if rows else torch.zeros(0, len(self.classes))

    def __repr__(self) -> str:
        split = f", split={self.split!r}" if self.split else ""
        return f"LazySamples({len(self)} pictures, {len(self.classes)} classes{split})"


class LazyMasks(Mapping[str, Tensor]):
    """Ground-truth masks by picture name, read from disk when asked for.

    Args:
        names: pictures that have a mask.
        read: name to (H, W) int64.
        folder: where the masks lie, for messages.

    Example:
        >>> masks = LazyMasks(["a"], read=lambda name: torch.zeros(1, 1).long(), folder="masks")
        >>> masks["a"].tolist(), "b" in masks
        ([[0]], False)
        >>> masks["b"]
        Traceback (most recent call last):
        KeyError: "no mask for 'b': expected it at masks/b.png; masks known here: 1"
    """

    def __init__(
        self, names: Iterable[str], *, read: Callable[[str], Tensor], folder: str | Path
    ) -> None:
        self._names = dict.fromkeys(names)
        self._read = read
        self._folder = Path(folder)

    def __getitem__(self, name: str) -> Tensor:
        """The (H, W) int64 mask of one picture."""
        if name not in self._names:
            raise KeyError(
                f"no mask for {name!r}: expected it at {self._folder / str(name)}.png; "
                f"masks known here: {len(self)}{closest(str(name), self._names)}"
            )
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"LazyMasks({len(self)} masks in {self._folder})"


def read_mask_of(picture: str | Path, path: str | Path, *, n_classes: int) -> Tensor:
    """Read the mask of a picture and hold it to the picture's size and the class list.

    Args:
        picture: the picture file the mask belongs to.
        path: the mask file.
        n_classes: C; values 0 to C and 255 are allowed.

    Returns:
        (H, W) int64.

    Raises:
        FileNotFoundError: if either file is missing.
        ValueError: if the mask is of another size than the picture, or has another value.

    Example:
        Class 2 of two is value 2; with one class it is out of range:

        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     picture, mask = Path(folder) / "a.jpg", Path(folder) / "a.png"
        ...     Image.new("RGB", (2, 1)).save(picture)
        ...     Image.new("L", (2, 1), 2).save(mask)
        ...     read_mask_of(picture, mask, n_classes=2).tolist()
        [[2, 2]]
    """
    mask = read_mask(path)
    size = picture_size(picture)
    if tuple(mask.shape) != size:
        raise ValueError(
            f"mask {path} is {mask.shape[0]}x{mask.shape[1]} pixels (H x W) but its picture "
            f"{picture} is {size[0]}x{size[1]}; expected equal sizes (EXIF rotation counts); "
            "draw the mask on the picture as a viewer shows it, or resize it without smoothing"
        )
    ids = mask.numpy()
    outside = np.unique(ids[((ids < 0) | (ids > n_classes)) & (ids != IGNORE_INDEX)])
    if len(outside):
        raise ValueError(
            f"mask {path} has values {outside[:5].tolist()}, expected 0 (background), "
            f"1 to {n_classes} (class c is value c + 1) or {IGNORE_INDEX} (ignored); "
            "check the class list and that the mask was saved without smoothing"
        )
    return mask


def closest(name: str, names: Iterable[str]) -> str:
    """The end of a message: which of the names was probably meant, or nothing.

    Args:
        name: what arrived.
        names: what would have been right.

    Returns:
        ``"; closest: 'cat'"`` or an empty string.

    Example:
        >>> closest("Catt", ["dog", "cat"]), closest("x", ["dog", "cat"])
        ("; closest: 'cat'", '')
    """
    by_lower = {candidate.lower(): candidate for candidate in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; closest: {by_lower[found[0]]!r}" if found else ""
