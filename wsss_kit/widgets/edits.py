"""Prompts as text boxes have them: words apart by commas, and what was there before an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsss_kit.prompts import Prompts

FIELDS = ("name", "synonyms", "template", "backgrounds")
"""The text boxes: name and synonyms of one class, template, background words."""
_MOST_STEPS = 200


def words_of(text: str) -> list[str]:
    """Words that commas or lines keep apart, without empty ones.

    Example:
        >>> words_of("grass,  sky,, open sea")
        ['grass', 'sky', 'open sea']
    """
    parts = text.replace("\n", ",").split(",")
    return [" ".join(part.split()) for part in parts if part.strip()]


def templates_of(text: str) -> str | list[str]:
    """One template, or several that a bar keeps apart.

    Example:
        >>> templates_of("a {}"), templates_of("a photo of {} | one {}")
        ('a {}', ['a photo of {}', 'one {}'])
    """
    parts = [part.strip() for part in text.split("|") if part.strip()]
    return parts if len(parts) > 1 else "".join(parts)


def edited(prompts: Prompts, field: str, text: str, *, index: int) -> Prompts:
    """The prompts after an edit of one text box.

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
        said = words_of(text)
        synonyms = {k: v for k, v in prompts.synonyms.items() if k != old}
        if said and said != [old]:
            synonyms[old] = said
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
    """The prompts with other background words; what a class has of those that go goes with them.

    Example:
        >>> prompts = with_backgrounds(Prompts.paper(method="clims"), ["sky", "fog"])
        >>> dict(prompts.class_backgrounds)
        {'plane': ('sky',)}
    """
    kept = {c: [w for w in own if w in words] for c, own in prompts.class_backgrounds.items()}
    related = {c: own for c, own in kept.items() if own}
    return prompts.replace(backgrounds=list(words), class_backgrounds=related)


def as_text(prompts: Prompts, field: str, *, index: int) -> str:
    """What a text box holds for these prompts; see `edited`.

    Example:
        >>> as_text(Prompts.voc(), "synonyms", index=14)
        'person with clothes, people, human'
    """
    name = prompts.classes[index]
    if field == "name":
        return name
    if field == "synonyms":
        return ", ".join(words_of(prompts.synonyms.get(name, "")))
    if field == "template":
        return " | ".join(prompts.templates)
    return ", ".join(prompts.backgrounds)


class History:
    """Prompts that were there before, and those that were undone.

    Example:
        >>> history, a = History(), Prompts(["cat"], ["sea"], template="a {}")
        >>> b = a.replace(template="one {}")
        >>> history.remember(a)
        >>> history.undo(b) == a, history.redo(a) == b
        (True, True)
    """

    def __init__(self) -> None:
        self._past: list[Prompts] = []
        self._future: list[Prompts] = []

    def remember(self, before: Prompts) -> None:
        """Keep what an edit is about to replace."""
        self._past = [*self._past, before][-_MOST_STEPS:]
        self._future = []

    @property
    def last(self) -> Prompts | None:
        """What was there before the last edit."""
        return self._past[-1] if self._past else None

    def undo(self, now: Prompts) -> Prompts:
        """What was there before ``now``.

        Raises:
            ValueError: if nothing was edited.
        """
        return self._step(self._past, self._future, now, "undo")

    def redo(self, now: Prompts) -> Prompts:
        """What was undone last.

        Raises:
            ValueError: if nothing was undone since the last edit.
        """
        return self._step(self._future, self._past, now, "redo")

    @staticmethod
    def _step(source: list, target: list, now: Prompts, what: str) -> Prompts:
        if not source:
            raise ValueError(f"there is nothing to {what}")
        target.append(now)
        return source.pop()


def unknown_in(prompts: Prompts, unknown: Any, used: Sequence[int]) -> list[str]:
    """Words of the classes used, the backgrounds and the templates that a model never read.

    Args:
        prompts: the words.
        unknown: text to its unknown words, such as ``clip.unknown_words``.
        used: indices of the classes that are asked about.
    """
    said = [*(prompts.phrases[i] for i in used), *prompts.backgrounds]
    said += [template.replace("{}", " ") for template in prompts.templates]
    return list(dict.fromkeys(word for text in said for word in unknown(text)))
