"""Oxford-IIIT Pet: cats and dogs of 37 breeds, one an image."""

from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from wsss_kit.checks import check_word
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.data.datasets import ImageFiles, LazyMasks, LazySamples
from wsss_kit.data.images import read_mask_of

SPECIES = ("cat", "dog")
SPLITS = ("trainval", "test")
_PET, _BACKGROUND, _BORDER = 1, 2, 3  # values of a trimap


def load_pets(
    root: str | Path = "data/pets",
    split: str = "trainval",
    *,
    kind: str = "species",
    limit: int | None = None,
) -> LazySamples:
    """Open images of pets with one image-level label each.

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

    Example:
        >>> load_pets("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no pets in nowhere; expected
          nowhere/
            images/Abyssinian_1.jpg
        ...
    """
    return _Pets(root, split, kind).open_samples(limit)


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
        check_word("split", split, SPLITS)
        check_word("kind", kind, ("species", "breed"))
        self.root = Path(root).expanduser()
        self.mask_folder = self.root / "annotations" / "trimaps"
        lists = [self.root / "annotations" / f"{each}.txt" for each in SPLITS]
        if not (self.root / "images").is_dir() or not all(file.is_file() for file in lists):
            raise self.not_found(f"no pets in {root}", root)
        both = [_read_list(file) for file in lists]  # every split has the classes of both
        self.kind, self.rows = kind, both[SPLITS.index(split)]
        self.classes = tuple(sorted({row[kind] for rows in both for row in rows.values()}))
        by_breed: dict[str, list[str]] = {}
        for name, row in self.rows.items():
            by_breed.setdefault(row["breed"], []).append(name)
        ranks = zip_longest(*by_breed.values())  # the first of every breed, the second, and so on
        self.split, self.names = split, [name for rank in ranks for name in rank if name]

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
        wrong = sorted(set(trimap.unique().tolist()) - {_PET, _BACKGROUND, _BORDER})
        if wrong:
            raise ValueError(f"trimap {path} holds {wrong[:5]}, expected 1 (pet), 2 and 3 (border)")
        mask = torch.where(trimap == _PET, 1 + self.present(name)[0], 0)
        return mask.masked_fill(trimap == _BORDER, IGNORE_INDEX)


def _read_list(file: Path) -> dict[str, dict[str, str]]:
    """Read lines such as ``Abyssinian_100 1 1 1``: name, breed, species, breed within it.

    Returns:
        Name -> its ``"breed"`` and its ``"species"``.
    """
    rows = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        cells = line.split()
        if not cells or line.startswith("#"):
            continue
        if len(cells) < 3 or cells[2] not in ("1", "2") or "/" in cells[0] or "_" not in cells[0]:
            raise ValueError(f"{file} line {number} is {line!r}, expected as Abyssinian_100 1 1 1")
        breed = cells[0].rpartition("_")[0].replace("_", " ")
        rows[cells[0]] = {"breed": breed, "species": SPECIES[int(cells[2]) - 1]}
    if not rows:
        raise ValueError(f"{file} is empty, expected one image a line")
    return rows
