"""The embedded world: images drawn from a seed, and the tiny CLIP that has read about them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_given, check_probability, check_seed, check_word
from wsss_kit.classes import PAPER_CLASSES, Sample
from wsss_kit.data.datasets import ByName, Dataset
from wsss_kit.paperworld.drawing import Drawing, draw
from wsss_kit.paperworld.scenes import KINDS, describe, tear, weather
from wsss_kit.paperworld.words import HOME, STUFF, SUBTYPES, Dice, Scene, caption

COOCCURRENCE = {"web": 0.15, "train": 0.85, "val": 0.85, "test": 0.85}
"""How often an object stands on its class's home background, by split."""

TORN = {"web": 0.35, "train": 0.0, "val": 0.0, "test": 0.0}
"""How often an object has lost its signature part, by split."""

WEB_KINDS = (0.40, 0.18, 0.20, 0.12, 0.10)
"""Shares of scene, background, cutout, closeup and collage among web images."""

PLACES = ("object", "usual background", "other background", "other object")
"""Where the mass of a map may lie."""

PARTS = ("body", "signature part")
"""Names of the values 1 and 2 of `PaperWorld.parts`."""

_SMALLEST, _TRIES = 0.008, 20  # share of a scene that a named class has, or it is drawn anew


class Page(NamedTuple):
    """All that is known of one image: description, drawing and caption."""

    scene: Scene
    drawing: Drawing
    caption: str


@lru_cache(maxsize=2048)
def page(
    split: str,
    seed: int,
    index: int,
    size: int,
    cooccurrence: float,
    kind: str | None = None,
    *,
    torn: float = 0.0,
) -> Page:
    """Draw image ``index`` of a split; equal arguments give equal pages, on every platform.

    Args:
        split: ``"web"``, ``"train"``, ``"val"`` or ``"test"``.
        seed: which world.
        index: which image, from 0.
        size: side in pixels.
        cooccurrence: probability of the home background, in [0, 1].
        kind: force one of ``KINDS`` instead of the split's own mixture.
        torn: probability that an object has lost its signature part, in [0, 1].

    Returns:
        The page.
    """
    attempt = 0
    while True:
        dice = Dice(f"{split}/{seed}/{index}/{attempt}")
        own_kind = dice.pick(KINDS, WEB_KINDS) if split == "web" else "scene"
        scene = describe(dice, kind or own_kind, cooccurrence)
        if split == "web" and kind is None:
            scene = weather(dice, scene)
        if torn:  # by dice of their own: all else stays as it is
            scene = tear(Dice(f"{split}/{seed}/{index}/{attempt}/torn"), scene, torn)
        drawing = draw(scene, dice, size)
        shares = np.bincount(drawing.mask.ravel(), minlength=1 + len(PAPER_CLASSES)) / size**2
        attempt += 1
        is_large = (shares[1 + PAPER_CLASSES.index(c)] >= _SMALLEST for c in scene.classes)
        if all(is_large) or attempt == _TRIES:
            return Page(scene, drawing, caption(scene, dice))


class _PageValues(ByName):
    """Mapping from the name of an image to one thing that is known of it."""

    def __init__(self, world: PaperWorld, what: str, read: Callable[[Page], Any]) -> None:
        self._names, self._world, self._what, self._read = world.places, world, what, read

    def __getitem__(self, name: str) -> Any:
        names = self._world.names
        if name not in self:
            run = f"its names run from {names[0]!r} to {names[-1]!r}" if names else "it is empty"
            raise KeyError(f"{name!r} is not an image of {self._world!r}; {run}")
        return self._read(self._world.page(self._names[name]))

    def __repr__(self) -> str:
        return f"{self._what} of {self._world!r}"


MOST_IMAGES = 10**7


class PaperWorld(Dataset):
    """Images cut from printed paper, drawn from a seed when asked for.

    Eight classes, each with three sub-types of body and one signature part; twelve background
    kinds, eight of them home to a class. ``train``, ``val`` and ``test`` hold scenes in which
    objects mostly stand at home, as in a photo collection; ``web`` holds what a language model
    learns from: objects mostly elsewhere, cut-outs, close-ups, backgrounds alone, dim images,
    images with holes, and objects whose signature part is torn off.

    Samples carry image-level labels only. Whatever else is known of an image is a mapping from
    its name: ``masks`` ((H, W) int64, 0 background, 1..8 classes), ``parts``
    ((H, W) int64, 1 body, 2 signature part), ``stuff`` ((H, W) int64, index of the background
    kind, 255 on objects), ``subtypes`` (tuple of (class, sub-type), one per object) and
    ``captions``. Masks are for evaluation and analysis, never for training.

    Args:
        n: number of images, at least 1. A longer world starts with the images of a shorter one.
        split: ``"web"``, ``"train"``, ``"val"`` or ``"test"``.
        size: side of the square images in pixels, 32 to 2048; 96 is what the tiny CLIP knows.
        seed: which world.
        cooccurrence: probability in [0, 1] that an object stands on its class's home background;
            by default 0.15 for ``web`` and 0.85 otherwise. This is the dial that teaches a
            classifier that water is boat.
        torn: probability in [0, 1] that an object has lost its signature part; by default 0.35
            for ``web`` and 0 otherwise. This is the dial that teaches what a body is. Captions,
            labels and all else in an image are as without it, but for the one in a thousand that
            is thought up anew because too little of a torn object would be seen.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> world = PaperWorld(2, split="val")
        >>> sample = world[0]
        >>> sample.name, tuple(sample.image.shape), tuple(sample.labels.shape)
        ('val_0_000000', (3, 96, 96), (8,))
        >>> present = world.masks[sample.name].unique()[1:] - 1
        >>> bool(sample.labels[present].all())
        True
    """

    classes: tuple[str, ...] = PAPER_CLASSES

    def __init__(
        self,
        n: int,
        *,
        split: str = "val",
        size: int = 96,
        seed: int = 0,
        cooccurrence: float | None = None,
        torn: float | None = None,
    ) -> None:
        check_count("n", n)
        if n > MOST_IMAGES:
            raise ValueError(f"n is {n}, expected at most {MOST_IMAGES} images")
        check_count("size", size)
        check_seed(seed)
        check_word("split", split, COOCCURRENCE)
        check_given(check_probability, cooccurrence=cooccurrence, torn=torn)
        if not 32 <= size <= 2048:
            raise ValueError(f"size is {size}, expected 32 to 2048 pixels")
        self.split, self.size, self.seed = split, size, seed
        self.cooccurrence = float(COOCCURRENCE[split] if cooccurrence is None else cooccurrence)
        self.torn = float(TORN[split] if torn is None else torn)
        self._hold(range(n))

    def _hold(self, indices: range) -> None:
        self._indices = indices
        self.names = tuple(f"{self.split}_{self.seed}_{i:06d}" for i in indices)
        self.places = {name: place for place, name in enumerate(self.names)}

    def size_of(self, name: str) -> tuple[int, int]:
        """Return height and width of an image in pixels: of all the same, without drawing any."""
        return self.size, self.size

    def page(self, index: int) -> Page:
        """Return everything that is known of image ``index``."""
        number = self._indices[index]
        return page(self.split, self.seed, number, self.size, self.cooccurrence, torn=self.torn)

    @overload
    def __getitem__(self, index: slice) -> PaperWorld: ...
    @overload
    def __getitem__(self, index: int) -> Sample: ...
    def __getitem__(self, index: int | slice) -> Sample | PaperWorld:
        """Return an image with its labels, or the world of a slice."""
        if isinstance(index, slice):
            part = copy.copy(self)
            part._hold(self._indices[index])
            return part
        scene, drawing, _ = self.page(index)
        labels = torch.zeros(len(PAPER_CLASSES))
        labels[[PAPER_CLASSES.index(name) for name in scene.classes]] = 1.0
        # (H, W, 3) uint8 -> (3, H, W) float in [0, 1]
        image = torch.from_numpy(drawing.image).permute(2, 0, 1).float().div(255)
        return Sample(self.names[index], image, labels)

    def __len__(self) -> int:
        return len(self._indices)

    def __repr__(self) -> str:
        world = f"{len(self)}, split={self.split!r}, size={self.size}, seed={self.seed}"
        return f"PaperWorld({world}, cooccurrence={self.cooccurrence}, torn={self.torn})"

    def open_masks(self) -> Mapping[str, Tensor]:
        """Open the ground-truth masks: name -> (H, W) int64."""
        return self.masks

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Name -> (H, W) int64 ground truth; for evaluation only."""
        return _PageValues(self, "masks", lambda p: torch.from_numpy(p.drawing.mask).long())

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """Name -> (H, W) int64: 0 background, 1 body, 2 signature part."""
        return _PageValues(self, "parts", lambda p: torch.from_numpy(p.drawing.parts).long())

    @property
    def stuff(self) -> Mapping[str, Tensor]:
        """Name -> (H, W) int64: index into ``words.STUFF``, 255 on objects and plain paper."""
        return _PageValues(self, "stuff", lambda p: torch.from_numpy(p.drawing.stuff).long())

    @property
    def subtypes(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """Name -> (class, sub-type) of every object, the farthest first."""
        return _PageValues(
            self, "sub-types", lambda p: tuple((t.name, t.subtype) for t in p.scene.things)
        )

    @property
    def captions(self) -> Mapping[str, str]:
        """Name -> caption."""
        return _PageValues(self, "captions", lambda p: p.caption)


def mass_shares(maps: Mapping[str, Tensor], world: PaperWorld) -> dict[str, float]:
    """Compute how the mass of all maps of the classes present divides, over all images.

    A CAM that has learned the context lies on its class's home as much as on the object.

    Args:
        maps: name of an image -> (C, H, W) in [0, 1]; maps of absent classes do not count.
        world: whose masks and background kinds count.

    Returns:
        Place -> share in [0, 1], which sum to 1: on an object of the map's class; on the
        background kind that is its home; on any other background, plain paper included; on an
        object of another class. NaN if all maps are zero.

    Raises:
        ValueError: if an image has no maps.

    Example:
        >>> world = PaperWorld(3)
        >>> truth = {n: torch.stack([(world.masks[n] == c + 1).float() for c in range(8)])
        ...          for n in world.names}
        >>> mass_shares(truth, world)["object"]
        1.0
    """
    mass = torch.zeros(len(PLACES), dtype=torch.float64)
    homes = [STUFF.index(HOME[name]) for name in PAPER_CLASSES]
    for sample in world:
        if sample.name not in maps:
            raise ValueError(f"there are no maps for {sample.name!r}; expected some for each")
        shown, mask = maps[sample.name].detach().cpu(), world.masks[sample.name]
        stuff = world.stuff[sample.name]
        for c in sample.labels.nonzero().flatten().tolist():
            on_object, at_home = mask == c + 1, stuff == homes[c]
            elsewhere, others = (mask == 0) & ~at_home, (mask != 0) & ~on_object
            for k, place in enumerate((on_object, at_home, elsewhere, others)):
                mass[k] += shown[c][place].double().sum()
    return dict(zip(PLACES, (mass / mass.sum()).tolist(), strict=True))


def part_recall(masks: Mapping[str, Tensor], world: PaperWorld) -> dict[str, float]:
    """Compute the share of each part's pixels that have the right class, over all images.

    Args:
        masks: name of an image -> (H, W) integers, 0 background and c + 1 for class c; other
            values, such as 255, are wrong. Every image of the world has one.
        world: whose parts and ground truth count.

    Returns:
        Name of the part -> recall in [0, 1]; nan for a part that no image shows.

    Raises:
        ValueError: if an image has no mask or one of another size.

    Example:
        >>> world = PaperWorld(3)
        >>> part_recall(world.masks, world)
        {'body': 1.0, 'signature part': 1.0}
    """
    right, shown = torch.zeros(len(PARTS)), torch.zeros(len(PARTS))
    for name in world.names:
        if name not in masks:
            raise ValueError(f"there is no mask for {name!r}; expected one for each of {world!r}")
        truth, parts, mask = world.masks[name], world.parts[name], masks[name]
        if mask.shape != truth.shape:
            problem = f"the mask of {name!r} has shape {tuple(mask.shape)}"
            raise ValueError(f"{problem}, expected {tuple(truth.shape)} as the image")
        for k in range(len(PARTS)):
            part = parts == k + 1
            shown[k] += part.sum()
            right[k] += (mask.to(truth.device) == truth)[part].sum()
    return dict(zip(PARTS, (right / shown).tolist(), strict=True))


def subtype_labels(world: PaperWorld) -> Tensor:
    """Return which sub-types each image shows; to compare with, and to train an upper bound on.

    Args:
        world: M images.

    Returns:
        (M, C * 3) of 0 and 1; column 3 c + j is sub-type j of class c, in the order of
        ``words.SUBTYPES``. An image with two boats of different papers has two ones for boat.

    Example:
        >>> labels = subtype_labels(PaperWorld(2))
        >>> tuple(labels.shape), labels[0].nonzero().flatten().tolist()
        ((2, 24), [15])
    """
    columns = subtype_names()
    labels = torch.zeros(len(world), len(columns))
    for row, name in zip(labels, world.names, strict=True):
        row[[columns.index(f"{style} {parent}") for parent, style in world.subtypes[name]]] = 1
    return labels


def subtype_names() -> tuple[str, ...]:
    """Return what the columns of `subtype_labels` mean.

    Example:
        >>> subtype_names()[:4]
        ('wooden boat', 'red boat', 'striped boat', 'wooden train')
    """
    return tuple(f"{style} {name}" for name in PAPER_CLASSES for style in SUBTYPES[name])
