"""The three lists of bars beside a picture in the prompt lab."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from wsss_kit.plot.regions import Style
from wsss_kit.prompts import Prompts
from wsss_kit.widgets.bars import bar

if TYPE_CHECKING:
    import pandas as pd

STYLES = {
    "class": Style("#E69F00", "//"),
    "word": Style("#999999"),
    "needed": Style("#0072B2"),
    "in the way": Style("#D55E00", "xx"),
}
"""How the bars look; a word is needed if something is lost without it."""


class Shown(NamedTuple):
    """What `Bars.show` takes."""

    title: str
    rows: list[dict[str, Any]]
    zero: float = 0.0
    legend: Sequence[str] = ()


def probabilities(
    names: Sequence[str], words: Sequence[str], asked: Sequence[str], probs: Tensor
) -> Shown:
    """What CLIP takes a picture for.

    Args:
        names: of the classes present.
        words: all background words.
        asked: those that are on.
        probs: of the names, then of the words that are on.
    """
    percents = (100 * probs).tolist()
    rows = [
        bar(name, p, 0, 100, style="class", said=f"{name}: probability {p:.1f} %")
        for name, p in zip(names, percents, strict=False)
    ]
    believed = dict(zip(asked, percents[len(names) :], strict=True))
    for word in words:
        p, is_off = believed.get(word, math.nan), word not in believed
        said = f"{word}: {'off' if is_off else f'probability {p:.1f} %'}, press to switch"
        rows.append(bar(word, p, 0, 100, style="word", said=said, off=is_off))
    return Shown("what CLIP takes the picture for, percent", rows)


def scores(table: pd.DataFrame, start: pd.DataFrame) -> Shown:
    """IoU of every class, or sharpness where no mask is known, and how it changed.

    Args:
        table: from `WordTally.per_class`.
        start: the same with the words of the beginning, under the names of today.
    """
    column = "iou" if "iou" in table else "sharpness"
    digits, high = (1, 100.0) if column == "iou" else (4, float(table[column].max()) or 1.0)
    rows = []
    for name, value in table[column].items():
        change = value - start[column][name]
        text, said = "-", f"{name}: no {column}"
        if not math.isnan(value):
            text = f"{value:.{digits}f} ({change:+.{digits}f})"
            said = f"{name}: {column} {value:.{digits}f}, changed by {change:+.{digits}f}"
        rows.append(bar(name, value, 0, high, style="class", text=text, said=said))
    unit = "IoU, percent" if column == "iou" else "sharpness, low is good"
    return Shown(f"{unit} (change since the start)", rows)


def scores_in_words(table: pd.DataFrame, start: pd.DataFrame) -> str:
    """Means over the classes and how they changed; tables as for `scores`."""
    now, was = table.loc["mean"], start.loc["mean"]
    said = ""
    if "iou" in table:
        said = f"mIoU {now['iou']:.1f} % ({now['iou'] - was['iou']:+.1f} since the start), "
    change = now["sharpness"] - was["sharpness"]
    return f"{said}sharpness {now['sharpness']:.4f} ({change:+.4f}; low is good)."


def worth(changes: pd.DataFrame, prompts: Prompts) -> Shown:
    """What each background word is worth: what is lost without it.

    Args:
        changes: from `WordTally.changes`.
        prompts: whose background words are listed, those that are off as well.
    """
    mean = changes[changes["class"] == "mean"].set_index("word")
    scored = "iou" in changes
    lost = -mean["iou"] if scored else mean["sharpness"]  # IoU falls, sharpness grows
    limit, digits = max(float(lost.abs().max()), 1e-9), 1 if scored else 4
    rows = []
    for word in prompts.backgrounds:
        is_off = word not in lost.index
        value = math.nan if is_off else float(lost[word])
        text = "off" if is_off else f"{value:+.{digits}f}"
        look = {"style": "needed" if value > 0 else "in the way", "off": is_off, "text": text}
        said = f"{word}: worth {text}, press to switch"
        rows.append(bar(word, value, -limit, limit, said=said, **look))
    unit = "mIoU, points" if scored else "sharpness"
    title = f"what each word is worth in {unit}"
    return Shown(title, rows, 0.5, ("needed", "in the way"))
