"""Prompts of a vision-language model: class names, synonyms, backgrounds, templates.

The published lists are in ``tables.json`` beside this file, each with its source.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from wsss_kit.checks import check_word
from wsss_kit.classes import COCO_CLASSES, PAPER_CLASSES, VOC_CLASSES
from wsss_kit.files import write_whole
from wsss_kit.prompts import checks

TABLES = Path(__file__).with_name("tables.json")
FUSIONS = ("sentence", "feature")
"""Several synonyms of a class in one text, as published, or the mean of their embeddings."""


@dataclass(frozen=True, repr=False)
class Prompts:
    """Hold the prompts of one task, checked and frozen; they compare, hash and pickle by value.

    A phrase fills the template, a class name stands in reports and masks; a synonym changes the
    phrase and never the name. Several synonyms of a class share one prompt, joined by commas, or
    each has its own.

    Args:
        classes: C different class names, in the order of the mask values.
        backgrounds: P different background prompts.
        template: text with exactly one ``{}``, or several such texts, whose embeddings the caller
            averages. Several are kept as a tuple, one as a string.
        synonyms: class name to the phrase, or phrases, that replace it.
        class_backgrounds: class name to those of ``backgrounds`` that come with it (CLIMS).
        fusion: how several synonyms of a class become one embedding: ``"sentence"``, all in one
            prompt, as CLIP-ES published it, or ``"feature"``, each in its own and the embeddings
            averaged.

    Raises:
        ValueError: if a list is empty or has an entry twice (upper and lower case do not differ
            for CLIP), a template has not exactly one ``{}``, a mapping names no class, or a word
            of ``class_backgrounds`` is not among ``backgrounds``.

    Example:
        >>> prompts = Prompts(
        ...     ["cat", "person"], ["sea"], template="a {}.", synonyms={"person": ["people", "man"]}
        ... )
        >>> prompts.classes, prompts.class_texts(), prompts.background_texts()
        (('cat', 'person'), ['a cat.', 'a people,man.'], ['a sea.'])
        >>> prompts
        Prompts(2 classes: cat, person; 1 background; template 'a {}.')
    """

    classes: tuple[str, ...]
    backgrounds: tuple[str, ...]
    _: KW_ONLY
    template: str | tuple[str, ...]
    synonyms: Mapping[str, str] = field(default_factory=dict)
    class_backgrounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fusion: str = "sentence"

    def __post_init__(self) -> None:
        check_word("fusion", self.fusion, FUSIONS)
        classes = checks.checked_words(self.classes, "classes")
        backgrounds = checks.checked_words(self.backgrounds, "backgrounds")
        checked: dict[str, Any] = {"classes": classes, "backgrounds": backgrounds}
        checked["template"] = checks.checked_template(self.template)
        related = functools.partial(checks.checked_words, among=backgrounds)
        for name, check in (("synonyms", checks.checked_phrase), ("class_backgrounds", related)):
            checked[name] = checks.checked_by_class(getattr(self, name), name, classes, check)
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def __hash__(self) -> int:
        return hash(self.to_json())  # holds all fields

    def __reduce__(self) -> tuple[Callable[[str], Prompts], tuple[str]]:
        return type(self).from_json, (self.to_json(),)  # read-only mappings do not pickle

    def __repr__(self) -> str:
        C, P = len(self.classes), len(self.backgrounds)
        names = ", ".join(self.classes[:3]) + (", ..." if C > 3 else "")
        one = isinstance(self.template, str)
        template = f"template {self.template!r}" if one else f"{len(self.template)} templates"
        classes = f"{C} class{'es' if C > 1 else ''}: {names}"
        return f"Prompts({classes}; {P} background{'s' if P > 1 else ''}; {template})"

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates as a tuple, also where there is one."""
        return (self.template,) if isinstance(self.template, str) else self.template

    @property
    def phrases(self) -> tuple[str, ...]:
        """For each class its synonym, or its name where there is none."""
        return tuple(self.synonyms.get(name, name) for name in self.classes)

    def class_texts(self, template: str | None = None) -> list[str]:
        """Fill a template with the C class phrases.

        Args:
            template: which one; needed only where there are several. Average over
                ``[clip.encode_text(prompts.class_texts(each)) for each in prompts.templates]``.

        Returns:
            C texts in the order of ``classes``.

        Raises:
            ValueError: if there are several templates and none is given, or it is no template.
        """
        return self._fill(self.phrases, template)

    def background_texts(self, template: str | None = None) -> list[str]:
        """Fill a template with the P backgrounds; see ``class_texts``."""
        return self._fill(self.backgrounds, template)

    def class_sentences(self) -> list[tuple[str, ...]]:
        """Write all texts of each class: one a template, and one a synonym with ``"feature"``.

        ``clip.encode_sentences`` makes one embedding of each.

        Example:
            >>> prompts = Prompts(["cat"], ["sea"], template=["a {}", "one {}"], fusion="feature")
            >>> prompts.replace(synonyms={"cat": ["kitten", "tabby"]}).class_sentences()
            [('a kitten', 'a tabby', 'one kitten', 'one tabby')]
        """
        separator = r"\s*,\s*" if self.fusion == "feature" else "$"
        parts = (re.split(separator, phrase) for phrase in self.phrases)
        return [self._sentences(list(filter(None, each))) for each in parts]

    def background_sentences(self) -> list[tuple[str, ...]]:
        """Write all texts of each background; see ``class_sentences``."""
        return [self._sentences([word]) for word in self.backgrounds]

    def _sentences(self, phrases: Sequence[str]) -> tuple[str, ...]:
        return tuple(text for each in self.templates for text in self._fill(phrases, each))

    def _fill(self, phrases: Sequence[str], template: str | None) -> list[str]:
        if template is None and len(self.templates) > 1:
            expected = f"one of the {len(self.templates)} of prompts.templates"
            raise ValueError(f"no template given, expected {expected}; average over them")
        chosen = self.templates[0] if template is None else checks.one_template(template)
        return [chosen.replace("{}", phrase) for phrase in phrases]

    def backgrounds_of(self, name: str) -> tuple[str, ...]:
        """Return the backgrounds related to a class, which CLIMS keeps out of its maps.

        Without any ``class_backgrounds`` every class has all ``backgrounds`` (the released CLIMS);
        with some, a class that they leave out has none (the CLIMS paper).

        Raises:
            ValueError: if there is no such class.

        Example:
            >>> prompts = Prompts.paper(method="clims")
            >>> prompts = prompts.replace(class_backgrounds={"boat": ["water", "sky"]})
            >>> prompts.backgrounds_of("boat"), prompts.backgrounds_of("cat")
            (('water', 'sky'), ())
        """
        checks.check_known([name], "there is no class", self.classes)
        return self.class_backgrounds.get(name, ()) if self.class_backgrounds else self.backgrounds

    @classmethod
    def voc(cls, method: str = "clip_es") -> Prompts:
        """Load the published prompts for the 20 classes of PASCAL VOC.

        Args:
            method: ``"clip_es"`` (25 backgrounds) or ``"clims"`` (10, of the improved version,
                where a person is a player).

        Example:
            >>> Prompts.voc(method="clims").phrases[-6:]
            ('player', 'potted plant', 'sheep', 'sofa', 'train', 'tv monitor')
        """
        return cls(VOC_CLASSES, **_table(method, "voc"))

    @classmethod
    def coco(cls, method: str = "clip_es") -> Prompts:
        """Load the published prompts for the 80 classes of COCO.

        Args:
            method: ``"clip_es"`` (23 backgrounds; of a snowboard it says ``sknowboard``, as
                released) or ``"clims"`` (88).

        Example:
            >>> Prompts.coco(method="clims").phrases[:2]
            ('player', 'bicycle')
        """
        return cls(COCO_CLASSES, **_table(method, "coco"))

    @classmethod
    def paper(cls, method: str = "clip_es") -> Prompts:
        """Load the prompts for the embedded world: 8 classes, its twelve background kinds.

        With ``"clims"`` a class's related background is its home.

        Example:
            >>> Prompts.paper(method="clims").backgrounds_of("camel")
            ('sand',)
        """
        return cls(PAPER_CLASSES, **_table(method, "paper"))

    @classmethod
    def for_classes(cls, names: Sequence[str], method: str = "clip_es") -> Prompts:
        """Make prompts for your own classes with the backgrounds of CLIP-ES that are none of them.

        A background is left out if its words are within a class name or the other way round:
        ``sign`` for the class ``stop sign``. An underscore in a name becomes a space.

        Args:
            names: your class names, in the order of the mask values.
            method: whose template, ``"clip_es"`` or ``"clims"``.

        Raises:
            ValueError: if the names are not different words, or leave no background.

        Example:
            >>> prompts = Prompts.for_classes(["tree_house", "dog"])
            >>> prompts.class_texts()
            ['a clean origami tree house.', 'a clean origami dog.']
            >>> {"tree", "house"} & set(prompts.backgrounds), "sky" in prompts.backgrounds
            (set(), True)
        """
        names = checks.checked_words(names, "names")
        voc, coco = (_table("clip_es", data)["backgrounds"] for data in ("voc", "coco"))
        plain = [re.sub(r"[\W_]+", " ", name.casefold()).strip() for name in names]
        backgrounds = [
            word
            for word in dict.fromkeys([*voc, *coco])  # each once, in order
            if not any(f" {word} " in f" {name} " or f" {name} " in f" {word} " for name in plain)
        ]
        if not backgrounds:
            advice = "write Prompts(names, backgrounds, template=...) with your own"
            raise ValueError(f"names leave none of the published backgrounds; {advice}")
        spoken = {name: " ".join(name.replace("_", " ").split()) for name in names}
        synonyms = {name: phrase for name, phrase in spoken.items() if phrase not in ("", name)}
        template = _table(method, "voc")["template"]
        return cls(names, tuple(backgrounds), template=template, synonyms=synonyms)

    def replace(self, **changes: Any) -> Prompts:
        """Return new prompts with some arguments of ``Prompts`` changed.

        Raises:
            ValueError: if there is no such argument, or as for ``Prompts``.

        Example:
            >>> Prompts.voc().replace(template="a photo of {}.").class_texts()[0]
            'a photo of aeroplane.'
        """
        checks.check_keys(changes, FIELDS)
        return dataclasses.replace(self, **changes)

    def with_backgrounds(self, words: Sequence[str]) -> Prompts:
        """Return prompts with these backgrounds alone, also among those related to a class.

        Example:
            >>> prompts = Prompts.paper(method="clims").with_backgrounds(["sand", "sky"])
            >>> prompts.backgrounds, prompts.backgrounds_of("camel"), prompts.backgrounds_of("cat")
            (('sand', 'sky'), ('sand',), ())
        """
        by_class = {c: [w for w in of if w in words] for c, of in self.class_backgrounds.items()}
        by_class = {name: of for name, of in by_class.items() if of}
        return self.replace(backgrounds=list(words), class_backgrounds=by_class)

    def to_json(
        self, path: str | Path | None = None, *, made_by: Mapping[str, Any] | None = None
    ) -> str:
        """Write the prompts as JSON text for ``from_json``, also to a file if ``path`` is given.

        Args:
            path: of the file, or None.
            made_by: what they come from, for people; ``from_json`` reads over it.

        Example:
            >>> Prompts.from_json(Prompts.coco().to_json()) == Prompts.coco()
            True
        """
        values = {name: getattr(self, name) for name in FIELDS}
        if self.fusion == FUSIONS[0]:
            del values["fusion"]  # as published: what older versions wrote and read
        values |= {"made_by": made_by} if made_by else {}
        text = json.dumps(values, indent=2, ensure_ascii=False, default=dict) + "\n"
        if path is not None:
            write_whole(path, text)
        return text

    @classmethod
    def from_json(cls, path_or_text: str | Path) -> Prompts:
        """Read prompts from a file, or from the text itself if it begins with a bracket.

        ``synonyms`` and ``class_backgrounds`` may be left out.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no JSON, lacks a key or has an unknown one, or as for ``Prompts``.

        Example:
            >>> text = '{"classes": ["cat"], "backgrounds": ["sea"], "template": "a {}"}'
            >>> Prompts.from_json(text)
            Prompts(1 class: cat; 1 background; template 'a {}')
        """
        is_text = isinstance(path_or_text, str) and path_or_text.lstrip()[:1] in ("", "{", "[")
        source = "the text" if is_text else str(path_or_text)
        if not is_text and not os.path.isfile(path_or_text):
            advice = "write one with prompts.to_json, or pass JSON text, which begins with {"
            raise FileNotFoundError(f"no file {source}; {advice}")
        try:
            text = path_or_text if is_text else Path(path_or_text).read_text("utf-8-sig")
            values = json.loads(text)
            required = ("classes", "backgrounds", "template")
            checks.check_keys(values, (*FIELDS, "made_by"), required=required)
            values.pop("made_by", None)
            return cls(**values)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{source} is not JSON in UTF-8 ({error}); correct it") from error
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error


FIELDS = tuple(each.name for each in dataclasses.fields(Prompts))


def _table(method: str, data: str) -> dict[str, Any]:
    """Load a method's published arguments of ``Prompts`` for a data set, without the classes."""
    tables = json.loads(TABLES.read_text("utf-8"))
    checks.check_known([method], "there are no prompts for the method", tables)
    return {key: value for key, value in tables[method][data].items() if key != "source"}
