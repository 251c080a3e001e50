"""The nouns of the embedded world: classes, sub-types, background kinds, and how they are said."""

from __future__ import annotations

from wsss_kit.classes import PAPER_CLASSES

VEHICLE_STYLES = ("wooden", "red", "striped")
ANIMAL_STYLES = ("spotted", "golden", "grey")

SUBTYPES = {
    name: VEHICLE_STYLES if name in ("boat", "train", "plane", "bus") else ANIMAL_STYLES
    for name in PAPER_CLASSES
}
"""Sub-types of each class: the style of its body. A style is shared by four classes, so a patch
of body tells the sub-type and, but for its outline, not the class; the signature part does."""

HOME = {
    "boat": "water",
    "train": "rails",
    "plane": "sky",
    "bus": "road",
    "cow": "grass",
    "camel": "sand",
    "bird": "leaves",
    "cat": "carpet",
}
"""The usual background of each class: what it co-occurs with in the task's splits."""

NEUTRAL = ("bricks", "snow", "stone", "fog")
"""Background kinds that no class calls home."""

STUFF = (*HOME.values(), *NEUTRAL)
"""The twelve background kinds; a stuff map holds indices into this tuple, 255 elsewhere."""

NOUNS = {
    "boat": ("boat", "ship"),
    "train": ("train", "railcar"),
    "plane": ("plane", "airplane"),
    "bus": ("bus", "coach"),
    "cow": ("cow", "bull"),
    "camel": ("camel", "dromedary"),
    "bird": ("bird", "songbird"),
    "cat": ("cat", "kitten"),
}
"""Each class's own word and a second one that captions use less often."""

PLURALS = {
    "bus": "buses",
    "coach": "coaches",
    "dromedary": "dromedaries",
}
"""Irregular plurals; every other noun takes an s."""

PLACES = {
    "water": "on the water",
    "rails": "on the rails",
    "sky": "in the sky",
    "road": "on the road",
    "grass": "on the grass",
    "sand": "on the sand",
    "leaves": "in the leaves",
    "carpet": "on the carpet",
    "bricks": "by the bricks",
    "snow": "in the snow",
    "stone": "on the stone",
    "fog": "in the fog",
}
"""How a caption says that something is there."""


def plural(noun: str) -> str:
    """The plural of a noun of this world.

    Example:
        >>> plural("bus"), plural("cat")
        ('buses', 'cats')
    """
    return PLURALS.get(noun, noun + "s")
