"""Download a data set: fetch, verify, unpack, read its first images; and check any for errors."""

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from wsss_kit.checks import check_count, check_word
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.commands import run_folder
from wsss_kit.data.datasets import FOLDERS, Dataset, open_dataset
from wsss_kit.data.fetch import Archive, fetch, unpack
from wsss_kit.data.images import import_decoders, mask_png
from wsss_kit.files import write_whole
from wsss_kit.processes import progress

SMALL = 32  # pixels of a side; smaller images are remarked on
_SHOWN = 5


@dataclass
class Findings:
    """What was found: a kind of problem -> the images, each with what is wrong.

    Args:
        n_images: number of images that were decoded.
        n_masks: number of masks that were decoded.
        errors: problems that stop a run or falsify its numbers.
        remarks: problems that may be intended.
    """

    n_images: int = 0
    n_masks: int = 0
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        """Return counts, then every kind of problem with its first images."""
        lines = [f"{self.n_images} images, {self.n_masks} masks"]
        for title, kinds in (("wrong", self.errors), ("to look at", self.remarks)):
            for problem, images in kinds.items():
                lines.append(f"{title}: {problem}: {len(images)}")
                lines += [f"  {one}" for one in images[:_SHOWN]]
                lines += [f"  and {len(images) - _SHOWN} more"] * (len(images) > _SHOWN)
        if not self.errors:
            lines.append("nothing is wrong")
        return "\n".join(lines)


class _Looked(NamedTuple):
    """Digest, labels and problems of one image; an image that cannot be read has no digest."""

    errors: dict[str, str]
    remarks: dict[str, str]
    digest: str = ""
    labels: Collection[int] = ()
    has_mask: bool = False


def check_data(
    samples: Dataset,
    masks: Mapping[str, Tensor] | None = None,
    *,
    workers: int = 2,
    shown: bool = True,
) -> Findings:
    """Decode every image and every mask, and compare them with each other and with the labels.

    Args:
        samples: images with ``names`` and ``classes``.
        masks: name to (H, W) int64; None where there are none.
        workers: threads that decode.
        shown: whether to show a bar.

    Returns:
        What is wrong, and what may be.

    Raises:
        ValueError: if there is no image.
    """
    check_count("workers", workers)
    names = list(samples.names)
    if not names:
        raise ValueError("there is no image, expected at least one")
    result, by_digest, seen = Findings(), defaultdict(list), set()
    import_decoders()
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(names), 256):  # in portions, so that memory stays flat
            portion = range(start, min(start + 256, len(names)))
            looked = pool.map(partial(_look, samples, masks), portion)
            bar = progress(looked, what="check", shown=shown, total=len(portion))
            for name, one in zip(names[start:], bar, strict=False):
                result.n_images += 1
                result.n_masks += one.has_mask
                if one.digest:
                    by_digest[one.digest].append(name)
                seen.update(one.labels)
                for kinds, problems in ((result.errors, one.errors), (result.remarks, one.remarks)):
                    for problem, text in problems.items():
                        kinds[problem].append(f"{name}: {text}" if text else name)
    twice = [" = ".join(same) for same in by_digest.values() if len(same) > 1]
    never = [name for c, name in enumerate(samples.classes) if c not in seen]
    bare = [] if masks is None else [name for name in names if name not in masks]
    result.errors |= {"images that are there twice": twice} if twice else {}
    result.remarks |= {"classes that no image is labelled with": never} if never else {}
    result.remarks |= {"images without a mask": bare} if bare else {}
    return result


def _look(samples: Dataset, masks: Mapping[str, Tensor] | None, number: int) -> _Looked:
    """Decode one image and its mask, and compare the mask with the labels."""
    try:
        sample = samples[number]
    except (OSError, ValueError) as error:
        return _Looked({"images that cannot be read": f"{type(error).__name__}: {error}"}, {})
    pixels = (255 * sample.image).round().byte().numpy().tobytes()
    labels, size = set(sample.labels.nonzero()[:, 0].tolist()), tuple(sample.image.shape[1:])
    errors, remarks, masks = {}, {}, masks or {}
    has_mask = sample.name in masks
    if min(size) < SMALL:
        remarks[f"images smaller than {SMALL} pixels"] = "x".join(map(str, size))
    if not labels:
        remarks["images without a label"] = ""
    try:
        values = set(masks[sample.name].unique().tolist()) if has_mask else set()
    except (OSError, ValueError) as error:
        has_mask, values = False, set()
        errors["masks that cannot be read"] = f"{type(error).__name__}: {error}"
    if has_mask:
        drawn = {value - 1 for value in values - {0, IGNORE_INDEX}}
        for problems, problem, those in (
            (errors, "classes drawn but not labelled", drawn - labels),
            (remarks, "classes labelled but not drawn", labels - drawn),
        ):
            if those:
                problems[problem] = ", ".join(samples.classes[c] for c in sorted(those))
        if values == {IGNORE_INDEX}:
            errors["masks that ignore everything"] = ""
        elif labels and values == {0, IGNORE_INDEX}:
            errors["masks with 255 and no class: are objects drawn as 255?"] = ""
    return _Looked(errors, remarks, hashlib.sha256(pixels).hexdigest(), labels, has_mask)


def run_check(
    data: str,
    /,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    workers: int = 2,
) -> Findings:
    """Check a data set, before hours of work, and print what is wrong with it.

    Args:
        data: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` or ``"paper"`` (the embedded world).
        root: folder of the data set; None for the one that `download` writes.
        split: None for ``train_aug`` of VOC, ``train`` or ``trainval``.
        limit: only the first so many images.
        workers: threads that decode.
    """
    samples = open_dataset(data, root, split, limit=limit)
    try:
        masks = samples.open_masks()
    except FileNotFoundError:
        masks = None  # a data set without masks can be trained on
    findings = check_data(samples, masks, workers=workers)
    print(findings)
    return findings


class _Part(NamedTuple):
    """An archive, and what of it goes where below the data set's folder."""

    archive: Archive
    to: str = ""
    strip: int = 0
    only: tuple[str, ...] = ()


_VOC = "VOCtrainval_11-May-2012.tar"
_VOC_HOSTS = (
    "https://d2l-data.s3-accelerate.amazonaws.com",
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
)
_VOC_SUM = "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"
_COCO = ("annotations/annotations_trainval2014.zip", "zips/train2014.zip", "zips/val2014.zip")
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
_PETS_SUMS = {
    "images": "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
    "annotations": "md5:95a8c909bbe2e81eed6a22bccdf3f68f",
}
SETS: dict[str, tuple[_Part, ...]] = {
    "voc": (
        _Part(Archive(_VOC, tuple(f"{host}/{_VOC}" for host in _VOC_HOSTS), _VOC_SUM), strip=2),
    ),
    "coco": tuple(
        _Part(Archive(Path(path).name, (f"http://images.cocodataset.org/{path}",)))
        for path in _COCO
    ),
    "pets": tuple(
        _Part(Archive(f"{name}.tar.gz", (f"{_PETS}/{name}.tar.gz",), checksum), only=(name,))
        for name, checksum in _PETS_SUMS.items()
    ),
}
"""Data set -> its archives. Addresses, sizes and checksums are quoted from public sources."""

_BERKELEY = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
_SBD_SUM = "md5:82b4d87ceb2ed10f6038a1cba92111cb"
_SBD = Archive("benchmark.tgz", (f"{_BERKELEY}/benchmark.tgz",), _SBD_SUM)
_READ = {"voc": ("val", "train"), "coco": ("train", "val"), "pets": ("test", "trainval")}
"""The splits whose first images are read at the end."""


def download(
    name: str,
    /,
    out: str | Path | None = None,
    *,
    sources: Sequence[str | Path] = (),
    aug: bool = False,
    keep: bool = False,
    shown: bool = True,
) -> Path:
    """Fetch a data set, check it, unpack it and read its first image.

    A second call goes on where the first was stopped; what is unpacked already is left alone.

    Args:
        name: ``"voc"`` (2 GB), ``"coco"`` (20 GB) or ``"pets"`` (0.8 GB).
        out: its folder; None for the one that the readers look at, below ``data/``.
        sources: folders or addresses that are asked before the known hosts, each holding the
            archives by their names.
        aug: with ``"voc"``: SBD's masks and the list ``train_aug`` too (1.4 GB).
        keep: whether archives stay, in ``archives`` of that folder, when they are unpacked.
        shown: whether to show bars.

    Returns:
        The data set's folder.

    Raises:
        ConnectionError: if no source has an archive, with what each said and what to do by hand.
        ValueError: if an archive is another one than expected, holds what it must not, or ``aug``
            belongs to another data set.
    """
    check_word("the data set", name, SETS)
    if aug and name != "voc":
        raise ValueError(f"aug belongs to voc, expected no such thing for {name}")
    with run_folder(Path("data") / FOLDERS[name] if out is None else out) as folder:
        for part in SETS[name]:
            _place(part, folder, sources, keep=keep, shown=shown)
        if aug:
            part = _Part(_SBD, to="SBD", strip=2, only=("train.txt", "val.txt", "cls/"))
            _place(part, folder, sources, keep=keep, shown=shown)
            add_train_aug(folder, shown=shown)
        try:
            parts = [open_dataset(name, folder, split) for split in _READ[name]]
            *_, first = [samples[0] for samples in parts]
        except (OSError, ValueError) as error:
            advice = f"remove {folder / 'archives' / '*.unpacked'}, and run this again"
            raise ValueError(f"{folder} is not whole: {error}; {advice}") from error
        print(f"{folder} holds {name}: {len(parts[-1])} images of {parts[-1].split}, the first is")
        print(f"  {first.name}, {tuple(first.image.shape[1:])} pixels")
        return folder


def _place(
    part: _Part, folder: Path, sources: Sequence[str | Path], *, keep: bool, shown: bool
) -> None:
    """Fetch and unpack one archive, unless a note says that it is done."""
    archives, name = folder / "archives", part.archive.name
    done = archives / f"{name}.unpacked"
    if done.exists():
        return
    urls = tuple(f"{str(source).rstrip('/')}/{name}" for source in sources)
    archive = part.archive._replace(sources=urls + part.archive.sources)
    path = fetch(archive, archives, shown=shown)
    try:
        unpack(path, folder / part.to, strip=part.strip, only=part.only, shown=shown)
    except ValueError:
        if archive.checksum is None:  # a log-in page, perhaps; the next call fetches it again
            path.unlink()
        raise
    if hasattr(os, "sync"):
        os.sync()  # all files are on the disk before the note says so
    write_whole(done, "")
    if not keep:
        path.unlink()


def add_train_aug(root: str | Path, *, shown: bool = True) -> int:
    """Write SBD's masks as PNG beside VOC's, and the list ``train_aug``.

    ``train_aug`` is what SBD and VOC's ``train`` hold together, without VOC's ``val``: 10,582
    images. Masks of VOC itself go before SBD's where both have one.

    Args:
        root: VOC's folder, with ``SBD/cls/*.mat``, ``SBD/train.txt`` and ``SBD/val.txt``.
        shown: whether to show a bar.

    Returns:
        The number of images in the list.

    Raises:
        FileNotFoundError: if one of SBD's lists is missing.
        ValueError: if one of its masks is none.
    """
    root = Path(root)
    sets, sbd = root / "ImageSets" / "Segmentation", root / "SBD"
    listed = []
    for file in (sbd / "train.txt", sbd / "val.txt", sets / "train.txt", sets / "val.txt"):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; SBD's archive holds its lists, unpack it")
        listed.append(set(file.read_text(encoding="utf-8").split()))
    *learned, val = listed
    names = sorted(set.union(*learned) - val)
    for name in progress(names, what="masks of train_aug", shown=shown, total=len(names)):
        target = root / "SegmentationClassAug" / f"{name}.png"
        drawn = root / "SegmentationClass" / f"{name}.png"
        if not target.exists():
            write_whole(target, drawn.read_bytes() if drawn.exists() else _of_mat(sbd, name))
    write_whole(sets / "train_aug.txt", "\n".join(names) + "\n")
    return len(names)


def _of_mat(sbd: Path, name: str) -> bytes:
    """Convert SBD's mask of one image to PNG."""
    from scipy.io import loadmat

    file = sbd / "cls" / f"{name}.mat"
    try:
        mask = loadmat(io.BytesIO(file.read_bytes()))["GTcls"][0]["Segmentation"][0]
        return mask_png(np.asarray(mask))
    except FileNotFoundError:
        raise
    except Exception as error:  # every kind of damage has its own
        message = f"{file} holds no mask ({error}), expected GTcls.Segmentation; unpack SBD again"
        raise ValueError(message) from error
