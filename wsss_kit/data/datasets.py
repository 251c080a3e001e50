"""Data sets: a lazy sequence of samples, a lazy mapping of masks, and `open_dataset` by name."""

from __future__ import annotations

import operator
import os
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_given, check_word
from wsss_kit.classes import COCO_CLASSES, PAPER_CLASSES, VOC_CLASSES, Sample, find
from wsss_kit.data.images import image_size, read_image, read_mask_of
from wsss_kit.files import call_function, check_texts, expanded
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import check_places, closest

FOLDERS = {"voc": "VOC2012", "coco": "COCO2014", "pets": "pets", "folder": "mine"}
"""The folder of each data set below ``data/``."""
SPLITS = {"voc": "train_aug", "coco": "train", "pets": "trainval", "paper": "train"}
"""The split of each data set that pseudo masks are made of."""
TITLES = {"voc": "VOC 2012", "coco": "COCO 2014", "pets": "Oxford-IIIT Pet", "paper": "PaperWorld"}
"""How a protocol calls each data set; any other is an "own folder"."""


def default_root(name: str) -> Path:
    """Return the folder of a data set if none is given.

    The environment variable ``WSSS_KIT_VOC`` (``_COCO``, ``_PETS``, ``_FOLDER``) names it; else it
    is ``data/VOC2012`` (and so on) in the working directory, or beside the package. ``"weights"``
    has files of weights.

    Raises:
        FileNotFoundError: if the variable names no folder.
    """
    variable = f"WSSS_KIT_{name.upper()}"
    if value := os.environ.get(variable):
        if not (root := expanded(value)).is_dir():
            problem = f"the environment variable {variable} is {value!r}, expected a folder"
            raise FileNotFoundError(f"{problem} that is there; set it to one, or unset it")
        return root
    here = Path("data") / FOLDERS.get(name, name)
    beside = Path(__file__).resolve().parents[2] / here
    return beside if beside.is_dir() and not here.is_dir() else here


def open_dataset(
    name: str,
    root: str | Path | None = None,
    split: str | None = None,
    *,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Open a data set.

    Args:
        name: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` (your own, see `load_folder`),
            ``"paper"`` (the embedded world), or ``"FILE.py:FUNCTION"``: a function, with the
            arguments ``root`` and ``split`` or without, that returns `LazySamples`.
        root: its folder; None for `default_root`.
        split: None for the one that pseudo masks are made of, see ``SPLITS``.
        limit: only the first so many images; of ``"paper"`` how many there are, 200 if None.
        classes: of ``"folder"``: class names in the order of the mask values.

    Returns:
        The data set, whose images are read when asked for.

    Raises:
        ValueError: for another name or split, or a limit that is no count.
        FileNotFoundError: if the data is not there, with the layout that was expected.

    Example:
        >>> dataset = open_dataset("paper", split="val", limit=2)
        >>> dataset.classes[:2], len(dataset), dataset[0].name
        (('boat', 'train'), 2, 'val_0_000000')
        >>> dataset.prompts("clims").backgrounds_of("boat")[0]
        'water'
        >>> tuple(dataset.open_masks()["val_0_000000"].shape)
        (96, 96)
    """
    check_given(check_count, limit=limit)
    if ".py:" in name:
        made = call_function(name, root=root, split=split)
        if not isinstance(made, LazySamples):
            raise ValueError(f"{name} returned {type(made).__name__}, expected LazySamples")
        return made[:limit]
    check_word("the data set", name, (*FOLDERS, "paper"))
    split = SPLITS.get(name) if split is None else split
    load = find("dataset", name)
    if classes is not None and name != "folder":
        raise ValueError(f"classes belong to a folder of your own, and {name} has its own")
    if name == "paper":
        return load(limit or 200, split=split)
    root = default_root(name) if root is None else Path(root)
    if name == "folder":
        if split is not None:
            raise ValueError(f"split is {split!r}, and a folder of your own has none; leave it out")
        return load(root, classes=classes)[:limit]
    return load(root, split, limit=limit)


class Dataset(Sequence[Sample]):
    """Images with labels, their prompts, and masks by a separate call. A slice is one too."""

    names: tuple[str, ...]  # one per image
    classes: tuple[str, ...]
    split: str | None  # which part of a set it is

    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @abstractmethod
    def __getitem__(self, index: int | slice) -> Sample | Dataset: ...

    @abstractmethod
    def size_of(self, name: str) -> tuple[int, int]:
        """Return height and width of an image, without decoding it where that is possible."""

    @abstractmethod
    def open_masks(self) -> Mapping[str, Tensor]:
        """Open the ground-truth masks, for evaluation only: name -> (H, W) int64.

        Raises:
            FileNotFoundError: if there are none, with the layout that was expected.
        """

    def prompts(self, method: str = "clip_es", file: str | Path | None = None) -> Prompts:
        """Return prompts for the classes: those of a file, else of the papers, else simple ones.

        Args:
            method: ``"clip_es"`` or ``"clims"``.
            file: of `Prompts.to_json`; other names of the classes are warned of.

        Raises:
            ValueError: if the file has more or fewer classes, or another order.
        """
        if file is not None:
            prompts = Prompts.from_json(Path(file))
            if renamed := check_places(prompts.classes, self.classes, f"the prompts in {file}"):
                warnings.warn(f"{file} says {', '.join(renamed[:5])}", stacklevel=2)
            return prompts
        published: Any = {VOC_CLASSES: Prompts.voc, COCO_CLASSES: Prompts.coco}
        known = (published | {PAPER_CLASSES: Prompts.paper}).get(self.classes)
        return known(method) if known else Prompts.for_classes(self.classes, method)


class LazySamples(Dataset):
    """Samples that are read from disk when asked for. A slice is again a lazy sequence.

    Args:
        names: one per image, unique.
        image: name to (3, H, W) float32 in [0, 1].
        labels: name to (C,) float32 of 0 and 1.
        classes: the C class names.
        split: which part of the data set this is, if it has parts.
        size: name to (H, W) without decoding, where that is possible.
        masks: ground truth by name, for `open_masks`; None for none.

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
        LazySamples(3 images, 1 classes)
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
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.names, self.classes, self.split = tuple(names), tuple(classes), split
        self.image, self.labels, self._size, self.masks = image, labels, size, masks
        check_texts(self.names, "the images are called")
        if twice := [name for name, n in Counter(self.names).items() if n > 1]:
            raise ValueError(f"two images are called {twice[0]!r}, expected different names")

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: slice) -> LazySamples: ...
    @overload
    def __getitem__(self, index: int) -> Sample: ...
    def __getitem__(self, index: int | slice) -> Sample | LazySamples:
        """Read one sample, or return a lazy sequence of those in a slice."""
        if isinstance(index, slice):
            return self.pick(self.names[index])
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} was asked for, but there are {len(self)}")
        name = self.names[index]
        return Sample(name, self.image(name), self.labels(name))

    def without_labels(self) -> LazySamples:
        """Return the same images with labels all zero, without reading any."""
        samples = copy(self)
        samples.labels = lambda name: torch.zeros(len(self.classes))
        return samples

    def pick(self, names: Iterable[str]) -> LazySamples:
        """Select images by name, in this order, as lazy as before.

        Args:
            names: each among ``names``.

        Raises:
            ValueError: if a name is not.
        """
        names = tuple(names)
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(f"{unknown[:5]} are not among the {len(self)} images of `names`")
        samples = copy(self)
        samples.names = names
        return samples

    def open_masks(self) -> Mapping[str, Tensor]:
        """See `Dataset`."""
        if self.masks is None:
            raise FileNotFoundError("these images have no ground-truth masks")
        return self.masks

    def size_of(self, name: str) -> tuple[int, int]:
        """See `Dataset`."""
        if self._size:
            return self._size(name)
        H, W = self.image(name).shape[-2:]
        return H, W

    def image_labels(self) -> Tensor:
        """Return the labels of all images, (M, C) of 0 and 1, without decoding any."""
        rows = [self.labels(name) for name in self.names]
        return torch.stack(rows) if rows else torch.zeros(0, len(self.classes))

    def __repr__(self) -> str:
        split = f", split={self.split!r}" if self.split else ""
        return f"LazySamples({len(self)} images, {len(self.classes)} classes{split})"


class ByName(Mapping[str, Any]):
    """Base of mappings by image name whose values are read when asked for."""

    _names: Mapping[str, Any]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class LazyMasks(ByName):
    """Ground-truth masks by image name, read from disk when asked for.

    Args:
        names: images that have a mask.
        read: name to (H, W) int64.
        folder: where the masks lie, for messages.

    Example:
        >>> masks = LazyMasks(["a"], read=lambda name: torch.zeros(1, 1).long(), folder="masks")
        >>> masks["a"].tolist(), "b" in masks
        ([[0]], False)
        >>> masks["b"]
        Traceback (most recent call last):
        KeyError: "no mask for 'b': expected it at masks/b.png"
    """

    def __init__(
        self, names: Iterable[str], *, read: Callable[[str], Tensor], folder: str | Path
    ) -> None:
        self._names, self._read, self._folder = dict.fromkeys(names), read, Path(folder)

    def __getitem__(self, name: str) -> Tensor:
        """Read the (H, W) int64 mask of one image."""
        if name not in self._names:
            where = f"expected it at {self._folder / str(name)}.png"
            raise KeyError(f"no mask for {name!r}: {where}{closest(str(name), self._names)}")
        return self._read(name)

    def __repr__(self) -> str:
        return f"LazyMasks({len(self)} masks in {self._folder})"


class ImageFiles(LazySamples):
    """Base of the readers: samples of image files, and their masks. A reader sets what follows."""

    split = None
    mask_folder: Path
    LAYOUT: str  # that is expected, for messages
    path: Callable[[str], Path]
    present: Callable[[str], Collection[int]]  # indices of the classes
    mask: Callable[[str], Tensor]  # (H, W) int64

    def image(self, name: str) -> Tensor:
        """Read an image: (3, H, W) float32 in [0, 1]."""
        return read_image(self.path(name))

    def size_of(self, name: str) -> tuple[int, int]:
        """Read the height and width of an image."""
        return image_size(self.path(name))

    def labels(self, name: str) -> Tensor:
        """Return image-level labels: (C,) float32 of 0 and 1."""
        labels = torch.zeros(len(self.classes))
        labels[list(self.present(name))] = 1
        return labels

    def read_mask(self, name: str, file: Path) -> Tensor:
        """Read the mask of an image from a file, checked: (H, W) int64."""
        return read_mask_of(self.path(name), file, n_classes=len(self.classes))

    def first(self, limit: int | None) -> LazySamples:
        """Return the first ``limit`` images."""
        check_given(check_count, limit=limit)
        return self[:limit]

    def open_masks(self) -> LazyMasks:
        """Return the masks of all images, which are read when asked for."""
        return LazyMasks(self.names, read=self.mask, folder=self.mask_folder)

    def not_found(self, problem: str, root: str | Path) -> FileNotFoundError:
        """Return the error for a missing part of the layout."""
        return FileNotFoundError(f"{problem}; expected{self.LAYOUT.format(root=root)}")
