"""The words of the prompt lab: their edits, their text boxes, and the bars of their numbers.

Text boxes hold words apart by commas, and templates apart by bars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
from torch import Tensor

from wsss_kit.plot.regions import Style
from wsss_kit.prompts import Prompts
from wsss_kit.widgets.instrument import NARROW, Debounced, row
from wsss_kit.widgets.screens import bar

if TYPE_CHECKING:
    import pandas as pd

STYLES = {
    "class": Style("#E69F00", "//"),
    "word": Style("#999999"),
    "needed": Style("#0072B2"),
    "in the way": Style("#D55E00", "xx"),
}
"""How the bars look; a word is needed if something is lost without it."""
_SEVERAL = "what is said instead of the name; several with commas"
_TEMPLATES = "one {} for the word; several templates with | between"
_BACKGROUNDS = "words for what is no class, with commas between"
_BOXES = {  # kind of box, label, width, hint
    "name": (widgets.Text, "say", "200px", "the class's name"),
    "synonyms": (widgets.Text, "or as", "320px", _SEVERAL),
    "template": (widgets.Text, "template", "340px", _TEMPLATES),
    "backgrounds": (widgets.Textarea, "background", "auto", _BACKGROUNDS),
}
FIELDS = tuple(_BOXES)
"""The text boxes: name and synonyms of one class, template, background words."""
_MOST_STEPS = 200


def words_of(text: str) -> list[str]:
    """Split text at commas and lines into words, without empty ones.

    Example:
        >>> words_of("grass,  sky,, open sea")
        ['grass', 'sky', 'open sea']
    """
    parts = text.replace("\n", ",").split(",")
    return [" ".join(part.split()) for part in parts if part.strip()]


def templates_of(text: str) -> str | list[str]:
    """Read one template, or several that a bar keeps apart.

    Example:
        >>> templates_of("a {}"), templates_of("a photo of {} | one {}")
        ('a {}', ['a photo of {}', 'one {}'])
    """
    parts = [part.strip() for part in text.split("|") if part.strip()]
    return parts if len(parts) > 1 else "".join(parts)


def edited(prompts: Prompts, field: str, text: str, *, index: int) -> Prompts:
    """Return the prompts after an edit of one text box.

    Args:
        prompts: before it.
        field: ``"name"`` or ``"synonyms"`` of the class at ``index``, ``"template"`` or
            ``"backgrounds"``.
        text: what the box holds.
        index: which class.

    Raises:
        ValueError: if the words do not go together, with what was expected.

    Example:
        >>> prompts = Prompts(["cat", "dog"], ["sea"], template="a {}")
        >>> edited(prompts, "synonyms", "kitten, tabby", index=0).phrases
        ('kitten,tabby', 'dog')
        >>> edited(prompts, "name", "tiger", index=0).classes
        ('tiger', 'dog')
    """
    if field == "template":
        return prompts.replace(template=templates_of(text))
    if field == "backgrounds":
        return with_backgrounds(prompts, words_of(text))
    old = prompts.classes[index]
    if field == "synonyms":
        synonyms = {k: v for k, v in prompts.synonyms.items() if k != old}
        if words_of(text) not in ([], [old]):
            synonyms[old] = words_of(text)
        return prompts.replace(synonyms=synonyms)
    new = text.strip()
    names = [new if i == index else name for i, name in enumerate(prompts.classes)]

    def renamed(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {new if name == old else name: value for name, value in mapping.items()}

    return prompts.replace(
        classes=names,
        synonyms=renamed(prompts.synonyms),
        class_backgrounds=renamed(prompts.class_backgrounds),
    )


def with_backgrounds(prompts: Prompts, words: Sequence[str]) -> Prompts:
    """Return prompts with other background words; what a class has of those that go goes with them.

    Example:
        >>> prompts = with_backgrounds(Prompts.paper(method="clims"), ["sky", "fog"])
        >>> dict(prompts.class_backgrounds)
        {'plane': ('sky',)}
    """
    kept = {c: [w for w in own if w in words] for c, own in prompts.class_backgrounds.items()}
    related = {c: own for c, own in kept.items() if own}
    return prompts.replace(backgrounds=list(words), class_backgrounds=related)


def as_text(prompts: Prompts, field: str, *, index: int) -> str:
    """Return what a text box holds for these prompts; see `edited`.

    Example:
        >>> as_text(Prompts.voc(), "synonyms", index=14)
        'person with clothes, people, human'
    """
    name = prompts.classes[index]
    return {
        "name": name,
        "synonyms": ", ".join(words_of(prompts.synonyms.get(name, ""))),
        "template": " | ".join(prompts.templates),
        "backgrounds": ", ".join(prompts.backgrounds),
    }[field]


class History:
    """Prompts that were there before, and those that were undone.

    Example:
        >>> history, a = History(), Prompts(["cat"], ["sea"], template="a {}")
        >>> b = a.replace(template="one {}")
        >>> history.remember(a)
        >>> history.step("undo", b) == a, history.step("redo", a) == b
        (True, True)
    """

    def __init__(self) -> None:
        self.past: list[Prompts] = []
        self._future: list[Prompts] = []

    def remember(self, before: Prompts) -> None:
        """Keep what an edit is about to replace."""
        self.past = [*self.past, before][-_MOST_STEPS:]
        self._future = []

    def step(self, what: str, now: Prompts) -> Prompts:
        """Return what was there before ``now`` ("undo"), or what was undone last ("redo").

        Raises:
            ValueError: if nothing was edited, or undone since the last edit.
        """
        source, target = self.past, self._future
        if what == "redo":
            source, target = target, source
        if not source:
            raise ValueError(f"there is nothing to {what}")
        target.append(now)
        return source.pop()


def unknown_in(prompts: Prompts, unknown: Any, used: Sequence[int]) -> list[str]:
    """List words of the classes used, the backgrounds and the templates that a model never read.

    Args:
        prompts: the words.
        unknown: text to its unknown words, such as ``clip.unknown_words``.
        used: indices of the classes that are asked about.
    """
    texts = [*(prompts.phrases[i] for i in used), *prompts.backgrounds]
    texts += [template.replace("{}", " ") for template in prompts.templates]
    return list(dict.fromkeys(word for text in texts for word in unknown(text)))


class WordBoxes:
    """A text box for each of ``FIELDS``, which is read once its typist pauses.

    Args:
        typed: called with a field and its text after a pause.

    Attributes:
        boxes: field to its box.
        rows: how they stand on the panel.
    """

    def __init__(self, typed: Callable[[str, str], None]) -> None:
        self.boxes: dict[str, Any] = {}
        self._typed, self._typing, self._filling = typed, "", False
        self._filled: dict[str, str] = dict.fromkeys(FIELDS, "")
        for field, (kind, label, width, hint) in _BOXES.items():
            look = {"style": NARROW, "layout": {"width": width}}
            box = self.boxes[field] = kind(description=label, **look)
            box.tooltip = box.placeholder = hint
            box.observe(self._listening(field), "value")
        *line, backgrounds = self.boxes.values()
        backgrounds.rows = 2
        self.rows = [row(line), backgrounds]

    def _listening(self, field: str) -> Callable[[Any], None]:
        def paused(text: str) -> None:
            self._typing = field
            self._typed(field, text)
            self._typing = ""

        wait = Debounced(paused)
        return lambda change: None if self._filling else wait(change.new)

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


def probability_bars(
    names: Sequence[str], words: Sequence[str], asked: Sequence[str], probs: Tensor
) -> dict[str, Any]:
    """Describe what CLIP takes an image for, as arguments of `Bars.show`.

    Args:
        names: of the classes present.
        words: all background words.
        asked: those that are on.
        probs: of the names, then of the words that are on.
    """
    percents = dict(zip([*names, *asked], (100 * probs).tolist(), strict=True))
    rows = []
    for name in names:
        text = f"{name}: probability {percents[name]:.1f} %"
        rows.append(bar(name, percents[name], 0, 100, style="class", said=text))
    for word in words:
        p, is_off = percents.get(word, math.nan), word not in percents
        text = f"{word}: {'off' if is_off else f'probability {p:.1f} %'}, press to switch"
        rows.append(bar(word, p, 0, 100, style="word", said=text, off=is_off))
    return {"title": "what CLIP takes the picture for, percent", "rows": rows}


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
        text, said = "-", f"{name}: no {column}"
        if not math.isnan(value):
            now, change = f"{value:.{digits}f}", f"{value - start[column][name]:+.{digits}f}"
            text, said = f"{now} ({change})", f"{name}: {column} {now}, changed by {change}"
        rows.append(bar(name, value, 0, high, style="class", text=text, said=said))
    unit = "IoU, percent" if column == "iou" else "sharpness, low is good"
    return {"title": f"{unit} (change since the start)", "rows": rows}


def scores_in_words(table: pd.DataFrame, start: pd.DataFrame) -> str:
    """Write the means over the classes and their changes; tables as for `score_bars`."""
    now = table.loc["mean"]
    change = now - start.loc["mean"]
    iou = ""
    if "iou" in table:
        iou = f"mIoU {now['iou']:.1f} % ({change['iou']:+.1f} since the start), "
    sharpness = f"{now['sharpness']:.4f} ({change['sharpness']:+.4f}; low is good)"
    return f"{iou}sharpness {sharpness}."


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
        said = f"{word}: worth {text}, press to switch"
        rows.append(bar(word, value, -limit, limit, said=said, **look))
    title = f"what each word is worth in {'mIoU, points' if is_scored else 'sharpness'}"
    return {"title": title, "rows": rows, "zero": 0.5, "legend": ("needed", "in the way")}
