"""Captions in plain English, said of the description and never of the pixels."""

from __future__ import annotations

from wsss_kit.paperworld.dice import Dice
from wsss_kit.paperworld.scenes import Scene
from wsss_kit.paperworld.words import HOME, NOUNS, PLACES, plural

_OPENINGS = ("a photo of", "a photo of", "a picture of", "an image of", "", "")
_NUMBERS = {2: "two", 3: "three"}


def caption(scene: Scene, dice: Dice) -> str:
    """Say what a scene shows.

    Args:
        scene: the description.
        dice: chooses among ways to say it.

    Returns:
        Lower-case words separated by single spaces.

    Example:
        >>> from wsss_kit.paperworld.scenes import Band
        >>> caption(Scene("background", (Band("fog", 0.0),)), Dice("plain"))
        'fog texture'
    """
    opening = dice.pick(_OPENINGS)
    names = " and ".join(_noun_phrase(scene, name, dice) for name in scene.classes)
    if not names:
        return _said(opening, _background_phrase(scene, dice))
    if scene.kind == "cutout":
        opening = dice.pick((opening, "a clean cutout of"))
        ending = dice.pick(("", "on a plain background", "cut out", "without background"))
        return _said(opening, names, ending)
    ending = dice.pick(("", "without background")) if scene.kind == "collage" else ""
    return _said(opening, names, ending or _place_phrase(scene, dice))


def _said(*parts: str) -> str:
    return " ".join(part for part in parts if part)


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
    kinds = [band.stuff for band in scene.bands]
    kinds = dice.draw(kinds, len(kinds))
    said = " and ".join(f"the {kind}" if dice.chance(0.3) else kind for kind in kinds)
    return _said(said, dice.pick(("", "", "texture", "background")) if len(kinds) == 1 else "")


def _place_phrase(scene: Scene, dice: Dice) -> str:
    if not dice.chance(0.75):
        return ""
    kinds = list(dict.fromkeys(band.stuff for band in scene.bands))
    homes = [kind for kind in kinds if kind in HOME.values()] or kinds
    place = dice.pick(homes)
    others = [kind for kind in kinds if kind != place]
    more = f"with {dice.pick(others)}" if others and dice.chance(0.5) else ""
    return _said(PLACES[place], more)
