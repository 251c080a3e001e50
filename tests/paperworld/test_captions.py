"""Descriptions and captions: said of the scene, never of the pixels."""

from __future__ import annotations

import re

import pytest

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.drawing import draw
from wsss_kit.paperworld.scenes import KINDS, describe, weather
from wsss_kit.paperworld.words import (
    ANIMAL_STYLES,
    HOME,
    NEUTRAL,
    NOUNS,
    PLACES,
    STUFF,
    SUBTYPES,
    VEHICLE_STYLES,
    Band,
    Dice,
    Scene,
    Thing,
    caption,
    plural,
    vocabulary,
)


@pytest.fixture(scope="module")
def web():
    return PaperWorld(250, split="web")


def thing(name, subtype="grey", x=0.5):
    return Thing(name, subtype, x, 0.8, 0.5, False, 0.0)


def said(scene, n=200):
    return {caption(scene, Dice(f"say/{k}")) for k in range(n)}


# -- the words ------------------------------------------------------------------------------


def test_eight_homes_four_neutral_kinds_and_shared_styles():
    assert set(HOME) == set(SUBTYPES) == set(NOUNS) == set(PAPER_CLASSES)
    assert len(set(HOME.values())) == 8 and not set(HOME.values()) & set(NEUTRAL)
    assert len(STUFF) == len(set(STUFF)) == 12 and set(PLACES) == set(STUFF)
    assert sorted(SUBTYPES.values()) == sorted([VEHICLE_STYLES] * 4 + [ANIMAL_STYLES] * 4)


def test_plurals():
    nouns = [noun for pair in NOUNS.values() for noun in pair]
    assert {plural(noun) for noun in ("bus", "coach", "cow", "dromedary")} == {
        "buses",
        "coaches",
        "cows",
        "dromedaries",
    }
    assert not {plural(noun) for noun in nouns} & set(nouns)


# -- captions -------------------------------------------------------------------------------


def test_captions_hold_only_words_of_the_vocabulary(web):
    words, known = set(), set(vocabulary()[2:])
    for name in web.names:
        text = web.captions[name]
        assert text and re.fullmatch(r"[a-z]+( [a-z]+)*", text)
        words |= set(text.split())
    assert words <= known
    assert set(STUFF) <= words  # and every kind, style and class is spoken of
    assert {style for styles in SUBTYPES.values() for style in styles} <= words
    assert all(words & {*pair, *map(plural, pair)} for pair in NOUNS.values())


def test_every_class_present_is_named_and_no_other(web):
    for i, name in enumerate(web.names):
        words = set(web.captions[name].split())
        named = {c for c, nouns in NOUNS.items() if words & {*nouns, *map(plural, nouns)}}
        assert named == set(web.page(i).scene.classes)


def test_background_words_are_of_the_scene(web):
    for i, name in enumerate(web.names):
        kinds = set(web.captions[name].split()) & set(STUFF)
        scene = web.page(i).scene
        assert kinds <= {band.stuff for band in scene.bands}
        if scene.kind == "background":
            assert kinds == {band.stuff for band in scene.bands}


def test_styles_are_of_the_objects(web):
    styles = {*VEHICLE_STYLES, *ANIMAL_STYLES}
    for i, name in enumerate(web.names):
        spoken = set(web.captions[name].split()) & styles
        assert spoken <= {t.subtype for t in web.page(i).scene.things}


@pytest.mark.parametrize("kind", KINDS)
def test_neither_pixels_nor_weather_change_what_is_said(kind):
    """The same description, drawn by other dice, larger, dimmer and with holes: the same words."""
    for k in range(5):
        scene = describe(Dice(f"{kind}/{k}"), kind, 0.5)
        words = caption(scene, Dice("words"))
        one, other = draw(scene, Dice("one"), 48), draw(scene, Dice("other"), 48)
        assert one.image.tobytes() != other.image.tobytes()
        assert one.mask.tobytes() == other.mask.tobytes()  # places are of the description too
        assert one.parts.tobytes() == other.parts.tobytes()
        assert caption(scene, Dice("words")) == words
        for storm in range(5):
            after = weather(Dice(f"storm/{storm}"), scene)
            assert caption(after, Dice("words")) == words
            assert (after.bands, after.things) == (scene.bands, scene.things)


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


def test_the_home_kind_is_named_before_neutral_ones():
    bands = (Band("snow", 0.0), Band("water", 0.4))
    texts = said(Scene("scene", bands, (thing("cat"),)))
    assert any("on the water" in text for text in texts)
    assert not any("in the snow" in text for text in texts)
    assert any(text.endswith("on the water with snow") for text in texts)


# -- descriptions ---------------------------------------------------------------------------


def test_classes_are_in_the_order_of_the_class_list():
    scene = Scene("scene", (), (thing("cat"), thing("boat"), thing("cat")))
    assert scene.classes == ("boat", "cat")


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_are_within_the_image(kind):
    for k in range(60):
        scene = describe(Dice(f"{kind}/{k}"), kind, 0.3)
        assert scene.kind == kind
        tops = [band.top for band in scene.bands]
        assert tops == sorted(tops) and (not tops or tops[0] == 0) and max(tops, default=0) < 1
        assert 0 <= len(scene.things) <= 3 and len(scene.classes) <= 2
        assert all(t.subtype in SUBTYPES[t.name] for t in scene.things)
        assert (scene.plain is not None) == (kind == "cutout")
        assert bool(scene.things) == (kind != "background")
        assert bool(scene.bands) == (kind != "cutout")
        assert bool(scene.background_holes) == (kind == "collage")


@pytest.mark.parametrize(("dial", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_close_up_obeys_the_dial(dial, share):
    for k in range(50):
        scene = describe(Dice(f"near/{k}"), "closeup", dial)
        assert (scene.bands[-1].stuff == HOME[scene.things[0].name]) == bool(share)
