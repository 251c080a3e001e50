"""``python -m wsss_kit page lab``: the prompt lab as one HTML file, without network and Python."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_kit.checks import check_count, check_seed
from wsss_kit.files import write_whole
from wsss_kit.masks import BackgroundRule
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.tiny_clip import MEAN, STD, load_tiny_clip
from wsss_kit.plot import class_colours
from wsss_kit.prompts import FIELDS, Prompts

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
    # no tag of HTML may end the script early
    data = json.dumps(lab_data(images, seed), ensure_ascii=False).replace("</", "<\\/")
    script = "\n".join((SOURCES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (SOURCES / "lab.css").read_text(encoding="utf-8")
    page = Template((SOURCES / "lab.html.jinja").read_text(encoding="utf-8"))
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path = write_whole(path, page.render(style=style, script=script, data=data))
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
