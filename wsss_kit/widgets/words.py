"""The words of the prompt lab: their edits, their text boxes and their files.

In text boxes commas or semicolons stand between words, and bars between templates.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets

from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import check_places, checked_words
from wsss_kit.widgets.instrument import Instrument, Slices, look

# of one class its name and synonyms; of all, template and background words
_BOXES = {  # kind of box, label, width, hint
    "name": (widgets.Text, "say", "200px", "the class's name"),
    "synonyms": (widgets.Text, "or as", "320px", "said instead of the name; several with commas"),
    "template": (widgets.Text, "template", "340px", "one {} for the word; several with | between"),
    "backgrounds": (widgets.Textarea, "background", "auto", "words for no class, with commas"),
}
FIELDS = tuple(_BOXES)


def words_of(text: str) -> list[str]:
    """Split text at commas, semicolons and lines into words, without empty ones.

    Example:
        >>> words_of("grass,  sky;, open sea、fog")
        ['grass', 'sky', 'open sea', 'fog']
    """
    parts = re.split("[,;\n，；、]", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def templates_of(text: str) -> str | list[str]:
    """Read one template, or several that a bar keeps apart.

    Example:
        >>> templates_of("a {}"), templates_of("a photo of {} | one {}")
        ('a {}', ['a photo of {}', 'one {}'])
    """
    parts = [part.strip() for part in re.split("[|｜]", text) if part.strip()]
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
        return prompts.with_backgrounds(words_of(text))
    old = prompts.classes[index]
    if field == "synonyms":
        synonyms: dict[str, Any] = {k: v for k, v in prompts.synonyms.items() if k != old}
        if words_of(text) not in ([], [old]):
            synonyms[old] = words_of(text)
        return prompts.replace(synonyms=synonyms)
    names = {name: name for name in prompts.classes} | {old: text.strip()}
    tables = {"synonyms": prompts.synonyms, "class_backgrounds": prompts.class_backgrounds}
    return prompts.replace(
        classes=[*names.values()],
        **{key: {names[k]: v for k, v in table.items()} for key, table in tables.items()},
    )


def as_text(prompts: Prompts, field: str, *, index: int) -> str:
    """Return what a text box holds for these prompts; see `edited`."""
    name = prompts.classes[index]
    return {
        "name": name,
        "synonyms": ", ".join(words_of(prompts.synonyms.get(name, ""))),
        "template": " | ".join(prompts.templates),
        "backgrounds": ", ".join(prompts.backgrounds),
    }[field]


class PromptEditor(Instrument):
    """An instrument for prompts, their edits and their files.

    The boxes hold the words of the class ``class_name``.

    Args:
        start: prompts to begin with.
        index: of the class to begin with.
        **state: other traits.
    """

    prompts = traitlets.Instance(Prompts)
    off = traitlets.Tuple()

    def __init__(self, start: Prompts, index: int, **state: Any) -> None:
        self.start, self._index = start, index
        self._past, self._future = [], []  # prompts before edits, and those that were undone
        self._asked: Path | None = None  # a file that Save would overwrite, which was asked about
        super().__init__(prompts=start, class_name=start.classes[index], **state)
        self._boxes = {field: self._word_box(field) for field in FIELDS}
        self._typing, self._filled = "", dict.fromkeys(FIELDS, "")

    def _word_box(self, field: str) -> Any:
        """Build a text box, which is read once its typist pauses."""
        widget, label, width, hint = _BOXES[field]
        box = widget(tooltip=hint, placeholder=hint, **look(label, width))
        pauses = Slices(self._failed)

        def read(text: str) -> None:
            self._typing = field
            self._answer(self.edit, field, text)
            self._typing = ""

        def typed(change: Any) -> None:
            if not self._busy:
                pauses.start(map(read, [change.new]), 0.35)

        box.observe(typed, "value")
        return box

    def _file_controls(self) -> list[widgets.Widget]:
        """Build the buttons of edits, and those of files with the name of the file."""
        self._file = widgets.Text("my_prompts.json", tooltip="where Save writes", **look("file"))
        self._load = self._file_button("Load", ".json", self._load_file, "88px")
        actions = {"Undo": self.undo, "Redo": self.redo, "Start": self._back_to_start}
        buttons = [self._button(name, action) for name, action in actions.items()]
        files = [self._button("Save", self._save), self._load]
        return [widgets.HBox(buttons), self._file, widgets.HBox(files)]

    def _follow(self) -> None:
        """Put the prompts into their boxes as well, but not into the one that is typed in.

        A box is written only where its words have become others by other means than its typist.
        """
        super()._follow()
        for field, box in self._boxes.items():
            text = as_text(self.prompts, field, index=self._index)
            if text != self._filled[field]:
                self._filled[field] = text
                if field != self._typing:
                    box.value = text

    @traitlets.validate("prompts", "off")
    def _fit(self, proposal: Any) -> Any:
        check = {"prompts": self._checked_prompts, "off": self._checked_off}
        try:
            return check[proposal["trait"].name](proposal["value"])
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error

    def _checked_prompts(self, prompts: Prompts) -> Prompts:
        check_places(prompts.classes, self.start.classes, "the prompts")
        names = words_of(",".join([*prompts.classes, *prompts.phrases]).casefold())
        if both := [word for word in prompts.backgrounds if word.casefold() in names]:
            problem = f"{both[0]!r} is a class and a background word, and would compete with itself"
            raise ValueError(f"{problem}; take it out of one of the two")
        return prompts

    def _checked_off(self, off: Sequence[str]) -> tuple[str, ...]:
        words = self.prompts.backgrounds
        off = checked_words(tuple(off), "off", among=words) if off else ()
        if len(off) == len(words):
            raise ValueError(f"all {len(words)} background words would be off, expected one on")
        return off

    @property
    def asked(self) -> Prompts:
        """Prompts without the words that are off."""
        on = [word for word in self.prompts.backgrounds if word not in self.off]
        return self.prompts.with_backgrounds(on) if self.off else self.prompts

    def edit(self, field: str, text: str) -> None:
        """Change a part of the prompts, as its text box does.

        Args:
            field: ``"name"`` or ``"synonyms"`` of the class shown, ``"template"``,
                ``"backgrounds"``.
            text: words with commas between them, templates with bars.

        Raises:
            ValueError: if there is no such field, or the words do not go together.
        """
        if field not in FIELDS:
            raise ValueError(f"there is no field {field!r}, expected one of {', '.join(FIELDS)}")
        self._become(edited(self.prompts, field, text, index=self._index))

    def undo(self) -> None:
        """Take the last edit back.

        Raises:
            ValueError: if nothing was edited.
        """
        self._step("undo", self._past, self._future)

    def redo(self) -> None:
        """Make an undone edit again.

        Raises:
            ValueError: if nothing was undone since the last edit.
        """
        self._step("redo", self._future, self._past)

    def _step(self, what: str, source: list[Prompts], target: list[Prompts]) -> None:
        if not source:
            raise ValueError(f"there is nothing to {what}")
        target.append(self.prompts)
        self._become(source.pop(), remember=False)

    def _remember(self, before: Prompts) -> None:
        """Keep what an edit is about to replace."""
        self._past = [*self._past, before][-200:]  # more would only fill the memory
        self._future = []

    def _back_to_start(self) -> None:
        self.off = ()
        self._become(self.start)

    def save(self, path: str | Path) -> None:
        """Write what is asked as JSON, without the words that are off; `load` reads it."""
        self.asked.to_json(path)

    def load(self, path_or_text: Any) -> None:
        """Take over prompts from a file or a text that `Prompts.to_json` wrote.

        Raises:
            ValueError: if it is none, or has another number of classes.
            FileNotFoundError: if there is no such file.
        """
        self._become(Prompts.from_json(path_or_text))

    def _save(self) -> None:
        """Save under the name in the box; a file that is there needs a second press."""
        if not self._file.value.strip():
            raise ValueError("the file has no name; write one beside 'file'")
        path = Path(self._file.value.strip()).resolve()
        if path.exists() and path != self._asked:
            self._asked = path
            raise ValueError(f"{path} is there already; press Save again to overwrite it")
        self.save(path)
        self._asked, self.words = None, f"Saved as {path}."

    def _load_file(self, name: str, content: bytes) -> None:
        try:
            start = content[:99].decode("utf-8-sig", "replace").lstrip()[:20]
            if not start.startswith("{"):
                raise ValueError(f"it begins with {start!r}, expected {{; choose another file")
            self.load(content.decode("utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{name} has no prompts for this lab: {error}") from error
        self._file.value = name
        names = zip(self.start.classes, self.prompts.classes, strict=True)
        renamed = ", ".join(f"{old} to {new}" for old, new in names if old != new)
        self.words += f" {name} is loaded{renamed and f'; it renames {renamed}'}."

    def _become(self, prompts: Prompts, *, remember: bool = True) -> None:
        """Take over other prompts, from wherever they come."""
        self._checked_prompts(prompts)
        if remember and prompts != self.prompts:
            self._remember(self.prompts)
        self._answer(self._change, "prompts", prompts)
