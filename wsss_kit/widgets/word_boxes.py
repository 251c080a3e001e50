"""The text boxes of the prompt lab, which are read once their typist pauses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from wsss_kit.prompts import Prompts
from wsss_kit.widgets.edits import FIELDS, as_text
from wsss_kit.widgets.instrument import row, text_box
from wsss_kit.widgets.patience import Debounced

_HINTS = {
    "name": "the class's name",
    "synonyms": "what is said instead of the name; several with commas",
    "template": "one {} for the word; several templates with | between",
    "backgrounds": "words for what is no class, with commas between",
}
_LABELS = {"name": ("say", 200), "synonyms": ("or as", 320), "template": ("template", 340)}


class WordBoxes:
    """A box for each of ``FIELDS``.

    Args:
        typed: called with a field and its text after a pause.

    Attributes:
        boxes: field to its box.
        rows: how they stand on the panel.
    """

    def __init__(self, typed: Callable[[str, str], None]) -> None:
        self.boxes: dict[str, Any] = {
            field: text_box(label, layout={"width": f"{width}px"})
            for field, (label, width) in _LABELS.items()
        }
        look = {"style": {"description_width": "80px"}, "layout": {"width": "auto"}}
        self.boxes["backgrounds"] = widgets.Textarea(description="background", rows=2, **look)
        self._typed, self._typing, self._filling = typed, "", False
        self._filled: dict[str, str] = dict.fromkeys(FIELDS, "")
        for field, box in self.boxes.items():
            box.tooltip = box.placeholder = _HINTS[field]
            box.observe(self._listening(field), "value")
        self.rows = [row([self.boxes[field] for field in _LABELS]), self.boxes["backgrounds"]]

    def _listening(self, field: str) -> Callable[[Any], None]:
        def paused(text: str) -> None:
            self._typing = field
            self._typed(field, text)
            self._typing = ""

        wait = Debounced(paused)

        def heard(change: Any) -> None:
            if not self._filling:
                wait(change.new)

        return heard

    def fill(self, prompts: Prompts, index: int) -> None:
        """Put the prompts into the boxes, but for the one that is being typed in.

        A box is written only where its words have become others by other means than its typist.

        Args:
            prompts: the words.
            index: of the class whose name and synonyms are shown.
        """
        self._filling = True
        for field, box in self.boxes.items():
            text = as_text(prompts, field, index=index)
            if text != self._filled[field]:
                self._filled[field] = text
                if field != self._typing:
                    box.value = text
        self._filling = False
