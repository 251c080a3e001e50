"""What the command line takes: commands, options, and which numbers are none."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def _number(kind: type, least: float, most: float = math.inf) -> Callable[[str], Any]:
    """A type of argparse: a whole number or a fraction within bounds, refused before any work."""
    what = "a whole number" if kind is int else "a number"
    bounds = f"of at least {least}" if most == math.inf else f"from {least:g} to {most:g}"

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {bounds}")
        return value

    return read


_COUNT, _WHOLE, _SHARE = _number(int, 1), _number(int, 0), _number(float, 0, 1)
_POSITIVE = _number(float, 1e-6)
_DATA = ("voc", "coco", "pets", "folder", "paper")
_LEARNS = ("data", "root", "split", "limit", "device", "resume")


TAKES = {
    "paper-clip": ("steps", "fall", "seed", "workers", "device", "torn"),
    "choose-clip": ("candidates",),
    "paper-trunk": ("steps", "seed", "workers", "teacher"),
    "paper-clims": ("seed",),
    "paper-sc-cam": ("seed",),
    "cam": _LEARNS,
    "sc-cam": (*_LEARNS, "start"),
    "clims": (*_LEARNS, "start", "clip", "clip_weights", "prompts"),
    "affinity": (*_LEARNS, "masks"),
    "segmenter": (*_LEARNS, "masks"),
}
"""What each training can be told."""
METHODS = ("cam", "sc-cam", "clims", "affinity", "segmenter")
"""Trainings that take every argument of their method and of its ``fit`` as well, by its name."""


def _device(text: str) -> str:
    """A type of argparse: a device that is there."""
    import torch

    try:
        kind = torch.device(text).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda", "mps"):
        raise argparse.ArgumentTypeError(f"{text!r} is no device, expected cpu, cuda or mps")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[kind]:
        raise argparse.ArgumentTypeError(f"there is no {text} here; leave it out for the CPU")
    return text


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m wsss_kit``."""
    parser = argparse.ArgumentParser(
        prog="python -m wsss_kit",
        description="A tutorial and analysis kit for weakly supervised semantic segmentation.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="every method on the embedded world, offline")
    demo.add_argument("--out", type=Path, default=Path("data/runs/demo"), help="folder to write to")
    demo.add_argument("--seed", type=_WHOLE, default=0)
    demo.add_argument("--pictures", type=Path, help="CLIP-ES on a folder of your own, instead")
    demo.add_argument("--classes", help="of --pictures without labels.csv: names, with commas")
    demo.add_argument("--clip", choices=("ViT-B-16", "paper"), help="of --pictures")
    demo.add_argument("--limit", type=_COUNT, help="of --pictures: the first so many (12)")

    baseline = commands.add_parser("baseline", help="plain CAM on real photographs")
    baseline.add_argument("--data", choices=("voc", "folder"), default="voc")
    baseline.add_argument(
        "--root", type=Path, help="default: data/VOC2012, or data/mine of one's own folder"
    )
    baseline.add_argument(
        "--backbone",
        default="resnet50",
        help="resnet18, resnet34, resnet50, or FILE.py:FUNCTION that returns a module",
    )
    baseline.add_argument("--weights", help="of a named ResNet: imagenet or a local file")
    baseline.add_argument("--seeds", type=_COUNT, default=3, help="how many heads to train")
    baseline.add_argument("--threshold", type=_SHARE, default=0.25, help="constant background")
    baseline.add_argument("--scored", help="classes that count, with commas; default all")
    baseline.add_argument("--limit", type=_COUNT, help="use only the first pictures of each split")
    baseline.add_argument("--crf", action="store_true", help="refine by the dense CRF")
    baseline.add_argument("--out", type=Path, default=Path("data/runs/baseline"))

    bench = commands.add_parser("bench", help="how fast CLIP-ES is here, against the literal one")
    bench.add_argument("--model", default="ViT-B-16-quickgelu", help="of open_clip, or paper")
    bench.add_argument("--size", type=_COUNT, nargs=2, default=(375, 500), metavar=("H", "W"))
    bench.add_argument("--rounds", type=_COUNT, default=5, help="that both sides take turns")
    bench.add_argument("--threads", type=_COUNT, default=1, help="of the CPU")
    bench.add_argument("--device", type=_device, help="default: CUDA where there is one")
    bench.add_argument("--out", type=Path, default=Path("data/runs/bench"))

    download = commands.add_parser("download", help="a data set into its folder below data/")
    download.add_argument("name", choices=("voc", "coco", "pets"))
    download.add_argument("--out", type=Path, help="default: data/VOC2012, COCO2014 or pets")
    download.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        default=(),
        help="folders or addresses that are asked first for the archives, by their names",
    )
    download.add_argument("--aug", action="store_true", help="of voc: SBD's masks and train_aug")
    download.add_argument("--keep", action="store_true", help="keep the archives")

    check = commands.add_parser("check", help="what is wrong with a data set, before hours of work")
    check.add_argument("data", choices=_DATA)
    _add_data(check)
    check.add_argument("--workers", type=_COUNT, default=2, help="threads that decode")

    masks = commands.add_parser("masks", help="a data set to pseudo masks on disk, resumably")
    masks.add_argument(
        "method",
        help="clip-es, the file of a saved CAM, SC-CAM, CLIMS or segmenter, or of --data paper "
        "sc-cam or clims for the weights of the package",
    )
    masks.add_argument("--out", type=Path, required=True, help="folder to write to")
    masks.add_argument("--data", choices=_DATA, default="voc")
    _add_data(masks)
    masks.add_argument("--clip", help="of clip-es: open_clip's name (ViT-B-16-quickgelu)")
    masks.add_argument("--clip-weights", type=Path, help="of clip-es: a file (OpenAI's)")
    masks.add_argument(
        "--affinity", help="a saved AffinityNet to walk with; none for clip-es without its walk"
    )
    masks.add_argument("--backbone", help="FILE.py:FUNCTION, of a method on a trunk of your own")
    masks.add_argument("--threshold", type=_SHARE, help="constant background")
    masks.add_argument("--power", type=_POSITIVE, help="of the background (1 - max)^power")
    masks.add_argument("--crf", action="store_true", help="refine by the dense CRF")
    masks.add_argument("--min-confidence", type=_SHARE, help="below it pixels become 255")
    masks.add_argument("--maps", action="store_true", help="keep soft maps too")
    masks.add_argument(
        "--scales", type=_POSITIVE, nargs="+", help="of a segmenter: sizes of the image (1)"
    )
    masks.add_argument("--flip", action="store_true", help="of a segmenter: mirror images too")
    masks.add_argument("--fuse", choices=("mean", "max"), help="of a segmenter: over sizes (mean)")
    masks.add_argument("--batch-size", type=_COUNT, default=1, help="pictures that go together")
    masks.add_argument("--workers", type=_COUNT, default=2, help="threads that decode")
    masks.add_argument("--device", type=_device, help="default: CUDA where there is one")

    evaluate = commands.add_parser("evaluate", help="masks on disk against ground truth")
    evaluate.add_argument("folder", type=Path, help="that `masks` wrote, or one of NAME.png")
    evaluate.add_argument("--data", choices=_DATA, default="voc")
    _add_data(evaluate)
    evaluate.add_argument("--scored", help="classes that count, with commas; default all")
    evaluate.add_argument(
        "--power",
        type=_POSITIVE,
        nargs="+",
        help="backgrounds (1 - max)^power for the soft maps of the folder; the best is reported",
    )
    evaluate.add_argument("--row", help="a published number to stand beside, see `reproduce`")
    evaluate.add_argument("--out", type=Path, help="default: report.html in the folder")

    reproduce = commands.add_parser(
        "reproduce", help="the commands of a published number; without a name, which there are"
    )
    reproduce.add_argument(
        "name", metavar="ROW", nargs="?", help="such as clip-es/train/crf, or paper/clip-es"
    )
    reproduce.add_argument("--run", action="store_true", help="run the commands, or go on")
    reproduce.add_argument("--root", type=Path, help="default: data/VOC2012 or data/COCO2014")
    reproduce.add_argument(
        "--weights", type=Path, default=Path("data/weights"), help="folder of files of weights"
    )
    reproduce.add_argument("--out", type=Path, help="default: a folder of data/runs, by the row")
    reproduce.add_argument("--seed", type=_WHOLE, default=0)
    reproduce.add_argument("--limit", type=_COUNT, help="a trial: the first pictures of each split")
    reproduce.add_argument("--iterations", type=_COUNT, help="a trial: steps of the segmenter")
    reproduce.add_argument("--device", type=_device, help="default: CUDA where there is one")

    train = commands.add_parser(
        "train",
        help="train a method on a data set, or what the package ships",
        description="cam, sc-cam, clims, affinity and segmenter are trained on any data set. Every "
        "argument of the method and of its fit is an option by its name: --backbone resnet50 "
        "--weights imagenet --epochs 5 --batch-size 16 --scales 1,0.5. What begins with paper- is "
        "what the package ships, trained again.",
        allow_abbrev=False,
    )
    train.add_argument("what", choices=TAKES)
    train.add_argument("--out", type=Path, help="default: data/runs/paper, or data/runs/WHAT")
    # of a method
    train.add_argument("--data", choices=_DATA, help="default: voc")
    _add_data(train)
    train.add_argument("--resume", action="store_true", default=None, help="go on in --out")
    train.add_argument("--start", help="of sc-cam and clims: a saved CAM to begin from")
    train.add_argument(
        "--masks", help="of affinity and segmenter: a folder of masks, or ground-truth (a ceiling)"
    )
    train.add_argument("--clip", help="of clims: open_clip's name (ViT-B-32-quickgelu)")
    train.add_argument("--clip-weights", help="of clims: a file (OpenAI's)")
    train.add_argument("--prompts", help="of clims: a file of prompts as JSON")
    # of what the package ships
    # None for what is not said, so that what a training does not take can be refused
    train.add_argument("--steps", type=_COUNT, help="of 128 pictures (CLIP) or 64 (trunk)")
    train.add_argument("--fall", type=_SHARE, help="last share of steps, rate falling (0.2)")
    train.add_argument("--seed", type=_WHOLE)
    train.add_argument("--workers", type=_WHOLE, help="processes that draw pictures")
    train.add_argument("--device", type=_device, help="not of paper-trunk, which takes the CPU")
    train.add_argument(
        "--torn", type=_SHARE, help="of paper-clip: share of objects without signature part"
    )
    train.add_argument(
        "--candidates", type=Path, nargs="+", help="of choose-clip: weights to compare"
    )
    train.add_argument(
        "--teacher",
        type=Path,
        help="of paper-trunk: weights of a tiny CLIP (the package's trunk had one of --torn 0)",
    )
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Which part of a data set: what `data.open_dataset` takes."""
    parser.add_argument("--root", type=Path, help="default: where `download` puts it")
    parser.add_argument("--split", help="default: train_aug, train or trainval")
    parser.add_argument("--limit", type=_COUNT, help="only the first pictures")


def takes_no(what: str, name: str, known: Sequence[str]) -> str:
    """What is said of an option that a training would not heed.

    Args:
        what: is trained.
        name: of the option, as an argument's.
        known: what it takes, beside ``out``.
    """
    flags = [f"--{each.replace('_', '-')}" for each in (name, *known)]
    return f"{what} takes no {flags[0]}, expected --out or {', '.join(flags[1:])}"


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """``--batch-size 8 --scales 1,0.5 --flip false`` as arguments: JSON where it is JSON.

    Args:
        words: of a command line.

    Raises:
        ValueError: if a word is no option, or an option has no value.

    Example:
        >>> read_options(["--learning-rate", "1e-3", "--scales", "1,0.5", "--weights", "imagenet"])
        {'learning_rate': 0.001, 'scales': [1, 0.5], 'weights': 'imagenet'}
    """
    found: dict[str, Any] = {}
    words = [part for word in words for part in _parted(word)]
    while words:
        name = words.pop(0)
        if not name.startswith("--"):
            raise ValueError(f"{name!r} is no option, expected --NAME VALUE")
        if not words or words[0].startswith("--"):
            raise ValueError(f"{name} has no value, expected {name} VALUE")
        found[name.removeprefix("--").replace("-", "_")] = _value(words.pop(0))
    return found


def _parted(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--") else [word]


def _value(text: str) -> Any:
    for written in (text, f"[{text}]") if "," in text else (text,):
        try:
            return json.loads(written)
        except ValueError:
            continue
    return text
