"""What the browser draws: bars to press, two images with a handle, a button that opens files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from torch import Tensor

from wsss_kit.plot.regions import Style, css_of, pixels_png

if TYPE_CHECKING:
    import pandas as pd

    from wsss_kit.prompts.found import PromptSearch

STYLES = {
    "class": Style("#E69F00", "//"),
    "word": Style("#999999"),
    "needed": Style("#0072B2"),
    "in the way": Style("#D55E00", "xx"),
}
"""How the bars look; a word is needed if something is lost without it."""


class _Box(anywidget.AnyWidget):
    """A box of fixed size, in pixels."""

    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)


class Bars(_Box):
    """Horizontal bars in a box of fixed size; by mouse or with arrow keys and Enter.

    Args:
        width: of the box in pixels.
        height: of the box in pixels; more bars than fit scroll inside it.
        on_bar: called with the name of every bar that is pressed.
        styles: name of a part to how it looks.

    Example:
        >>> pressed = []
        >>> bars = Bars(200, 100, pressed.append, styles={"IoU": Style("#0072B2")})
        >>> bars.show("IoU in percent", [bar("cow", {"IoU": 50.0}, 100, text="50.0")])
        >>> bars.click("cow")
        >>> pressed, bars.rows[0]["text"]
        (['cow'], '50.0')
    """

    # the text and not the path: anywidget watches paths, and then a closed widget lives on
    _esm = Path(__file__).with_name("bars.js").read_text("utf-8")
    _css = Path(__file__).with_name("bars.css").read_text("utf-8")
    rows = traitlets.List(help="what `bar` makes").tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    legend = traitlets.List(help="parts that are explained below").tag(sync=True)
    styles = traitlets.Dict().tag(sync=True)
    zero = traitlets.Float(help="where 0 is, as a share of the width").tag(sync=True)
    chosen = traitlets.Unicode(help="name of the bar that is marked").tag(sync=True)

    def __init__(
        self, width: int, height: int, on_bar: Callable[[str], Any], styles: Mapping[str, Style]
    ) -> None:
        self._on_bar = on_bar
        css = {name: css_of(style) for name, style in styles.items()}
        super().__init__(width=width, height=height, styles=css)
        self.on_msg(self._received)

    def show(
        self, title: str, rows: list[dict], zero: float = 0.0, legend: Sequence[str] = ()
    ) -> None:
        """Put other bars in place of these, in one message."""
        with self.hold_sync():
            self.title, self.rows, self.zero, self.legend = title, rows, zero, list(legend)

    def click(self, name: str) -> None:
        """Press a bar, as a reader would.

        Raises:
            ValueError: if there is none of this name.
        """
        names = [row["name"] for row in self.rows]
        if name not in names:
            raise ValueError(f"there is no bar {name!r}, expected one of {', '.join(names)}")
        self._on_bar(name)

    def _received(self, _: Any, content: Mapping[str, Any], buffers: Any) -> None:
        name = content["name"]
        if any(row["name"] == name for row in self.rows):  # they may have changed since the press
            self.click(name)


class Swipe(_Box):
    """Two images in a box: left of the handle the one before, right of it the one after.

    The handle moves by mouse, finger and arrow keys.

    Args:
        width: of the box in pixels.
        height: of the box in pixels.

    Example:
        >>> swipe = Swipe(40, 30)
        >>> black = np.zeros((3, 4, 3))
        >>> swipe.show(black, "black", 1 - black, "white")
        >>> swipe.before_name, swipe.position  # of the handle, 0 left to 1 right
        ('black', 0.35)
    """

    _esm = Path(__file__).with_name("swipe.js").read_text("utf-8")
    _css = Path(__file__).with_name("swipe.css").read_text("utf-8")
    before = traitlets.Bytes(help="a PNG file").tag(sync=True)
    after = traitlets.Bytes(help="a PNG file").tag(sync=True)
    before_name = traitlets.Unicode(help="what it shows, in words").tag(sync=True)
    after_name = traitlets.Unicode(help="what it shows, in words").tag(sync=True)
    position = traitlets.Float(0.35, min=0, max=1, help="of the handle").tag(sync=True)

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width=width, height=height)

    def show(self, before: np.ndarray, before_name: str, after: np.ndarray, name: str) -> None:
        """Put other images, each (h, w, 3) in [0, 1], in place of these, in one message."""
        with self.hold_sync():
            self.before, self.before_name = pixels_png(before), before_name
            self.after, self.after_name = pixels_png(after), name


class FileButton(anywidget.AnyWidget):
    """A button that opens files; they may be dropped on its panel as well.

    A file comes in parts of 1 MiB, because Jupyter loses a message above 10 MB without a word.

    Args:
        label: of the button.
        accept: file types that the browser offers, such as ``"image/*"``.
        on_file: called with the name and the content of each file.
        on_problem: called with a `ValueError` for a file that cannot be read or is above 100 MiB.
        **look: other traits, such as ``layout``.

    Example:
        >>> button = FileButton("Open", ".txt", on_file=print, on_problem=print)
        >>> button.receive({"name": "a.txt", "last": False}, [b"gra"])
        >>> button.receive({"name": "a.txt", "last": True}, [b"ss"])
        a.txt b'grass'
    """

    _esm = Path(__file__).with_name("files.js").read_text("utf-8")
    label = traitlets.Unicode().tag(sync=True)
    accept = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        label: str,
        accept: str,
        on_file: Callable[[str, bytes], Any],
        on_problem: Callable[[Exception], Any],
        **look: Any,
    ) -> None:
        self._on_file, self._on_problem = on_file, on_problem
        self._parts: dict[str, list[bytes]] = {}  # of files on their way
        super().__init__(label=label, accept=accept, **look)
        self.on_msg(lambda _, content, buffers: self.receive(content, buffers))

    def receive(self, content: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        """Answer a message of the page: a part of a file, or why it cannot be read."""
        parts = self._parts.setdefault(content["name"], [])
        parts += map(bytes, buffers)
        if "problem" in content or content["last"]:
            del self._parts[content["name"]]
        if "problem" in content:
            self._on_problem(ValueError(f"{content['name']} {content['problem']}"))
        elif content["last"]:
            self._on_file(content["name"], b"".join(parts))


def bar(
    name: str, values: Mapping[str, float], high: float, low: float = 0.0, **more: Any
) -> dict[str, Any]:
    """Describe a bar of one or several parts, one behind the other, from 0.

    Args:
        name: what stands before it.
        values: style of a part to its length, all of one sign; none is drawn for 0 and NaN.
        high: end of the scale, above ``low``.
        low: start of the scale, at most 0.
        **more: ``text``, what stands behind it; ``said``, what a screen reader says instead;
            ``off``, whether the name is crossed out.

    Example:
        >>> bar("sky", {"word": -1.0}, 2.0, -2.0, text="-1.0")["parts"]
        [{'from': 0.25, 'to': 0.5, 'style': 'word'}]
        >>> [part["to"] for part in bar("cow", {"missed": 1, "spilled": 3}, 4, text="4")["parts"]]
        [0.25, 1.0]
    """
    parts, end = [], 0.0
    for style, value in values.items():
        if value and math.isfinite(value):
            start, end = end, end + value
            ends = sorted(min(1.0, max(0.0, (x - low) / (high - low))) for x in (start, end))
            parts.append({"from": ends[0], "to": ends[1], "style": style})
    return {"name": name, "parts": parts, "said": "", "off": False, **more}


def probability_bars(
    names: Sequence[str], words: Sequence[str], backgrounds: Sequence[str], probs: Tensor
) -> dict[str, Any]:
    """Describe what CLIP takes an image for, as arguments of `Bars.show`.

    Args:
        names: of the classes present.
        words: all background words.
        backgrounds: those that are on.
        probs: of the names, then of the words that are on.
    """
    percents = dict(zip([*names, *backgrounds], (100 * probs).tolist(), strict=True))
    rows = []
    for i, name in enumerate((*names, *words)):
        p, off, is_class = percents.get(name, math.nan), name not in percents, i < len(names)
        message = "off" if off else f"probability {p:.1f} %"
        message += "" if is_class else ", press to switch"
        look = {"text": "-" if off else f"{p:.1f}", "said": message, "off": off}
        rows.append(bar(name, {"class" if is_class else "word": p}, 100, **look))
    return {"title": "what CLIP takes the image for, percent", "rows": rows}


def score_bars(table: pd.DataFrame, start: pd.DataFrame) -> dict[str, Any]:
    """Describe the IoU of every class, or its sharpness where no mask is known, and its change.

    Args:
        table: from `WordTally.per_class`.
        start: the same with the words of the beginning, under the names of today.
    """
    column = "iou" if "iou" in table else "sharpness"
    digits, high = (1, 100.0) if column == "iou" else (4, float(table[column].max()) or 1.0)
    rows = []
    for name, value in zip(table.index.tolist(), table[column].tolist(), strict=True):
        text, message = "-", f"no {column}"
        if not math.isnan(value):
            now, change = f"{value:.{digits}f}", f"{value - start[column][name]:+.{digits}f}"
            text, message = f"{now} ({change})", f"{column} {now}, changed by {change}"
        rows.append(bar(name, {"class": value}, high, text=text, said=message))
    unit = "IoU, percent" if column == "iou" else "sharpness, low is good"
    return {"title": f"{unit} (change since the start)", "rows": rows}


def scores_in_words(table: pd.DataFrame, start: pd.DataFrame) -> str:
    """Write the means over the classes and their changes; tables as for `score_bars`."""
    now, change = table.loc["mean"], table.loc["mean"] - start.loc["mean"]
    words = f"sharpness {now['sharpness']:.4f} ({change['sharpness']:+.4f}; low is good)."
    if now["sharpness"] != now["sharpness"]:
        words = "no sharpness, which compares the classes of an image: none has two."
    if "iou" in table:
        words = f"mIoU {now['iou']:.1f} % ({change['iou']:+.1f} since the start), {words}"
    return words


def worth_bars(changes: pd.DataFrame, words: Sequence[str]) -> dict[str, Any]:
    """Describe what each background word is worth: what is lost without it.

    Args:
        changes: from `WordTally.changes`.
        words: all background words, those that are off as well.
    """
    mean = changes[changes["class"] == "mean"].set_index("word")
    is_scored = "iou" in changes
    lost = -mean["iou"] if is_scored else mean["sharpness"]  # IoU falls, sharpness grows
    limit, digits = max(float(lost.abs().max()), 1e-9), 1 if is_scored else 4
    rows = []
    for word in words:
        is_off, value = word not in lost.index, float(lost.get(word, math.nan))
        text = "off" if is_off else f"{value:+.{digits}f}"
        style = "needed" if value > 0 else "in the way"
        look = {"text": text, "said": f"worth {text}, press to switch", "off": is_off}
        rows.append(bar(word, {style: value}, limit, -limit, **look))
    title = f"what each word is worth in {'mIoU, points' if is_scored else 'sharpness'}"
    return {"title": title, "rows": rows, "zero": 0.5, "legend": ("needed", "in the way")}


def search_bars(found: PromptSearch) -> dict[str, Any]:
    """Describe what a search found each background word to be worth, the kept ones first."""
    words, rows = found.words, []
    limit = max(float(words["gain"].abs().max()), 1e-9)
    for word, row in words.iterrows():
        bounds = f"{row['gain']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
        style = "needed" if row["gain"] > 0 else "in the way"
        look = {"text": f"{row['gain']:+.1f} {row['status']}", "off": row["status"] != "kept"}
        look["said"] = f"{row['status']}, worth {bounds}, press to switch"
        rows.append(bar(str(word), {style: row["gain"]}, limit, -limit, **look))
    title = f"worth beside the kept words, {found.made_by['objective']}"
    return {"title": title, "rows": rows, "zero": 0.5, "legend": ("needed", "in the way")}
