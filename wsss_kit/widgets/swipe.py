"""Two pictures on one place, with a handle between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from wsss_kit.checks import check_count


class Swipe(anywidget.AnyWidget):
    """A box of fixed size: left of the handle the picture before, right of it the one after.

    The handle moves by mouse, finger and arrow keys.

    Args:
        width: of the box in pixels.
        height: of the box in pixels.
        takes_pictures: whether picture files may be dropped on it, see `on_picture`.

    Example:
        >>> from wsss_kit.plot.regions import pixels_png
        >>> import numpy as np
        >>> swipe = Swipe(40, 30)
        >>> swipe.before, swipe.before_name = pixels_png(np.zeros((3, 4, 3))), "black"
        >>> swipe.position = 2.0  # stays between 0 and 1
        >>> swipe.position
        1.0
    """

    # the text and not the path: anywidget watches paths, and then a closed widget lives on
    _esm = Path(__file__).with_name("swipe.js").read_text("utf-8")
    _css = Path(__file__).with_name("swipe.css").read_text("utf-8")
    before = traitlets.Bytes(help="a PNG file").tag(sync=True)
    after = traitlets.Bytes(help="a PNG file").tag(sync=True)
    before_name = traitlets.Unicode(help="what it shows, in words").tag(sync=True)
    after_name = traitlets.Unicode(help="what it shows, in words").tag(sync=True)
    position = traitlets.Float(0.35, help="of the handle, 0 left to 1 right").tag(sync=True)
    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)
    takes_pictures = traitlets.Bool().tag(sync=True)

    def __init__(self, width: int, height: int, *, takes_pictures: bool = False) -> None:
        check_count("width", width)
        check_count("height", height)
        self._takers: list[Callable[[str, bytes], None]] = []
        super().__init__(width=width, height=height, takes_pictures=takes_pictures)
        self.on_msg(self._received)

    @traitlets.validate("position")
    def _between(self, proposal: Any) -> float:
        return min(1.0, max(0.0, proposal["value"]))

    def on_picture(self, taker: Callable[[str, bytes], None]) -> None:
        """Have ``taker(name, content)`` called with every file that is dropped on the box."""
        self._takers.append(taker)

    def _received(self, _: object, content: dict, buffers: list) -> None:
        if content.get("kind") == "picture" and buffers:
            for taker in self._takers:
                taker(str(content.get("name", "")), bytes(buffers[0]))
