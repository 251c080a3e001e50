"""``python -m wsss_kit train METHOD``: any method of the kit on any data set, resumably.

Every argument of a method and of its ``fit`` is an option by its name; what was asked for lies in
``config.json`` beside the weights, and ``resume`` goes on by it.
"""

import inspect
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.checkpoints import CHECKPOINT
from wsss_kit.checks import check_count, check_device, check_given, check_word
from wsss_kit.classes import labels_of
from wsss_kit.commands import backbone_named, clip_named, masks_in, run_folder
from wsss_kit.data import Dataset, open_dataset
from wsss_kit.data.datasets import SPLITS
from wsss_kit.evaluation import BackgroundRule, ConfusionMatrix, best_rule, sweep_background
from wsss_kit.files import check_kinds, is_saved, read_card, weights_path, write_whole
from wsss_kit.methods.base import CAMMethod, Learner
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import save_figure, show_curves
from wsss_kit.processes import joined, rank, settle
from wsss_kit.segmentation import Segmenter, train_segmenter

CONFIG, VALIDATION = "config.json", "validation.csv"
Fit = Callable[..., CAM | SCCAM | CLIMS | AffinityNet | Segmenter]
GROUND_TRUTH = "ground-truth"
"""As ``masks``: the data set's own masks, for a ceiling; no longer weak supervision."""
_DATA = ("data", "root", "split", "limit")
CROPS = {  # of training on photographs, with the range of the longer side before
    "cam": {"crop": 512, "long_side": [320, 640]},
    "sc-cam": {"crop": 224, "long_side": [256, 512]},
    "clims": {"crop": 512, "long_side": [320, 640]},
    "affinity": {"crop": 448, "fixes_norms": True},
    "segmenter": {},
}
"""As published: IRN's and CLIMS' (512), SC-CAM's (224), PSA's (448)."""
_MAKES = {"cam": CAM, "sc-cam": SCCAM, "clims": CLIMS, "affinity": AffinityNet}
METHODS = (*_MAKES, "segmenter")
_STARTS = {  # files that a training begins from or learns from
    "sc-cam": ("start",),
    "clims": ("start", "clip", "clip_weights", "prompts"),
    "affinity": ("masks",),
    "segmenter": ("masks",),
}
_NOT_OPTIONS = ("self", "clip", "samples", "masks", "seeds", "prompts", "device", "progress")
_NOT_OPTIONS += (
    "checkpoint",
    "pooled",
    "subcategories",
    "on_round",
    "on_epoch",
    "taught_by",
)


def train_method(
    what: str,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    validate: int | None = None,
    data: str | None = None,
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    start: str | Path | None = None,
    masks: str | Path | None = None,
    clip: str | None = None,
    clip_weights: str | Path | None = None,
    prompts: str | Path | None = None,
    **options: Any,
) -> Path:
    """Train a method, write its weights and card, and beside them settings, losses and mIoU.

    Under ``torchrun`` the processes share every batch, see `processes`: the losses are those of
    one process.

    Args:
        what: ``"cam"``, ``"sc-cam"``, ``"clims"``, ``"affinity"`` or ``"segmenter"``.
        out: folder of the weights, their card, ``config.json`` and the checkpoint; None for one of
            ``data/runs`` that is called after ``what``.
        resume: go on with what the folder holds; options that are not given again stay as they
            were.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA where there is one.
        validate: images whose masks score the method in training, about ten times and in the end:
            up to ``limit`` of the split ``val``, or of a folder the first ones with masks.
            ``validation.csv`` and ``validation.png`` keep mIoU; of maps with the best of the
            constant backgrounds 0.1 to 0.5. None for 50, 0 for no validation.
        data: ``"voc"``, which None stands for, ``"coco"``, ``"pets"``, ``"folder"``, ``"paper"``
            (the embedded world) or ``"FILE.py:FUNCTION"``, see `open_dataset`.
        root: folder of the data set; None for the one that `download` writes.
        split: None for ``train_aug`` of VOC, ``train`` or ``trainval``.
        limit: only the first so many images.
        start: a saved CAM that SC-CAM or CLIMS begins from.
        masks: folder of masks to learn from, or ``"ground-truth"`` for a ceiling.
        clip: open_clip's name of the CLIP to learn from; None for ViT-B/32, or the tiny one with
            ``"paper"``.
        clip_weights: a file; None for OpenAI's weights.
        prompts: a file of `Prompts.to_json`; None for the papers' prompts.
        **options: any argument of the method or of its ``fit``, a backbone of your own as
            ``"FILE.py:FUNCTION"``.

    Returns:
        The path of the weights.

    Raises:
        ValueError: if there is no such method or option, an option is out of its range, or the
            folder holds a training and ``resume`` is False, or holds another one.
        FileNotFoundError: if data, masks or a file of weights are not there.
    """
    check_word("what is trained", what, METHODS)
    check_device(device)
    check_given(partial(check_count, least=0), validate=validate)
    given = {"data": data, "root": root, "split": split, "limit": limit, "start": start}
    given |= {"masks": masks, "clip": clip, "clip_weights": clip_weights, "prompts": prompts}
    given["validate"] = validate
    given = {name: value for name, value in given.items() if value is not None}
    given |= options  # null among them is a value: no crop
    given = {name: str(v) if isinstance(v, Path) else v for name, v in given.items()}
    _check_options(what, given)
    folder = Path(f"data/runs/{what}" if out is None else out)
    with joined(device) as device, run_folder(folder):
        config = _config(what, folder, given, resume=resume)
        settle()  # all have read before the first writes
        data, root, split, limit = map(config.get, _DATA)
        samples = open_dataset(str(data), root, split, limit=limit)
        fit = _prepare(what, config, samples, device)
        settings = folder / CONFIG
        before = settings.read_text(encoding="utf-8") if resume else None
        if rank() == 0:
            write_whole(settings, json.dumps({"what": what, **config}, indent=1) + "\n")
        look = None
        if (most := config.get("validate", 50 * (what != "affinity"))) and rank() == 0:
            if not resume:
                (folder / VALIDATION).unlink(missing_ok=True)
            look = _Validation(folder / VALIDATION, config, most)
        try:
            fitted = fit(checkpoint=folder / CHECKPOINT, on_epoch=look)
        except ValueError:
            if before is not None and rank() == 0:  # what goes on is what was there
                write_whole(settings, before)
            raise
        path = weights_path(folder / what)
        if rank() == 0:
            fitted.save(path)
            _draw(folder)
        settle()
    return path


class _Validation:
    """What is called after every epoch: scores the method and adds a row to a CSV file."""

    def __init__(self, file: Path, config: Mapping[str, Any], most: int) -> None:
        from pandas import read_csv

        data, root, split, limit = map(config.get, _DATA)
        split = "val" if data in ("voc", "coco", "paper") else split
        self.file, self.samples, self.target = file, [], {}
        self.rows: list[Any] = read_csv(file).to_dict("records") if file.exists() else []
        try:
            samples = open_dataset(str(data), root, split)
            self.target = samples.open_masks()
        except FileNotFoundError as error:
            print(f"No validation: {str(error).partition(';')[0]}")
            return
        places = (i for i, name in enumerate(samples.names) if name in self.target)
        self.samples = [samples[i] for i in islice(places, min(most, limit or most))]

    def __call__(self, epoch: int, method: CAMMethod | Segmenter) -> None:
        from pandas import DataFrame

        epochs = method.numbers["epochs"] or 1  # None where steps are counted
        if not self.samples or (epoch % math.ceil(epochs / 10) and epoch < epochs):
            return
        epoch += len(method.losses_)  # of the rounds before
        if isinstance(method, Segmenter):
            matrix, rule = ConfusionMatrix(1 + len(method.classes)), "learned"
            for name, mask in method.predict_all(self.samples, shown=False).items():
                matrix.update(mask, self.target[name])
            score = matrix.mean_iou()
        else:
            rules = [BackgroundRule(threshold=tenths / 10) for tenths in range(1, 6)]
            options = {"rules": rules, "shown": False}
            maps = Pipeline(method, affinity=None)
            swept = sweep_background(maps, self.samples, self.target, **options)
            score = swept[rule := best_rule(swept)]
        self.rows = [row for row in self.rows if row["epoch"] < epoch]
        row = {"epoch": epoch, "miou": score, "background": str(rule), "images": len(self.samples)}
        self.rows.append(row)
        write_whole(self.file, DataFrame(self.rows).to_csv(index=False))


def _draw(folder: Path) -> None:
    """Draw the losses and the mIoU of every epoch beside their tables."""
    from pandas import read_csv

    losses = weights_path(folder / CHECKPOINT).with_suffix(".losses.csv")
    for file, name in ((losses, "losses"), (folder / VALIDATION, "validation")):
        if file.exists():
            table = read_csv(file, index_col="epoch").drop(columns="images", errors="ignore")
            numbers = table.select_dtypes("number")
            curves: Any = {n: each.to_dict() for n, each in numbers.items()}
            y = "loss" if name == "losses" else "mIoU in [0, 1]"
            save_figure(show_curves({"epoch": curves}, y=y), folder / f"{name}.png")


def options_of(what: str) -> list[str]:
    """List what a training can be told: of data and start, of its method and of its ``fit``."""
    names = [*_DATA, *_STARTS.get(what, ()), *["validate"] * (what != "affinity")]
    return list(dict.fromkeys(names + [n for called in called_by(what) for n in _names(called)]))


def _check_options(what: str, given: Mapping[str, Any]) -> None:
    takes = options_of(what)
    for name in [each for each in given if each not in takes]:
        flags = [f"--{each.replace('_', '-')}" for each in (name, *takes)]
        raise ValueError(f"{what} takes no {flags[0]}, expected {', '.join(flags[1:])}")


def called_by(what: str) -> tuple[Callable[..., Any], ...]:
    """Return what takes the options: constructors or a function, its ``fit``, and that of all."""
    if what == "segmenter":
        return train_segmenter, Learner.fit
    making = (_MAKES[what], *[CAM] * issubclass(_MAKES[what], CAMMethod))  # SC-CAM hands on CAM's
    return *making, _MAKES[what].fit, Learner.fit


def _names(called: Callable[..., Any]) -> list[str]:
    arguments = inspect.signature(called).parameters.values()
    return [a.name for a in arguments if a.name not in _NOT_OPTIONS and a.kind is not a.VAR_KEYWORD]


def _config(what: str, folder: Path, given: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Return the settings: what is given, else what the folder holds, else what is usual."""
    if resume:
        if not (folder / CONFIG).is_file():
            problem = f"{folder} has no {CONFIG}, so there is nothing to go on with"
            raise FileNotFoundError(f"{problem}; leave --resume out, or give --out its folder")
        stored = read_card(folder / CONFIG)
        if (other := stored.pop("what", None)) != what:
            problem = f"{folder} holds a training of {other}, and {what} is asked for"
            raise ValueError(f"{problem}; give --out another folder")
        _check_options(what, stored)
        texts = ("data", "root", "split", *_STARTS.get(what, ()), "backbone", "weights", "network")
        named = [name for name in texts if stored.get(name) is not None]
        check_kinds(stored, str(folder / CONFIG), texts=named)
        return {**stored, **given}
    for name in (CHECKPOINT, what):
        if is_saved(folder / name):
            problem = f"{folder} holds a training ({name}.safetensors), which would be lost"
            raise ValueError(f"{problem}; go on with it by --resume, or give --out another")
    config = {"data": "voc", **given}
    config.setdefault("split", SPLITS.get(config["data"]))
    named = any(name in config for name in ("backbone", "start", "network"))
    if config["data"] == "paper":
        network = {"backbone": "paper", "weights": "web"} if what != "segmenter" else {}
        usual = {"preset": "clean"} if what != "segmenter" else {}
    else:
        network = {"backbone": "resnet50", "weights": "imagenet"}
        if what == "segmenter":
            network = {"network": "deeplab_v2", "weights": "imagenet"}
        named, usual = named or "weights" in config, CROPS[what]
    return {**({} if named else network), **usual, **config}


def _prepare(what: str, config: Mapping[str, Any], samples: Dataset, device: str) -> Fit:
    """Return the training with its arguments: call it with a checkpoint."""
    given = {name: value for name, value in config.items() if value is not None}
    if "scales" in given:
        scales = given["scales"]
        given["scales"] = (scales,) if isinstance(scales, int | float) else tuple(scales)
    if "backbone" in given:
        given["backbone"] = backbone_named(given["backbone"])
    # the options of the constructor and those of fit; seed may be for both
    *makers, fit, learn = called_by(what)
    making = {name: given[name] for f in makers for name in _names(f) if name in given}
    fitting = {name: given[name] for f in (fit, learn) for name in _names(f) if name in given}
    if "masks" in options_of(what):
        masks, taught_by = _open_masks(config, samples)
        if what == "segmenter":
            fitting |= {"taught_by": taught_by, "device": device}
            return partial(train_segmenter, samples, masks, **fitting)
        return partial(AffinityNet(**making, device=device).fit, samples, masks, **fitting)
    if not labels_of(samples).any():
        problem = f"none of the {len(samples)} images shows a class, expected image-level labels"
        raise ValueError(f"{problem}; see `python -m wsss_kit check {config['data']}`")
    if "start" in config:
        network = making.get("backbone")
        if isinstance(network, str):
            raise ValueError(f"backbone is {network!r} and --start a saved CAM; give only one")
        start = {"backbone": network, "classes": samples.classes, "device": device}
        making["backbone"] = CAM.load(config["start"], **start)
    if what == "clims":
        clip = config["data"], config.get("clip"), config.get("clip_weights")
        making["clip"], _ = clip_named(*clip, usual="ViT-B-32-quickgelu", device=device)
        making["prompts"] = samples.prompts("clims", config.get("prompts"))
    return partial(_MAKES[what](**making, device=device).fit, samples, **fitting)


def _open_masks(config: Mapping[str, Any], samples: Dataset) -> tuple[Mapping[str, Tensor], str]:
    """Open the masks to learn from; return also how they were made, in words."""
    if "masks" not in config:
        problem = "no masks are given to learn from, expected --masks FOLDER"
        raise ValueError(f"{problem}: one that `python -m wsss_kit masks` wrote, or of NAME.png")
    if config["masks"] == GROUND_TRUTH:
        return samples.open_masks(), "ground truth"
    masks, card = masks_in(Path(config["masks"]), samples)
    stated = [str(card[name]) for name in ("method", "background", "refinement") if name in card]
    return masks, ", ".join(stated) or f"masks in {Path(config['masks']).name}"
