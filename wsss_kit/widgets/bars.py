"""Bars to click: each is a button with a name and its number in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from wsss_kit.checks import check_count


class Bars(anywidget.AnyWidget):
    """Horizontal bars in a box of fixed size; by mouse or with arrow keys and Enter.

    Args:
        width: of the box in pixels.
        height: of the box in pixels; more bars than fit scroll inside it.
        styles: name of a part to its CSS background.

    Example:
        >>> bars = Bars(200, 100, styles={"IoU": "#0072B2"})
        >>> bars.show("IoU in percent", [bar("cow", 50.0, 0, 100, style="IoU")])
        >>> clicked = []
        >>> bars.on_bar(clicked.append)
        >>> bars.click("cow")
        >>> clicked, bars.rows[0]["text"]
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
    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)

    def __init__(self, width: int, height: int, *, styles: Mapping[str, str] | None = None) -> None:
        check_count("width", width)
        check_count("height", height)
        self._callers: list[Callable[[str], None]] = []
        super().__init__(width=width, height=height, styles=dict(styles or {}))
        self.on_msg(self._received)

    def show(
        self,
        title: str,
        rows: Sequence[dict[str, Any]],
        *,
        zero: float = 0.0,
        legend: Sequence[str] = (),
    ) -> None:
        """Put other bars in place of these, in one message."""
        with self.hold_sync():
            self.title, self.rows, self.zero = title, list(rows), zero
            self.legend = list(legend)

    def on_bar(self, caller: Callable[[str], None]) -> None:
        """Have ``caller(name)`` called with every bar that is pressed."""
        self._callers.append(caller)

    def click(self, name: str) -> None:
        """Press a bar, as a reader would.

        Raises:
            ValueError: if there is none of this name.
        """
        names = [row["name"] for row in self.rows]
        if name not in names:
            raise ValueError(f"there is no bar {name!r}, expected one of {', '.join(names)}")
        for caller in self._callers:
            caller(name)

    def _received(self, _: object, content: dict, __: list) -> None:
        # bars may have changed since the button was pressed
        if content.get("kind") == "click" and any(r["name"] == content["name"] for r in self.rows):
            self.click(content["name"])


def bar(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    text: str | None = None,
    said: str = "",
    style: str = "",
    off: bool = False,
) -> dict[str, Any]:
    """A bar from 0 to a value.

    Args:
        name: what stands before it.
        value: NaN for none.
        low: of the scale, at most 0.
        high: of the scale, at least 0.
        text: what stands behind it, the value unless given.
        said: what a screen reader says instead of the text.
        style: one of the styles of `Bars`.
        off: whether the name is crossed out.

    Example:
        >>> bar("sky", -1.0, -2.0, 2.0)["parts"]
        [{'from': 0.25, 'to': 0.5, 'style': ''}]
    """
    text = (f"{value:.1f}" if math.isfinite(value) else "-") if text is None else text
    parts = []
    if math.isfinite(value) and high > low:
        ends = sorted(_share(end, low, high) for end in (0.0, value))
        parts = [{"from": ends[0], "to": ends[1], "style": style}]
    return {"name": name, "text": text, "said": said, "parts": parts, "off": off}


def stacked_bar(
    name: str, values: Mapping[str, float], high: float, *, text: str, said: str
) -> dict[str, Any]:
    """A bar of several parts, one behind the other.

    Args:
        name: what stands before it.
        values: style to length, not negative.
        high: of the scale.
        text: what stands behind it.
        said: what a screen reader says.

    Example:
        >>> made = stacked_bar("cow", {"missed": 1, "spilled": 3}, 4, text="4", said="4 of 4")
        >>> [(part["from"], part["to"]) for part in made["parts"]]
        [(0.0, 0.25), (0.25, 1.0)]
    """
    parts, end = [], 0.0
    for style, value in values.items():
        if value > 0:
            start, end = end, end + value
            ends = _share(start, 0, high), _share(end, 0, high)
            parts.append({"from": ends[0], "to": ends[1], "style": style})
    return {"name": name, "text": text, "said": said, "parts": parts, "off": False}


def _share(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
