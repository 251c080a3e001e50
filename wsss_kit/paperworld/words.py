"""Descriptions of images and their words: captions in plain English, the tiny CLIP's tokenizer.

A description is all that captions and labels are made from, so neither ever depends on pixels.
Positions and sizes are in units of the image's side, y downwards.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from unicodedata import category

import torch
from torch import Tensor

from wsss_kit.classes import PAPER_CLASSES

Item = TypeVar("Item")


class Dice:
    """A stream of random choices named by a text, the same on every platform and version.

    Python promises that ``random.Random(text).random()`` keeps its sequence for good; NumPy's
    generators and Python's own ``choice`` and ``shuffle`` do not promise that. So everything the
    world decides goes through ``random()`` alone.

    Args:
        name: any text; equal names give equal streams.

    Example:
        >>> Dice("web/0/7").integer(10) == Dice("web/0/7").integer(10)
        True
    """

    def __init__(self, name: str) -> None:
        self._random = random.Random(name).random

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high); a reversed range is allowed."""
        return low + (high - low) * self._random()

    def bell(self, spread: float) -> float:
        """Return a number near 0 with standard deviation ``spread``, never beyond three of them."""
        return spread * 2.0 * (self._random() + self._random() + self._random() - 1.5)

    def integer(self, bound: int) -> int:
        """Return an integer in 0 .. bound - 1."""
        return int(self._random() * bound)

    def pick(self, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
        """Return one of the items, evenly or by weights that sum to 1."""
        if weights is None:
            return items[self.integer(len(items))]
        mark = self._random()
        for item, weight in zip(items, weights, strict=True):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def draw(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return ``count`` different items in random order."""
        pool = list(items)
        return [pool.pop(self.integer(len(pool))) for _ in range(count)]


@dataclass(frozen=True)
class Band:
    """A strip of background from ``top`` down to the next band."""

    stuff: str
    top: float


@dataclass(frozen=True)
class Thing:
    """One object: its class and sub-type, the middle and ground of its frame, its width.

    A torn one is drawn without its signature part.
    """

    name: str
    subtype: str
    x: float
    ground: float
    width: float
    mirrored: bool
    turn: float
    torn: bool = False


@dataclass(frozen=True)
class Hole:
    """An ellipse of the image that is cut away, leaving ``light`` of it."""

    x: float
    y: float
    rx: float
    ry: float
    light: float


@dataclass(frozen=True)
class Scene:
    """The description of one image.

    Args:
        kind: one of ``KINDS``.
        bands: background from top to bottom; empty for a cut-out on plain paper.
        things: objects, the farthest first.
        plain: RGB of the plain paper behind a cut-out.
        holes: cut away from the whole image.
        background_holes: cut away from the background, behind the objects.
        light: brightness of the whole image, 1 for daylight.
    """

    kind: str
    bands: tuple[Band, ...] = ()
    things: tuple[Thing, ...] = ()
    plain: tuple[float, ...] | None = None
    holes: tuple[Hole, ...] = ()
    background_holes: tuple[Hole, ...] = ()
    light: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the image, in the order of the class list."""
        present = {thing.name for thing in self.things}
        return tuple(name for name in PAPER_CLASSES if name in present)


VEHICLE_STYLES = ("wooden", "red", "striped")
ANIMAL_STYLES = ("spotted", "golden", "grey")

SUBTYPES = dict.fromkeys(PAPER_CLASSES[:4], VEHICLE_STYLES)
SUBTYPES |= dict.fromkeys(PAPER_CLASSES[4:], ANIMAL_STYLES)
"""Sub-types of each class: the style of its body. A style is shared by four classes, so a patch
of body tells the sub-type and, but for its outline, not the class; the signature part does."""

_HOMES = ("water", "rails", "sky", "road", "grass", "sand", "leaves", "carpet")
HOME = dict(zip(PAPER_CLASSES, _HOMES, strict=True))
"""The usual background of each class: what it co-occurs with in the task's splits."""

NEUTRAL = ("bricks", "snow", "stone", "fog")
"""Background kinds that no class calls home."""

STUFF = (*HOME.values(), *NEUTRAL)
"""The twelve background kinds; a stuff map holds indices into this tuple, 255 elsewhere."""

_SECOND = ("ship", "railcar", "airplane", "coach", "bull", "dromedary", "songbird", "kitten")
NOUNS = {first: (first, second) for first, second in zip(PAPER_CLASSES, _SECOND, strict=True)}
"""Each class's own word and a second one that captions use less often."""

PLURALS = {"bus": "buses", "coach": "coaches", "dromedary": "dromedaries"}
"""Irregular plurals; every other noun takes an s."""

_PREPOSITIONS = {"sky": "in", "leaves": "in", "snow": "in", "fog": "in", "bricks": "by"}
PLACES = {kind: f"{_PREPOSITIONS.get(kind, 'on')} the {kind}" for kind in STUFF}
"""How a caption says that something is there."""

_OPENINGS = ("a photo of", "a photo of", "a picture of", "an image of", "", "")
_NUMBERS = {2: "two", 3: "three"}


def plural(noun: str) -> str:
    """Return the plural of a noun of this world.

    Example:
        >>> plural("bus"), plural("cat")
        ('buses', 'cats')
    """
    return PLURALS.get(noun, noun + "s")


def caption(scene: Scene, dice: Dice) -> str:
    """Write the caption of a scene.

    Args:
        scene: the description.
        dice: chooses among ways to say it.

    Returns:
        Lower-case words separated by single spaces.

    Example:
        >>> from wsss_kit.paperworld.words import Band, Dice, Scene
        >>> caption(Scene("background", (Band("fog", 0.0),)), Dice("plain"))
        'fog texture'
    """
    opening = dice.pick(_OPENINGS)
    names = " and ".join(_noun_phrase(scene, name, dice) for name in scene.classes)
    if not names:
        return _joined(opening, _background_phrase(scene, dice))
    if scene.kind == "cutout":
        opening = dice.pick((opening, "a clean cutout of"))
        ending = dice.pick(("", "on a plain background", "cut out", "without background"))
        return _joined(opening, names, ending)
    ending = dice.pick(("", "without background")) if scene.kind == "collage" else ""
    return _joined(opening, names, ending or _place_phrase(scene, dice))


def _joined(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _noun_phrase(scene: Scene, name: str, dice: Dice) -> str:
    things = [thing for thing in scene.things if thing.name == name]
    noun = dice.pick(NOUNS[name], (0.7, 0.3))
    styles = {thing.subtype for thing in things}
    style = f"{things[0].subtype} " if len(styles) == 1 and dice.chance(0.5) else ""
    if len(things) == 1:
        article = "an" if (style or noun)[0] in "aeiou" else "a"
        return f"{article} {style}{noun}"
    number = _NUMBERS[len(things)] if dice.chance(0.8) else "some"
    return f"{number} {style}{plural(noun)}"


def _background_phrase(scene: Scene, dice: Dice) -> str:
    kinds = dice.draw([band.stuff for band in scene.bands], len(scene.bands))
    names = " and ".join(f"the {stuff}" if dice.chance(0.3) else stuff for stuff in kinds)
    ending = dice.pick(("", "", "texture", "background")) if len(kinds) == 1 else ""
    return _joined(names, ending)


def _place_phrase(scene: Scene, dice: Dice) -> str:
    if not dice.chance(0.75):
        return ""
    kinds = list(dict.fromkeys(band.stuff for band in scene.bands))
    homes = [stuff for stuff in kinds if stuff in HOME.values()] or kinds
    place = dice.pick(homes)
    others = [stuff for stuff in kinds if stuff != place]
    more = f"with {dice.pick(others)}" if others and dice.chance(0.5) else ""
    return _joined(PLACES[place], more)


PAD, UNKNOWN = 0, 1
_FUNCTION_WORDS = """a an the of and in on by with photo picture image clean cutout cut out plain
background without texture two three some""".split()


def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption of the embedded world can hold, after two special ones."""
    nouns = [noun for name in PAPER_CLASSES for noun in NOUNS[name]]
    styles = [style for name in PAPER_CLASSES for style in SUBTYPES[name]]
    places = " ".join(PLACES[stuff] for stuff in STUFF).split()
    words = [*_FUNCTION_WORDS, *nouns, *map(plural, nouns), *styles, *STUFF, *places]
    return ("<pad>", "<unknown>", *dict.fromkeys(words))


class WordTokenizer:
    """Texts to token ids: start, one id a word, end; the end has the highest id.

    Args:
        words: the vocabulary; by default the embedded world's.
        context_length: ids per text, start and end included; longer texts are cut.

    Example:
        >>> tokenizer = WordTokenizer()
        >>> tokenizer(["a cat", "a zebra"])[:, :4].tolist()
        [[75, 2, 39, 76], [75, 2, 1, 76]]
        >>> tokenizer.unknown("a zebra on the water, कुत्ता, 🐕")
        ['zebra', 'कुत्ता', '🐕']
    """

    def __init__(self, words: Sequence[str] | None = None, context_length: int = 20) -> None:
        self.words = tuple(words) if words is not None else vocabulary()
        self.context_length = context_length
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.start, self.end = len(self.words), len(self.words) + 1
        self.vocab_size = len(self.words) + 2

    @staticmethod
    def _split(text: str) -> list[str]:
        """Divide at spaces and punctuation; vowel signs and emoji belong to words."""
        kept = (c.isalnum() or (c > "\x7f" and category(c)[0] in "LMNS") for c in text.lower())
        return "".join(c if k else " " for c, k in zip(text.lower(), kept, strict=True)).split()

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Return the ids of one text or of P texts: (P, context_length) int64, zero padded."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.full((len(texts), self.context_length), PAD, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            kept = [self.start, *self.encode(text)[: self.context_length - 2], self.end]
            row[: len(kept)] = torch.tensor(kept)
        return ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's words, all of them, without start and end."""
        return [self._ids.get(word, UNKNOWN) for word in self._split(text)]

    def unknown(self, text: str) -> list[str]:
        """List the words of a text that no caption held; the model cannot know their meaning."""
        return [word for word in self._split(text) if word not in self._ids]
