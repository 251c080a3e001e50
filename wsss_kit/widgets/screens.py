"""What the browser draws: bars to press, and two images with a handle between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.plot.regions import Style, css_of, pixels_png
from wsss_kit.prompts import Prompts

if TYPE_CHECKING:
    import pandas as pd

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

    def __init__(self, width: int, height: int, **state: Any) -> None:
        check_count("width", width)
        check_count("height", height)
        super().__init__(width=width, height=height, **state)
        self.on_msg(self._received)

    def _received(self, _: object, content: dict, buffers: list) -> None:
        """Answer a message of the page."""


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
        >>> bars.show("IoU in percent", [bar("cow", 50.0, 0, 100, style="IoU")])
        >>> bars.click("cow")
        >>> pressed, bars.rows[0]["text"]
        (['cow'], '50.0')
    """

    # the text and not the path: anywidget watches paths, and then a closed widget lives on
    _esm = Path(__file__).with_name("bars.js").read_text("utf-8")
    _css = Path(__file__).with_name("bars.css").read_text("utf-8")
    rows = traitlets.List(help="what `bar` and `stacked_bar` make").tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    legend = traitlets.List(help="parts that are explained below").tag(sync=True)
    styles = traitlets.Dict().tag(sync=True)
    zero = traitlets.Float(help="where 0 is, as a share of the width").tag(sync=True)
    chosen = traitlets.Unicode(help="name of the bar that is marked").tag(sync=True)

    def __init__(
        self,
        width: int,
        height: int,
        on_bar: Callable[[str], Any] = str,
        *,
        styles: Mapping[str, Style] | None = None,
    ) -> None:
        self._on_bar = on_bar
        css = {name: css_of(style) for name, style in (styles or {}).items()}
        super().__init__(width, height, styles=css)

    def show(
        self, title: str, rows: list[dict], *, zero: float = 0.0, legend: Sequence[str] = ()
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

    def _received(self, _: object, content: dict, buffers: list) -> None:
        # bars may have changed since the button was pressed
        if content.get("kind") == "click" and any(r["name"] == content["name"] for r in self.rows):
            self.click(content["name"])


class Swipe(_Box):
    """Two images in a box: left of the handle the one before, right of it the one after.

    The handle moves by mouse, finger and arrow keys.

    Args:
        width: of the box in pixels.
        height: of the box in pixels.
        on_image: called with the name and the content of every file that is dropped on the box;
            None where none may be.

    Example:
        >>> swipe = Swipe(40, 30)
        >>> black = np.zeros((3, 4, 3))
        >>> swipe.show(black, "black", 1 - black, "white")
        >>> swipe.position = 2.0  # stays between 0 and 1
        >>> swipe.before_name, swipe.position
        ('black', 1.0)
    """

    _esm = Path(__file__).with_name("swipe.js").read_text("utf-8")
    _css = Path(__file__).with_name("swipe.css").read_text("utf-8")
    before = traitlets.Bytes(help="a PNG file").tag(sync=True)
    after = traitlets.Bytes(help="a PNG file").tag(sync=True)
    before_name = traitlets.Unicode(help="what it shows, in words").tag(sync=True)
    after_name = traitlets.Unicode(help="what it shows, in words").tag(sync=True)
    position = traitlets.Float(0.35, help="of the handle, 0 left to 1 right").tag(sync=True)
    takes_images = traitlets.Bool().tag(sync=True)

    def __init__(
        self, width: int, height: int, on_image: Callable[[str, bytes], Any] | None = None
    ) -> None:
        self._on_image = on_image
        super().__init__(width, height, takes_images=on_image is not None)

    @traitlets.validate("position")
    def _between(self, proposal: Any) -> float:
        return min(1.0, max(0.0, proposal["value"]))

    def show(self, before: np.ndarray, before_name: str, after: np.ndarray, name: str) -> None:
        """Put other images, each (h, w, 3) in [0, 1], in place of these, in one message."""
        with self.hold_sync():
            self.before, self.before_name = pixels_png(before), before_name
            self.after, self.after_name = pixels_png(after), name

    def _received(self, _: object, content: dict, buffers: list) -> None:
        if content.get("kind") == "picture" and buffers and self._on_image is not None:
            self._on_image(str(content.get("name", "")), bytes(buffers[0]))


def bar(
    name: str, value: float, low: float, high: float, *, style: str = "", **more: Any
) -> dict[str, Any]:
    """Describe a bar from 0 to a value.

    Args:
        name: what stands before it.
        value: NaN for none.
        low: of the scale, at most 0.
        high: of the scale, at least 0.
        style: one of the styles of `Bars`.
        **more: ``text`` that stands behind it, the value unless given; ``said``, what a screen
            reader says instead; ``off``, whether the name is crossed out.

    Example:
        >>> bar("sky", -1.0, -2.0, 2.0)["parts"]
        [{'from': 0.25, 'to': 0.5, 'style': ''}]
    """
    is_shown = math.isfinite(value)
    ends = sorted((0.0, value)) if is_shown and high > low else []
    more = {"text": f"{value:.1f}" if is_shown else "-", "said": "", "off": False, **more}
    return {"name": name, "parts": _parts([style], ends, low, high), **more}


def stacked_bar(name: str, values: Mapping[str, float], high: float, **more: Any) -> dict[str, Any]:
    """Describe a bar of several parts, one behind the other.

    Args:
        name: what stands before it.
        values: style to length, not negative.
        high: of the scale.
        **more: ``text`` and ``said`` as of `bar`.

    Example:
        >>> made = stacked_bar("cow", {"missed": 1, "spilled": 3}, 4, text="4", said="4 of 4")
        >>> [(part["from"], part["to"]) for part in made["parts"]]
        [(0.0, 0.25), (0.25, 1.0)]
    """
    lengths = {style: value for style, value in values.items() if value > 0}
    ends = [0.0, *np.cumsum(list(lengths.values())).tolist()]
    return {"name": name, "off": False, "parts": _parts(lengths, ends, 0, high), **more}


def _parts(
    styles: Iterable[str], ends: Sequence[float], low: float, high: float
) -> list[dict[str, Any]]:
    """Return the parts between neighbouring ends, as shares of the scale."""
    shares = [min(1.0, max(0.0, (end - low) / (high - low))) for end in ends]
    pairs = zip(styles, shares, shares[1:], strict=False)
    return [{"from": a, "to": b, "style": style} for style, a, b in pairs]


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
    for name in (*names, *words):
        p, is_class = percents.get(name, math.nan), name in names
        message = f"{name}: probability {p:.1f} %" if name in percents else f"{name}: off"
        look = {"style": "class" if is_class else "word", "off": name not in percents}
        message += "" if is_class else ", press to switch"
        rows.append(bar(name, p, 0, 100, said=message, **look))
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
    for name, value in table[column].items():
        text, message = "-", f"{name}: no {column}"
        if not math.isnan(value):
            now, change = f"{value:.{digits}f}", f"{value - start[column][name]:+.{digits}f}"
            text, message = f"{now} ({change})", f"{name}: {column} {now}, changed by {change}"
        rows.append(bar(name, value, 0, high, style="class", text=text, said=message))
    unit = "IoU, percent" if column == "iou" else "sharpness, low is good"
    return {"title": f"{unit} (change since the start)", "rows": rows}


def scores_in_words(table: pd.DataFrame, start: pd.DataFrame) -> str:
    """Write the means over the classes and their changes; tables as for `score_bars`."""
    now, change = table.loc["mean"], table.loc["mean"] - start.loc["mean"]
    words = f"sharpness {now['sharpness']:.4f} ({change['sharpness']:+.4f}; low is good)."
    if "iou" in table:
        words = f"mIoU {now['iou']:.1f} % ({change['iou']:+.1f} since the start), {words}"
    return words


def worth_bars(changes: pd.DataFrame, prompts: Prompts) -> dict[str, Any]:
    """Describe what each background word is worth: what is lost without it.

    Args:
        changes: from `WordTally.changes`.
        prompts: whose background words are listed, those that are off as well.
    """
    mean = changes[changes["class"] == "mean"].set_index("word")
    is_scored = "iou" in changes
    lost = -mean["iou"] if is_scored else mean["sharpness"]  # IoU falls, sharpness grows
    limit, digits = max(float(lost.abs().max()), 1e-9), 1 if is_scored else 4
    rows = []
    for word in prompts.backgrounds:
        is_off, value = word not in lost.index, float(lost.get(word, math.nan))
        text = "off" if is_off else f"{value:+.{digits}f}"
        look = {"style": "needed" if value > 0 else "in the way", "off": is_off, "text": text}
        message = f"{word}: worth {text}, press to switch"
        rows.append(bar(word, value, -limit, limit, said=message, **look))
    title = f"what each word is worth in {'mIoU, points' if is_scored else 'sharpness'}"
    return {"title": title, "rows": rows, "zero": 0.5, "legend": ("needed", "in the way")}
