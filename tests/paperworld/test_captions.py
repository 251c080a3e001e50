"""Descriptions and captions: said of the scene, never of the pixels."""

import re

from wsss_kit.paperworld import STUFF, SUBTYPES, PaperWorld
from wsss_kit.paperworld.words import NOUNS, Band, Dice, Scene, Thing, caption, plural, vocabulary


def thing(name, subtype="grey", x=0.5):
    return Thing(name, subtype, x, 0.8, 0.5, False, 0.0)


def said(scene, n=200):
    return {caption(scene, Dice(f"say/{k}")) for k in range(n)}


# -- captions -------------------------------------------------------------------------------


def test_captions_speak_of_what_is_there_in_words_of_the_vocabulary():
    web = PaperWorld(250, split="web")
    seen, styles = set(), {style for names in SUBTYPES.values() for style in names}
    for i, name in enumerate(web.names):
        text, scene = web.captions[name], web.page(i).scene
        assert text and re.fullmatch(r"[a-z]+( [a-z]+)*", text)
        words = set(text.split())
        named = {c for c, nouns in NOUNS.items() if words & {*nouns, *map(plural, nouns)}}
        assert named == set(scene.classes)
        assert words & set(STUFF) <= {band.stuff for band in scene.bands}
        assert words & styles <= {thing.subtype for thing in scene.things}
        seen |= words
    assert {*STUFF, *styles} <= seen <= set(vocabulary()[2:])
    assert all(seen & {*pair, *map(plural, pair)} for pair in NOUNS.values())


def test_captions_by_hand():
    one = Scene("scene", (Band("grass", 0.0),), (thing("cow", "golden"),))
    assert {"a photo of a golden cow on the grass", "a bull", "a cow on the grass"} <= said(one)
    two = Scene("scene", (Band("sky", 0.0),), (thing("plane", "red"), thing("plane", "wooden")))
    texts = said(two)
    assert any("two planes" in text or "two airplanes" in text for text in texts)
    assert any("some planes" in text for text in texts)
    assert not any("red" in text or "wooden" in text for text in texts)  # the styles differ
    alone = Scene("cutout", (), (thing("bus", "striped"),), plain=(0.0, 0.0, 0.0))
    assert "a clean cutout of a striped bus" in said(alone)
    assert not any(set(text.split()) & set(STUFF) for text in said(alone))
    ground = Scene("background", (Band("fog", 0.0),))
    assert {"fog", "the fog texture", "a photo of fog background"} <= said(ground, 400)
    vowel = Scene("cutout", (), (thing("plane", "red"),), plain=(0.0, 0.0, 0.0))
    assert any("an airplane" in text for text in said(vowel))
    assert not any("a airplane" in text or "an red" in text for text in said(vowel))
