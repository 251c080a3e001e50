"""Download a data set into its folder: fetch, verify and unpack it, and read its first image."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsss_kit.checks import check_word
from wsss_kit.commands.resources import run_folder
from wsss_kit.data.datasets import FOLDERS, open_dataset
from wsss_kit.data.fetch import Archive, fetch, unpack
from wsss_kit.data.images import mask_png
from wsss_kit.files import write_whole
from wsss_kit.processes import progress


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
_READ = {"voc": "train", "coco": "val", "pets": "trainval"}
"""The split whose first image is read at the end."""


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
        samples = open_dataset(name, folder, _READ[name])
        print(f"{folder} holds {name}: {len(samples)} images of {samples.split}, the first is")
        print(f"  {samples[0].name}, {tuple(samples[0].image.shape[1:])} pixels")
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
    unpack(path, folder / part.to, strip=part.strip, only=part.only, shown=shown)
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
    """Convert SBD's mask of one image from MATLAB's format to PNG."""
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
