"""The parts that instruments are made of: bars, swipe, patience, text boxes."""

from __future__ import annotations

import asyncio
import gc
import math
import re
import weakref

import pytest
import torch
from ipywidgets import widgets

from wsss_kit.data import LazySamples
from wsss_kit.prompts import Prompts
from wsss_kit.widgets import PromptLab
from wsss_kit.widgets.instrument import Debounced, Slices
from wsss_kit.widgets.screens import Bars, Swipe, bar, stacked_bar
from wsss_kit.widgets.stages import Images
from wsss_kit.widgets.words import FIELDS, History, as_text, edited, templates_of, words_of

SMALL = (widgets.Layout, widgets.Style)


@pytest.mark.parametrize("widget", [Bars, Swipe])
def test_the_script_asks_for_traits_that_are_there(widget):
    """What JavaScript reads by name has to be a trait that travels to the page."""
    script = widget._esm if isinstance(widget._esm, str) else widget._esm.default_value
    given = set(re.findall(r"""model\.(?:get|set)\("(\w+)\"""", script))
    given |= set(re.findall(r"""model\.on\("change:(\w+)\"""", script))
    synced = {name for name, trait in widget.class_traits().items() if trait.metadata.get("sync")}
    assert len(given) > 3 and given <= synced, given - synced


def test_a_bar_goes_from_zero_to_its_value():
    ends = {3.0: [0.5, 0.8], -5.0: [0.0, 0.5], 0.0: [0.5, 0.5], 99.0: [0.5, 1.0]}
    for value, (start, end) in ends.items():
        (part,) = bar("a", value, -5, 5)["parts"]
        assert (part["from"], part["to"]) == pytest.approx((start, end))
    assert bar("a", math.nan, 0, 1)["parts"] == [] and bar("a", math.nan, 0, 1)["text"] == "-"
    assert bar("a", 0.0, 0, 0)["parts"] == []


def test_parts_of_a_bar_follow_each_other():
    created = stacked_bar("a", {"x": 10, "y": 0, "z": 30}, 100, text="60", said="a: 60")
    assert [(p["style"], p["from"], p["to"]) for p in created["parts"]] == [
        ("x", 0.0, 0.1),
        ("z", 0.1, 0.4),
    ]


def test_a_press_in_the_browser_reaches_who_listens():
    heard = []
    bars = Bars(10, 10, heard.append)
    bars.show("t", [bar("a", 1, 0, 1)])
    bars._handle_custom_msg({"kind": "click", "name": "a"}, [])
    bars._handle_custom_msg({"kind": "click", "name": "gone"}, [])  # the bars changed meanwhile
    assert heard == ["a"]
    with pytest.raises(ValueError, match="there is no bar 'gone', expected one of a"):
        bars.click("gone")


def test_files_are_taken_and_other_messages_are_not():
    taken = []
    swipe = Swipe(10, 10, lambda *file: taken.append(file))
    swipe._handle_custom_msg({"kind": "picture", "name": "a"}, [memoryview(b"x")])
    swipe._handle_custom_msg({"kind": "other"}, [memoryview(b"y")])
    swipe._handle_custom_msg({"kind": "picture"}, [])
    assert taken == [("a", b"x")]


def test_typing_is_answered_once_it_pauses():
    clicked = []

    async def typing():
        answer = Debounced(clicked.append, 0.03)
        for i in range(20):
            answer(i)
            await asyncio.sleep(0.001)
        assert clicked == []
        await asyncio.sleep(0.06)
        answer(99)
        answer.forget()
        await asyncio.sleep(0.06)

    asyncio.run(typing())
    assert clicked == [19]
    Debounced(clicked.append)(7)  # without a loop at once
    assert clicked == [19, 7]


def test_long_work_lets_others_in_and_can_be_dropped():
    done = []

    def work(name, n):
        for i in range(n):
            done.append((name, i))
            yield

    async def reading():
        slices = Slices()
        slices.start(work("a", 1000))
        await asyncio.sleep(0.02)
        assert slices._work and 0 < len(done) < 1000
        slices.start(work("b", 3))  # drops what is left of a
        await asyncio.sleep(0.05)
        assert not slices._work and done[-3:] == [("b", i) for i in range(3)]
        slices.start(work("c", 1000))
        slices.stop()
        slices.start(work("d", 1000))
        slices.finish()
        assert done[-1] == ("d", 999) and not any(name == "c" for name, _ in done)

    asyncio.run(reading())


def test_an_error_ends_long_work():
    def work():
        yield
        raise ValueError("broken")

    slices = Slices()
    with pytest.raises(ValueError, match="broken"):
        slices.start(work())
    assert not slices._work


@pytest.mark.parametrize("prompts", [Prompts.paper(), Prompts.voc(), Prompts.voc("clims")])
def test_what_a_box_holds_says_the_same_again(prompts):
    for index in range(len(prompts.classes)):
        for field in FIELDS:
            assert edited(prompts, field, as_text(prompts, field, index=index), index=index) == (
                prompts.replace(
                    synonyms={k: v.replace(", ", ",") for k, v in prompts.synonyms.items()}
                )
            )


def test_boxes_are_read_as_they_are_typed():
    assert words_of(" a ,\nb  c,, ") == ["a", "b c"] and words_of(" , ") == []
    assert templates_of(" a {} |") == "a {}" and templates_of("a {}|b {}") == ["a {}", "b {}"]
    prompts = Prompts.paper(method="clims")
    renamed = edited(prompts, "name", "ferry", index=0)
    assert renamed.classes[0] == "ferry" and renamed.backgrounds_of("ferry") == ("water",)
    fewer = edited(prompts, "backgrounds", "sky, rails", index=0)
    assert fewer.class_backgrounds == {"train": ("rails",), "plane": ("sky",)}
    with pytest.raises(ValueError, match="backgrounds is empty"):
        edited(prompts, "backgrounds", " ,", index=0)


def test_history_ends():
    history, a = History(), Prompts(["cat"], ["sea"], template="a {}")
    for what in ("undo", "redo"):
        with pytest.raises(ValueError, match=f"there is nothing to {what}"):
            history.step(what, a)
    for _ in range(500):
        history.remember(a)
    assert len(history.past) == 200


def test_a_closed_instrument_leaves_nothing_behind(world, clip_es):
    def all_of():
        alive = widgets.widget._instances.values()
        return {id(each) for each in alive if not isinstance(each, SMALL)}

    before = all_of()
    lab = PromptLab(clip_es, world)
    held = weakref.ref(lab._open(world.names[0]))
    assert len(all_of() - before) > 20
    lab.close()
    assert all_of() <= before
    del lab
    gc.collect()
    assert held() is None


def test_images_are_read_when_they_are_asked_for():
    read = []

    def image(name):
        read.append(name)
        return torch.zeros(3, 2, 2)

    names = [f"p{i}" for i in range(40)]
    labels = {name: torch.tensor([float(i % 2)]) for i, name in enumerate(names)}
    samples = LazySamples(names, image=image, labels=labels.__getitem__, classes=("a",))
    pictures = Images(samples)
    assert list(pictures) == names[1::2] and len(pictures) == 20
    assert read == ["p0"]  # the first shows what kind of thing samples are
    read.clear()
    assert pictures["p3"].name == "p3" == pictures["p3"].name and read == ["p3"]
    assert "p2" not in pictures and "p5" in pictures
    assert [s.name for s in pictures.values()] == names[1::2]
    assert pictures._read.cache_info().currsize == 16
