"""Oxford-IIIT Pet: cats and dogs of 37 breeds, one an image."""

import re
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from wsss_kit.checks import check_word
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.data.benchmarks import list_lines
from wsss_kit.data.datasets import ImageFiles, LazyMasks, LazySamples
from wsss_kit.data.images import read_mask_of
from wsss_kit.files import expanded

SPECIES = {"1": "cat", "2": "dog"}


def load_pets(
    root: str | Path = "data/pets",
    split: str = "trainval",
    *,
    kind: str = "species",
    limit: int | None = None,
) -> LazySamples:
    """Open images of pets, cats and dogs of 37 breeds, with one image-level label each.

    Args:
        root: the folder with ``images/`` and ``annotations/``.
        split: ``"trainval"`` (3,680 images) or ``"test"`` (3,669).
        kind: what the classes are: ``"species"`` (cat, dog) or ``"breed"`` (37, sorted by name).
        limit: only the first so many of a list that goes round the breeds, so that few images
            cover many of them.

    Returns:
        A lazy sequence of ``Sample`` with ``.classes``, ``.split`` and ``.names``.

    Raises:
        FileNotFoundError: if the layout or the list is not there; on reading an item, if its
            image is not.
        ValueError: for another split or kind, or a line of the list that is none.
    """
    return _Pets(root, split, kind).first(limit)


def load_pets_masks(
    root: str | Path = "data/pets", split: str = "trainval", *, kind: str = "species"
) -> LazyMasks:
    """Open the ground-truth masks of the pets, for evaluation only; the trimap's border is 255.

    Args:
        root: as for `load_pets`.
        split: as for `load_pets`.
        kind: as for `load_pets`; the pet has the value of its class.

    Returns:
        A lazy mapping name to (H, W) int64.

    Raises:
        FileNotFoundError: as for `load_pets`, and if there are no trimaps.
        ValueError: as for `load_pets`; on reading an item, if its trimap does not decode, is of
            another size than its image or holds another value.
    """
    return _Pets(root, split, kind).open_masks()


class _Pets(ImageFiles):
    """The files of one folder by image name."""

    LAYOUT = """
  {root}/
    images/Abyssinian_1.jpg
    annotations/trainval.txt           lines: Abyssinian_100 1 1 1
    annotations/trimaps/Abyssinian_1.png   1 pet, 2 background, 3 border; for evaluation
data/README.md says where to get it."""

    def __init__(self, root: str | Path, split: str, kind: str) -> None:
        check_word("split", split, ("trainval", "test"))
        check_word("kind", kind, ("species", "breed"))
        self.root, self.split, self.kind = expanded(root), split, kind
        self.mask_folder = self.root / "annotations" / "trimaps"
        lists = {each: self.root / "annotations" / f"{each}.txt" for each in ("trainval", "test")}
        if not (self.root / "images").is_dir() or not all(map(Path.is_file, lists.values())):
            raise self.not_found(f"no pets in {root}", root)
        rows = {each: _read_pets(file) for each, file in lists.items()}
        every = [row[kind] for each in rows.values() for row in each.values()]
        self.classes = tuple(sorted(set(every)))  # those of both splits
        self.rows = rows[split]
        by_breed = defaultdict(list)
        for name, row in self.rows.items():
            by_breed[row["breed"]].append(name)
        ranks = zip_longest(*by_breed.values())  # the first of every breed, the second, and so on
        self.names = tuple(name for rank in ranks for name in rank if name)

    def open_masks(self) -> LazyMasks:
        if not self.mask_folder.is_dir():
            raise self.not_found(f"{self.root} has no annotations/trimaps/", self.root)
        return super().open_masks()

    def path(self, name: str) -> Path:
        return self.root / "images" / f"{name}.jpg"

    def present(self, name: str) -> list[int]:
        return [self.classes.index(self.rows[name][self.kind])]

    def mask(self, name: str) -> Tensor:
        path = self.mask_folder / f"{name}.png"
        trimap = read_mask_of(self.path(name), path, n_classes=IGNORE_INDEX)  # any value
        wrong = sorted(set(trimap.unique().tolist()) - {1, 2, 3})
        if wrong:
            raise ValueError(f"trimap {path} holds {wrong[:5]}, expected 1 (pet), 2 and 3 (border)")
        values = torch.tensor([0, 1 + self.present(name)[0], 0, IGNORE_INDEX])
        return values[trimap]


def _read_pets(file: Path) -> dict[str, dict[str, str]]:
    """Read lines such as ``Abyssinian_100 1 1 1``: name, breed, species, breed within it.

    Returns:
        Name -> its ``"breed"`` and its ``"species"``.
    """
    rows = {}
    for number, line in list_lines(file):
        cells = re.match(r"\s*(([^/\s]+)_[^/\s]*)\s+\S+\s+([12])(\s|$)", line)
        if not cells:
            raise ValueError(f"{file} line {number} is {line!r}, expected as Abyssinian_100 1 1 1")
        name, breed, species = cells.groups()[:3]
        rows[name] = {"breed": breed.replace("_", " "), "species": SPECIES[species]}
    return rows
