"""Your own images: a folder with ``labels.csv``, and masks if there are any."""

import csv
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.data.datasets import ImageFiles, LazyMasks, LazySamples
from wsss_kit.data.exchange import ENDINGS, matched, read_file
from wsss_kit.data.images import check_mask, image_size, read_image
from wsss_kit.files import composed, expanded, files_below
from wsss_kit.prompts.checks import checked_words, closest, expected_one_of

N_SHOWN = 5  # problems that an error message lists

MASKS = "masks"
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def load_folder(root: str | Path, *, classes: Sequence[str] | None = None) -> LazySamples:
    r"""Open your own images with image-level labels.

    The folder holds the images and a table ``labels.csv`` with the header ``file,labels``:
    several class names with ``;`` between them, or none. Images that the table does not name
    are left out. An image's name is its file without the suffix.

    Args:
        root: the folder with ``labels.csv``.
        classes: the class names in the order of the mask values; by default the sorted names of
            the table.

    Returns:
        A lazy sequence of ``Sample`` with ``.classes`` and ``.names``; ``labels`` is (C,) float32.

    Raises:
        FileNotFoundError: if the folder, its table, or images that the table names are missing.
        ValueError: if the table has another header, encoding or separator, names an image twice,
            two images with one name, or a class outside ``classes``, or has a label that looks
            like several. Bad rows are reported together. On reading an item, if its image does
            not decode.

    Example:
        An image without any class stays in:

        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for file in ("a.jpg", "b.png"):
        ...         Image.new("RGB", (4, 3)).save(Path(folder, file))
        ...     _ = Path(folder, "labels.csv").write_text("file,labels\na.jpg,dog;cat\nb.png,\n")
        ...     samples = load_folder(folder)
        ...     [(sample.name, sample.labels.tolist()) for sample in samples], samples.classes
        ([('a', [1.0, 1.0]), ('b', [0.0, 0.0])], ('cat', 'dog'))
    """
    return _Folder(root, classes)


def load_folder_masks(root: str | Path, *, classes: Sequence[str] | None = None) -> LazyMasks:
    r"""Open the ground-truth masks of your own images, for evaluation only.

    An image ``cat1.jpg`` has its mask at ``masks/cat1.png``, or as integers in ``masks/cat1.npy``;
    those without one are not in the mapping. For ``pets/cat1.jpg`` it is ``masks/pets/cat1.png``,
    or ``masks/cat1.png`` where no other image is called ``cat1``.

    Args:
        root: as for ``load_folder``.
        classes: as for ``load_folder``; give both the same.

    Returns:
        A lazy mapping name to (H, W) int64: 0 background, c + 1 for class c, 255 ignored.

    Raises:
        FileNotFoundError: if the folder, its table or ``masks/`` is missing.
        ValueError: as for ``load_folder``, or if no file is the mask of an image; on reading an
            item, if its mask does not decode, has another size than its image or a value that
            is no class.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "masks").mkdir()
        ...     Image.new("RGB", (2, 1)).save(Path(folder, "a.jpg"))
        ...     Image.new("L", (2, 1), 255).save(Path(folder, "masks", "a.png"))
        ...     _ = Path(folder, "labels.csv").write_text("file,labels\na.jpg,dog\n")
        ...     load_folder_masks(folder)["a"].tolist()
        [[255, 255]]
    """
    return _Folder(root, classes).open_masks()


def open_images(folder: Path, classes: Sequence[str] | None, *, inner: bool = False) -> LazySamples:
    """Open the images of a folder, each with all classes, or as `load_folder` does.

    Args:
        folder: with ``labels.csv`` or not.
        classes: their names; needed without ``labels.csv``.
        inner: whether images in folders of it count too, but for those in ``masks/``.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image, or has no ``labels.csv`` and classes are not given.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, expected one of images")
    if (folder / "labels.csv").is_file():
        return load_folder(folder, classes=classes)
    paths = files_below(folder) if inner else sorted(folder.iterdir())
    paths = {path.relative_to(folder): path for path in paths}
    paths = {
        inside: path
        for inside, path in paths.items()  # names with a dot: what macOS puts into an archive
        if path.suffix.lower() in IMAGE_ENDINGS and path.name[0] != "." and inside.parts[0] != MASKS
    }
    stems = Counter(inside.with_suffix("") for inside in paths)
    files = {
        (inside if stems[inside.with_suffix("")] > 1 else inside.with_suffix("")).as_posix(): path
        for inside, path in paths.items()
    }
    if not files:
        problem = f"{folder} holds no image ({', '.join(IMAGE_ENDINGS)})"
        raise ValueError(f"{problem}, expected some, beside a labels.csv or with --classes")
    if not classes:
        problem = f"{folder} has no labels.csv, so say which classes to look for: --classes cat,dog"
        raise ValueError(f"{problem}; or write one: file,labels, several names with ; between")
    return LazySamples(
        list(files),
        image=lambda name: read_image(files[name]),
        labels=lambda name: torch.ones(len(classes)),
        size=lambda name: image_size(files[name]),
        classes=checked_classes(classes, "--classes"),
    )


class _Row(NamedTuple):
    """One line of ``labels.csv``."""

    line: int
    file: PurePosixPath
    labels: tuple[str, ...]


class _Problem(NamedTuple):
    """What is wrong with a line."""

    line: int
    text: str
    missing: bool = False


class _Folder(ImageFiles):
    """The checked table of one folder, and its files by image name."""

    LAYOUT = """
  {root}/
    labels.csv        first line: file,labels    then: cat1.jpg,cat;sofa    or: wall.jpg,
    cat1.jpg          the images, named in labels.csv relative to this folder
    masks/cat1.png    optional, for evaluation: 0 background, 1 first class, 255 ignored"""

    def __init__(self, root: str | Path, classes: Sequence[str] | None) -> None:
        self.root = expanded(root)
        table = self.root / "labels.csv"
        if not table.is_file():
            what = f"{self.root} has no labels.csv" if self.root.is_dir() else f"no folder {root}"
            raise self.not_found(what, root)
        problems: list[_Problem] = []
        rows = _read_rows(table, problems)
        labels = {label for row in rows for label in row.labels}
        mixed = {label for label in labels if classes is None and _is_several(label, labels)}
        classes = sorted(labels) if classes is None else classes
        self.classes = checked_classes(classes, f"classes of {table}") if labels or classes else ()
        self.rows: dict[str, _Row] = {}
        for row in rows:
            problems += self._add(row, mixed)
        if problems:
            entries = f"{len(problems)} bad entr{'y' if len(problems) == 1 else 'ies'}"
            lines = [f"{table} has {entries}, correct and load again:"]
            lines += [f"line {each.line}: {each.text}" for each in sorted(problems)[:N_SHOWN]]
            if len(problems) > N_SHOWN:
                lines.append(f"and {len(problems) - N_SHOWN} more")
            error = FileNotFoundError if all(each.missing for each in problems) else ValueError
            raise error("\n  ".join(lines))
        if not self.rows:
            raise ValueError(f"{table} names no image; add a line such as: cat1.jpg,cat")
        if not self.classes:
            raise ValueError(f"{table} names no class; label an image, or pass classes=")
        self.names = tuple(self.rows)

    def _add(self, row: _Row, mixed: set[str]) -> Iterator[_Problem]:
        """Keep a row by the name of its image on disk; yield what is wrong with it."""
        if not os.path.isfile(self.root / row.file):
            row = row._replace(file=self._files.get(composed(row.file), row.file))
        name = str(row.file.with_suffix(""))
        first = self.rows.setdefault(name, row)
        if first is not row and first.file == row.file:
            yield _Problem(row.line, f"'{row.file}' is named twice, first in line {first.line}")
        elif first is not row:
            text = f"'{row.file}' and '{first.file}' of line {first.line} are both called {name!r}"
            yield _Problem(row.line, f"{text}; rename one")
        elif not os.path.isfile(self.root / row.file):
            there = (path.name for path in (self.root / row.file.parent).glob("*"))
            text = f"there is no image '{row.file}'{closest(row.file.name, there)}"
            yield _Problem(row.line, text, missing=True)
        for label in row.labels:
            if label in mixed:
                text = f"{label!r} looks like several classes; put ';' between, or pass classes="
                yield _Problem(row.line, text)
            elif label not in self.classes:
                text = f"unknown class {label!r}, {expected_one_of(label, self.classes)}"
                yield _Problem(row.line, text)

    @cached_property
    def _files(self) -> dict[str, PurePosixPath]:
        """The files by their composed names, for names that are written otherwise."""
        files = (PurePosixPath(p.relative_to(self.root)) for p in files_below(self.root))
        return {composed(file): file for file in files}

    def open_masks(self) -> LazyMasks:
        """Return the masks of the images that have one.

        No mask at all is an error. A mask without its image is probably misnamed: a warning.
        """
        folder = self.root / "masks"
        if not folder.is_dir():
            raise self.not_found(f"{self.root} has no folder masks/", self.root)
        if not (files := files_below(folder)):
            raise self.not_found(f"{folder} is empty", self.root)
        called = {f: f.relative_to(folder).as_posix() for f in files if f.suffix.lower() in ENDINGS}
        masks = matched(self.names, called)
        rest = [path for path in files if path not in masks.values()]
        foreign = [path for path in rest if path.name[0] != "." and path.name != "Thumbs.db"]
        expected = f"expected {folder / self.names[0]}.png for the image {self.names[0]!r}"
        if not masks:
            names = [path.name for path in foreign[:3]]
            raise ValueError(f"{folder} holds {names}, and no PNG mask of an image; {expected}")
        paths = files_below(self.root)
        images = {composed(path.stem) for path in paths if folder not in path.parents}
        lost = [path.name for path in foreign if composed(path.stem) not in images]
        if lost:
            problem = f"{len(lost)} of {len(files)} files in {folder} belong to no image"
            warnings.warn(f"{problem}, the first is {lost[0]!r}; {expected}", stacklevel=3)
        return LazyMasks(masks, read=lambda name: self.read_mask(name, masks[name]), folder=folder)

    def read_mask(self, name: str, file: Path) -> Tensor:
        mask = read_file(file)
        options = self.size_of(name), len(self.classes), f"its image {self.path(name)}"
        check_mask(mask, file, *options)
        return mask

    def path(self, name: str) -> Path:
        return self.root / self.rows[name].file

    def present(self, name: str) -> list[int]:
        return [self.classes.index(label) for label in self.rows[name].labels]


def _read_rows(table: Path, problems: list[_Problem]) -> list[_Row]:
    """Read the well-formed rows; the others go to ``problems``."""
    data = table.read_bytes()
    try:
        text = data.decode("utf-8-sig")  # Excel begins its UTF-8 with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{table} line {line} is not UTF-8; save it as 'CSV UTF-8'") from error
    reader = _cells(io.StringIO(text, newline=""), table)
    header = ",".join(next(reader, (0, []))[1])
    if header.lower().replace(" ", "") != "file,labels":
        expected = "'file,labels': ',' between the columns, ';' between class names"
        raise ValueError(f"{table} begins {header!r}, expected {expected}")
    rows = []
    for line, cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        file = PurePosixPath(cells[0].replace("\\", "/"))
        if len(cells) != 2:
            text = f"columns: {len(cells)}, expected 2: the file, then class names with ';' between"
            problems.append(_Problem(line, text))
        elif not file.name or file.is_absolute() or ".." in file.parts:
            text = f"file {cells[0]!r} is no path inside the folder, expected one such as cat1.jpg"
            problems.append(_Problem(line, text))
        else:
            labels = tuple(part.strip() for part in cells[1].split(";") if part.strip())
            rows.append(_Row(line, file, labels))
    return rows


def _cells(lines: Iterable[str], table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each row's last line and its cells."""
    reader = csv.reader(lines)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        problem = f"{table} line {reader.line_num + 1} is no row ({error}); is a quote not closed?"
        raise ValueError(f"{problem} Correct it and load again") from error


def checked_classes(classes: Sequence[str], what: str) -> tuple[str, ...]:
    """Check class names for which masks have values; ``what`` begins a message."""
    names = checked_words(classes, what)
    for name in names:
        if name.lower() == "background":
            advice = "name only things, and leave labels of images without any empty"
            raise ValueError(f"{what} has {name!r}, which is what no class covers; {advice}")
    if len(names) >= IGNORE_INDEX:
        problem = f"{what} has {len(names)} names, expected at most {IGNORE_INDEX - 1}"
        raise ValueError(f"{problem}; leave some out, or join them")
    return names


def _is_several(label: str, labels: set[str]) -> bool:
    """Return whether a label is probably several, with something else than ';' between them.

    Either it has a mark that no name has, or each of its parts is a label of its own elsewhere.
    """
    parts = [part for part in re.split(r"\W+", label) if part not in ("", "and", "or")]
    # beside the usual marks those of Chinese, Japanese and Arabic keyboards
    has_mark = re.search("[,|/\t+&；、，／｜；؛،]", label) is not None
    return has_mark or (len(parts) > 1 and labels.issuperset(parts))
