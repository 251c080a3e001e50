"""What it takes to measure a published number again: the steps, the files, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsss_kit.commands.datasets import FOLDERS
from wsss_kit.evaluation import Published, published_rows

_FILES = {
    "ViT-B-16.pt": ("CLIP ViT-B/16 by OpenAI", True, "open_clip fetches it once"),
    "ViT-B-32.pt": ("CLIP ViT-B/32 by OpenAI", True, "open_clip fetches it once"),
    "resnet50.pth": ("ImageNet weights of ResNet-50", True, "torchvision fetches them once"),
    "resnet101.pth": ("ImageNet weights of ResNet-101", True, "torchvision fetches them once"),
    "resnet101-coco.pth": (
        "a ResNet-101 that learned from COCO's pixel labels",
        False,
        "a state dict in torchvision's names; the released one is of another layout and is not "
        "read. What starts from it is not weakly supervised alone",
    ),
    "resnet38.pth": (
        "ImageNet weights of ResNet-38",
        False,
        "ilsvrc-cls_rna-a1_cls1000_ep-0001 of the repository itijyou/ademxapp, as a state dict in "
        "the names of jiwoon-ahn/psa, which converts it",
    ),
    "res38_aff.pth": ("PSA's affinity", False, "linked in the README of jiwoon-ahn/psa"),
    "res50_irn.pth": (
        "IRN's boundary",
        False,
        "trained by the code of jiwoon-ahn/irn; CLIMS' authors trained one on CLIMS' own maps",
    ),
}
"""File -> what it is, whether it is fetched where it is missing, and from where it comes."""

ROOTS = {"VOC 2012": Path(FOLDERS["voc"]), "COCO 2014": Path(FOLDERS["coco"])}
"""Data set of a row -> where it is looked for, if nobody says."""

_STARTS = {"ImageNet": "resnet101.pth", "COCO pixel labels": "resnet101-coco.pth"}


@dataclass(frozen=True)
class Need:
    """One file or folder that a row needs.

    Args:
        path: where it is looked for.
        what: it is.
        found: whether it is there.
        fetched: whether a library downloads it where it is not.
        how: it is got.
    """

    path: Path
    what: str
    found: bool
    fetched: bool
    how: str

    def __str__(self) -> str:
        """One line with its state."""
        state = "there" if self.found else "fetched" if self.fetched else "MISSING"
        how = "" if self.found else f"; {self.how}"
        return f"[{state}] {self.path}: {self.what}{how}"


@dataclass(frozen=True)
class Plan:
    """How a row is measured again.

    Args:
        row: the published number.
        steps: in order.
        needs: files and folders.
        cannot: why there is no recipe, or None.
    """

    row: Published
    steps: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    cannot: str | None = None

    @property
    def missing(self) -> list[Need]:
        """What has to be put in its place by hand."""
        return [need for need in self.needs if not (need.found or need.fetched)]

    def __str__(self) -> str:
        """The row, its steps and what they need, a line each."""
        if self.cannot:
            return f"{self.row}\nThis cannot be run: {self.cannot}."
        lines = [str(self.row), "Steps:"]
        lines += [f"  {number}. {step}" for number, step in enumerate(self.steps, 1)]
        lines += ["Needs:", *(f"  {need}" for need in self.needs)]
        if not self.needs:
            lines.append("  nothing that the package does not bring")
        return "\n".join(lines)


def plan_of(row: Published, *, root: Path, weights: Path) -> Plan:
    """The steps of a row, and which of its files are there.

    Args:
        row: from `evaluation.published`.
        root: the data set's folder.
        weights: folder of files of weights.
    """
    cannot = why_not(row)
    if cannot is not None:
        return Plan(row, cannot=cannot)
    if row.data == "PaperWorld":
        return Plan(row, steps=tuple(_paper_steps(row)))
    needs = [*_pictures(row, root), *(_file(weights, name) for name in files_of(row))]
    return Plan(row, steps=tuple(_steps(row)), needs=tuple(needs))


def files_of(row: Published) -> list[str]:
    """Names of the files of weights that a row needs."""
    files = {
        "CLIP-ES": ["ViT-B-16.pt"],
        "CLIMS": ["ViT-B-32.pt", "resnet50.pth"],
        "SC-CAM": ["resnet38.pth"],
        "CAM": ["resnet38.pth" if row.name.startswith("psa/") else "resnet50.pth"],
    }[row.method]
    affinity = affinity_of(row)
    files += [affinity] if affinity else []
    return files + ([start_file(row)] if row.what == "segmenter" else [])


def affinity_of(row: Published) -> str | None:
    """The file of the learned affinity that a row's masks are walked with, or None."""
    if row.what == "maps" or row.method == "CLIP-ES":
        return None
    later = row.name.startswith("clims-later/") and not row.name.endswith("/walk")
    return "res50_irn.pth" if later else "res38_aff.pth"


def start_of(row: Published) -> str:
    """What a segmenter begins with; ImageNet where nobody says."""
    return row.start if row.start in _STARTS else "ImageNet"


def start_file(row: Published) -> str:
    """Name of the file of weights that a segmenter begins with."""
    return _STARTS[start_of(row)]


def learns(row: Published) -> bool:
    """Whether something is trained: all methods but CLIP-ES, and every segmenter."""
    return row.method != "CLIP-ES" or row.what == "segmenter"


def why_not(row: Published) -> str | None:
    """Why a row cannot be run, or None where there is a recipe."""
    if row.name.startswith("leaderboard/"):
        same = [
            other.name
            for other in published_rows()
            if not other.name.startswith("leaderboard/")
            and (other.method, other.split, other.percent) == (row.method, row.split, row.percent)
        ]
        if same:
            return f"it is a leaderboard's entry; the same number is reproduced as {same[0]}"
        return "it is a leaderboard's entry of which no recipe is published"
    if row.data not in (*ROOTS, "PaperWorld"):
        return f"no recipe for {row.data} is published"
    if row.name.endswith("/resnet38"):
        return "the kit has no DeepLabV1 on ResNet-38"
    return None


def _pictures(row: Published, root: Path) -> Iterator[Need]:
    if row.data == "COCO 2014":
        how = "data/README.md says how to lay COCO 2014 out; `download coco` does it"
        for split in sorted({row.split, "train"} if learns(row) else {row.split}):
            path = root / "annotations" / f"instances_{split}2014.json"
            yield Need(path, f"labels and outlines of {split}", path.exists(), False, how)
            places = [place / f"{split}2014" for place in (root, root / "images")]
            there = any(place.is_dir() for place in places)
            yield Need(places[0], f"photographs of {split}", there, False, how)
        return
    how = "data/README.md says where VOC 2012 is and how to unpack it"
    sets = root / "ImageSets" / "Segmentation"
    needed = [(root / "JPEGImages", "photographs"), (root / "Annotations", "image-level labels")]
    needed.append((sets / f"{row.split}.txt", f"the list of {row.split}"))
    if row.split != "test":
        needed.append((root / "SegmentationClass", "masks, to score"))
    for path, what in needed:
        yield Need(path, what, path.exists(), False, how)
    if learns(row):
        path = sets / "train_aug.txt"
        said = "10,582 ids; the list that CLIP-ES's or PSA's repository holds is read as it is"
        yield Need(path, "the list of train_aug", path.exists(), False, said)


def _file(weights: Path, name: str) -> Need:
    what, fetched, how = _FILES[name]
    return Need(weights / name, what, (weights / name).exists(), fetched, how)


def _paper_steps(row: Published) -> Iterator[str]:
    trained = {
        "CAM": "CAM's head learns from 400 pictures with labels",
        "SC-CAM": "SC-CAM's weights come with the package (another seed trains them)",
        "CLIMS": "CLIMS' weights come with the package (another seed trains them)",
        "CLIP-ES": "CLIP-ES compares with the tiny CLIP and trains nothing",
    }
    if row.method in trained:
        yield trained[row.method]
        yield "maps: the constant or power that is best on 100 pictures of val"
        yield "masks: the dense CRF, with the background that is then best on val"
        yield "a small segmenter learns from such masks of 800 pictures of train for 10 passes"
    else:
        yield "the ceiling: a small segmenter learns from 800 true masks of train for 10 passes"
    yield "200 pictures of test, no labels: the segmenter alone, and after the dense CRF"


def _steps(row: Published) -> Iterator[str]:
    learned = "train" if row.data == "COCO 2014" else "train_aug"
    yield {
        "CLIP-ES": "softmax Grad-CAM of a frozen CLIP ViT-B/16, the reference preset",
        "CLIMS": f"a CAM on ResNet-50 learns from {learned}, then CLIMS trains it on with CLIP "
        f"ViT-B/32 (preset {clims_preset(row)})",
        "SC-CAM": f"a classifier on ResNet-38 learns from {learned}, then three rounds of clusters",
        "CAM": f"a CAM on ResNet-{38 if row.name.startswith('psa/') else 50} learns from {learned}",
    }[row.method]
    if row.what == "maps":
        yield f"maps of {row.split}, refinement {row.refinement}, background {row.background}"
        return
    affinity = affinity_of(row)
    walk = f"the walk with {affinity}" if affinity else "attention affinity, power 1, dense CRF"
    if row.what == "masks":
        yield f"masks of {row.split}: {walk}"
        return
    doubt = "; below 0.95 they become 255" if row.method == "CLIP-ES" else ""
    yield f"pseudo masks of {learned}: {walk}{doubt}"
    yield f"DeepLabV2 on ResNet-101 from {start_of(row)}, recipe {segmenter_preset(row)}"
    yield f"{row.split} at three sizes, the largest logit, dense CRF"
    if row.split == "test":
        yield "masks are written for VOC's server: nobody else has those of test"


def clims_preset(row: Published) -> str:
    """``"paper"`` for the numbers of the paper, ``"reference"`` for those of the later code."""
    return "reference" if row.name.startswith("clims-later/") else "paper"


def segmenter_preset(row: Published) -> str:
    """The recipe of `segmentation.PRESETS` that a row's segmenter was trained by."""
    family = {"CLIP-ES": "clip_es", "CLIMS": "clims"}.get(row.method)
    if family is None:
        return "deeplab"
    return f"{family}_{'coco' if start_of(row) == 'COCO pixel labels' else 'imagenet'}"
