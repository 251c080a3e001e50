"""Invent what is in an image, before anything is drawn: see `words.Scene`."""

from collections.abc import Sequence
from dataclasses import replace

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.figures import HEIGHT
from wsss_kit.paperworld.words import HOME, NEUTRAL, STUFF, SUBTYPES, Band, Dice, Hole, Scene, Thing


def describe(dice: Dice, kind: str, cooccurrence: float) -> Scene:
    """Invent the description of an image.

    Args:
        dice: where the choices come from.
        kind: one of ``KINDS``.
        cooccurrence: probability, in [0, 1], that an object stands on its class's home background;
            otherwise any of the eleven others.

    Returns:
        The description.
    """
    return _DESCRIBERS[kind](dice, cooccurrence)


def _thing(dice: Dice, name: str, x: float, ground: float, width: float) -> Thing:
    subtype = dice.pick(SUBTYPES[name])
    return Thing(name, subtype, x, ground, width, dice.chance(0.5), dice.bell(0.07))


def _ground_of(dice: Dice, name: str, cooccurrence: float) -> str:
    if dice.chance(cooccurrence):
        return HOME[name]
    return dice.pick([stuff for stuff in STUFF if stuff != HOME[name]])


def _one_class(dice: Dice, cooccurrence: float) -> Scene:
    name = dice.pick(PAPER_CLASSES)
    stuff = _ground_of(dice, name, cooccurrence)
    others = [other for other in NEUTRAL if other != stuff]
    top, bottom = 0.0, 0.97
    if dice.chance(0.3):
        bands = [Band(stuff, 0.0)]
    elif stuff in ("sky", "leaves"):  # things fly or perch there: the rest lies below
        bottom = 0.72
        bands = [Band(stuff, 0.0), Band(dice.pick(others), dice.uniform(0.68, 0.85))]
    else:
        top = dice.uniform(0.2, 0.5)
        bands = [Band(dice.pick(others), 0.0), Band(stuff, top)]
    count = dice.pick((1, 2, 3), (0.7, 0.18, 0.12))
    things = []
    for _ in range(count):
        width = dice.uniform(0.46, 0.88) / count**0.4
        low = max(top + 0.03, HEIGHT[name] * width * 0.85)
        ground = dice.uniform(min(low, bottom - 0.01), bottom)
        x = dice.uniform(0.15, 0.85) if count > 1 else dice.uniform(0.25, 0.75)
        things.append(_thing(dice, name, x, ground, width))
    return Scene("scene", tuple(bands), tuple(sorted(things, key=lambda t: t.ground)))


def _two_classes(dice: Dice, cooccurrence: float) -> Scene:
    names = dice.draw(PAPER_CLASSES, 2)
    names.sort(key=lambda name: {"plane": 0, "bird": 1}.get(name, 2))
    line = dice.uniform(0.42, 0.58)
    bands, things = [], []
    for name, top, bottom in ((names[0], 0.0, line), (names[1], line, 1.0)):
        bands.append(Band(_ground_of(dice, name, cooccurrence), top))
        ground = min(top + dice.uniform(0.75, 1.05) * (bottom - top), 0.98)
        width = dice.uniform(0.40, 0.66)
        things.append(_thing(dice, name, dice.uniform(0.2, 0.8), ground, width))
    return Scene("scene", tuple(bands), tuple(things))


def _background(dice: Dice, cooccurrence: float) -> Scene:
    stuff = dice.draw(STUFF, dice.pick((1, 2, 3), (0.5, 0.35, 0.15)))
    tops = [0.0, *sorted(dice.uniform(0.2, 0.8) for _ in stuff[1:])]
    return Scene("background", tuple(map(Band, stuff, tops)))


def _cutout(dice: Dice, cooccurrence: float) -> Scene:
    names = dice.draw(PAPER_CLASSES, 1 if dice.chance(0.85) else 2)
    grey = dice.uniform(0, 255)
    plain = (0.0, 0.0, 0.0)
    if dice.chance(0.65):
        plain = tuple(min(255.0, max(0.0, grey + dice.bell(16))) for _ in range(3))
    spread = 0.3 if len(names) > 1 else 0.15
    things = []
    for name in names:
        x, ground = dice.uniform(0.5 - spread, 0.5 + spread), dice.uniform(0.6, 0.95)
        things.append(_thing(dice, name, x, ground, dice.uniform(0.3, 0.85) / len(names) ** 0.5))
    return Scene("cutout", things=tuple(things), plain=plain)


def _closeup(dice: Dice, cooccurrence: float) -> Scene:
    name = dice.pick(PAPER_CLASSES)
    stuff = _ground_of(dice, name, cooccurrence)
    bands = [Band(stuff, 0.0)]
    if dice.chance(0.5):
        far = dice.pick([other for other in NEUTRAL if other != stuff])
        bands = [Band(far, 0.0), Band(stuff, dice.uniform(0.2, 0.5))]
    x, ground, width = dice.uniform(0.1, 0.9), dice.uniform(0.8, 1.3), dice.uniform(0.9, 1.7)
    return Scene("closeup", tuple(bands), (_thing(dice, name, x, ground, width),))


def _collage(dice: Dice, cooccurrence: float) -> Scene:
    scene = _one_class(dice, cooccurrence)
    holes = tuple(_hole(dice, 0.2, 0.6) for _ in range(2 + dice.integer(3)))
    return replace(scene, kind="collage", background_holes=holes)


_DESCRIBERS = {
    "scene": lambda dice, share: (_two_classes if dice.chance(0.4) else _one_class)(dice, share),
    "background": _background,
    "cutout": _cutout,
    "closeup": _closeup,
    "collage": _collage,
}
KINDS = tuple(_DESCRIBERS)


def _hole(dice: Dice, low: float, high: float) -> Hole:
    rx, ry = dice.uniform(low, high), dice.uniform(low, high)
    return Hole(dice.uniform(0, 1), dice.uniform(0, 1), rx, ry, dice.uniform(0.0, 0.12))


def weather(dice: Dice, scene: Scene) -> Scene:
    """Dim some web images and cut pieces out of others, wherever these fall.

    The caption does not change: it describes the scene, as captions on the web do.
    """
    holes: Sequence[Hole] = ()
    if scene.kind == "background":
        if dice.chance(0.4):
            holes = [_hole(dice, 0.1, 0.4) for _ in range(1 + dice.integer(3))]
    elif dice.chance(0.15):
        holes = [_hole(dice, 0.06, 0.22)]
    light = dice.uniform(0.35, 1.0) if dice.chance(0.2) else 1.0
    return replace(scene, holes=tuple(holes), light=light)


def tear(dice: Dice, scene: Scene, share: float) -> Scene:
    """Tear the signature part off some of the objects, as on the web a head is often hidden.

    The caption does not change: a cow without its head is still captioned a cow. So whoever
    learns from captions has to learn what the bodies look like as well.

    Args:
        dice: where the choices come from.
        scene: the description.
        share: probability, in [0, 1], that an object is torn.

    Returns:
        The description with its torn objects marked.
    """
    things = (replace(thing, torn=dice.chance(share)) for thing in scene.things)
    return replace(scene, things=tuple(things))
