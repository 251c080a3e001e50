"""``prompts search``: background words that are worth their place; ``page lab``: try them."""

import base64
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_kit.checks import check_count, check_seed
from wsss_kit.commands import clip_named
from wsss_kit.data import open_dataset
from wsss_kit.evaluation import CONSTANTS, best_rule, sweep_background
from wsss_kit.files import write_whole
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.tiny_clip import MEAN, STD, load_tiny_clip
from wsss_kit.plot import class_colours, save_figure, show_search, show_word_classes
from wsss_kit.prompts import FIELDS, Prompts
from wsss_kit.prompts.found import PromptSearch
from wsss_kit.prompts.search import object_words, search_backgrounds, stuff_words
from wsss_kit.recipes import clip_es_maps

SOURCES = Path(__file__).parents[1] / "widgets" / "page"
SCRIPTS = ("model.js", "texts.js", "lab.js")
RULE = BackgroundRule(threshold=0.4)
"""As in `PromptLab`."""


def run_lab(*, out: str | Path = "lab.html", images: int = 12, seed: int = 0) -> Path:
    """Write a page that shows CLIP-ES of the tiny CLIP while words are typed.

    The file holds the weights, the images with their masks and all that computes: it opens from
    a disk, without a network. The numbers are those of `PromptLab` up to rounding.

    Args:
        out: the HTML file.
        images: of the embedded world's ``val``.
        seed: of that world.

    Returns:
        The path.

    Raises:
        ValueError: if a number is out of its range.
        OSError: if the file cannot be written.
    """
    from jinja2 import Template

    check_count("images", images)
    check_seed(seed)
    if Path(out).is_dir():
        raise ValueError(f"--out is {out}, a folder; expected a file, such as lab.html")
    # no tag of HTML may end the script early
    data = json.dumps(lab_data(images, seed), ensure_ascii=False).replace("</", "<\\/")
    script = "\n".join((SOURCES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (SOURCES / "lab.css").read_text(encoding="utf-8")
    page = Template((SOURCES / "lab.html.jinja").read_text(encoding="utf-8"))
    path = write_whole(out, page.render(style=style, script=script, data=data))
    print(f"{path} is written, {path.stat().st_size / 1e6:.1f} MB; open it in a browser.")
    return path


def lab_data(n_images: int, seed: int) -> dict[str, Any]:
    """Collect what the page computes with, ready for JSON."""
    from matplotlib import colormaps

    model, card = load_tiny_clip()
    vision, text = (card["architecture"][f"{part}_cfg"] for part in ("vision", "text"))
    tensors, parts, start = {}, [], 0
    for name, values in model.state_dict().items():
        parts.append(values.half().flatten())
        tensors[name] = [start, values.numel()]
        start += values.numel()
    world = PaperWorld(n_images, split="val", seed=seed)
    shown = [
        {
            "name": sample.name,
            "classes": sample.labels.nonzero().flatten().tolist(),
            "pixels": _packed((sample.image * 255).round().byte()),
            "truth": _packed(world.masks[sample.name].byte()),
        }
        for sample in world
        if sample.labels.any()
    ]
    numbers = {"context": text["context_length"], "heads": text["heads"], "mean": MEAN[0]}
    numbers |= {"std": STD[0], "side": vision["image_size"], "patch": vision["patch_size"]}
    numbers |= {"window": card["architecture"]["window"]}
    return {
        "model": {"tensors": tensors, "words": card["words"], **numbers},
        "weights": _packed(torch.cat(parts)),
        "images": shown,
        "prompts": json.loads(Prompts.paper().to_json()),
        "fields": FIELDS,
        "rule": {"threshold": RULE.threshold, "power": RULE.power},
        "colours": _levels(class_colours(len(world.classes))[1:]),
        "viridis": _levels(colormaps["viridis"](np.linspace(0, 1, 256))[:, :3]),
    }


def _packed(values: torch.Tensor) -> str:
    """Write numbers as base64 of their bytes, in the order of little-endian machines."""
    array = values.contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _levels(colours: np.ndarray) -> list[list[int]]:
    return (255 * colours).round().astype(int).tolist()


def run_search(
    out: str | Path,
    *,
    data: str = "voc",
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    held_out: str | None = None,
    held_out_limit: int | None = None,
    candidates: str | Sequence[str] = (),
    clip: str | None = None,
    clip_weights: str | Path | None = None,
    prompts: str | Path | None = None,
    objective: str = "mIoU",
    threshold: float | None = None,
    power: float | None = None,
    most: int = 6,
    per_class: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> PromptSearch:
    """Search background words for CLIP-ES, and write them as prompts that ``masks`` reads.

    Beside the JSON of the kept words lie OUT-best.json (the list of the highest score, whose words
    are not all proven), OUT.csv (what each word is worth) and OUT.png.

    Args:
        out: the JSON file to write.
        data: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` or ``"paper"`` (the embedded world).
        root: folder of the data set; None for the one that `download` writes.
        split: searched on; None for ``val`` of the embedded world, otherwise as in ``masks``.
        limit: only the first so many of its images.
        held_out: a split that confirms the lists once, such as ``test``; None for none.
        held_out_limit: only the first so many of its images.
        candidates: words to try, separated by commas, or a text file with one on each line; none
            for those of the prompts and, of photographs, the 91 names of COCO-Stuff.
        clip: open_clip's name; None for ViT-B/16, or the tiny one with ``"paper"``.
        clip_weights: a file, or None for OpenAI's.
        prompts: a file of prompts to begin with; None for the papers' prompts.
        objective: ``"mIoU"``, or without masks ``"agreement"``, ``"sharpness"`` or ``"share"``.
        threshold: constant background; None, as ``power``, for the constant that is best for the
            prompts on the searched images.
        power: of the background (1 - max)^power, instead of ``threshold``.
        most: words of a list.
        per_class: whether each class gets its own list, as CLIMS uses them.
        seed: of the resampling.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA where there is one.

    Returns:
        What was found.

    Raises:
        ValueError: if a word is a class, the objective cannot choose, or a number is out of range.
        FileNotFoundError: if data, weights or a file are not there.
    """
    rule = None
    if threshold is not None or power is not None:
        rule = BackgroundRule(threshold, power)
    samples = open_dataset(data, root, split or ("val" if data == "paper" else None), limit=limit)
    try:
        masks = samples.open_masks() if objective == "mIoU" else None
    except FileNotFoundError as error:
        problem = "mIoU needs masks; without, give --objective agreement, sharpness or share"
        raise FileNotFoundError(f"{problem} ({error})") from error
    loaded, called = clip_named(data, clip, clip_weights, usual="ViT-B-16-quickgelu", device=device)
    method = CLIPES(loaded, prompts=samples.prompts("clip_es", prompts)).fit()
    words = [candidates] if isinstance(candidates, str) else list(candidates)
    if len(words) == 1 and Path(words[0]).suffix == ".txt":
        words = list(filter(None, Path(words[0]).read_text("utf-8-sig").splitlines()))
    if not words:
        objects = object_words(method.prompts)
        more = [] if data == "paper" else [w for w in stuff_words() if w not in objects]
        words = list(dict.fromkeys([*method.prompts.backgrounds, *more]))
    if rule is None:
        rule, maps_of = method.background, partial(clip_es_maps, method=method)
        if masks is not None:
            swept = sweep_background(maps_of, samples, masks, rules=CONSTANTS, what="rules")
            rule = best_rule(swept)
    other = None
    if held_out is not None:
        other = open_dataset(data, root, held_out, limit=held_out_limit)
        other = other, other.open_masks()
    found = search_backgrounds(
        method,
        samples,
        words,
        masks=masks,
        rule=rule,
        objective=objective,
        per_class=per_class,
        held_out=other,
        most=most,
        seed=seed,
    )
    found.made_by.update(data=data, split=samples.split, clip=called, held_out_split=held_out)
    path = Path(out).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    found.to_json(path)
    found.to_json(path.with_name(f"{path.stem}-best.json"), best=True)
    write_whole(path.with_suffix(".csv"), found.words.to_csv())
    save_figure(show_search(found), path.with_suffix(".png"))
    save_figure(show_word_classes(found), path.with_name(f"{path.stem}-classes.png"))
    print(f"{found}\n{path} and its -best.json, .csv, .png and -classes.png are written.")
    return found
