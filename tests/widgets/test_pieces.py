"""The parts that instruments are made of: bars, swipe, patience, text boxes, images."""

import asyncio
import gc
import math
import re
import weakref

import pytest
import torch
from ipywidgets import widgets

from tests.widgets.conftest import upload
from wsss_kit.data import LazySamples
from wsss_kit.prompts import Prompts
from wsss_kit.widgets import PromptLab
from wsss_kit.widgets.instrument import Images, Slices
from wsss_kit.widgets.screens import Bars, FileButton, Swipe, bar
from wsss_kit.widgets.words import FIELDS, as_text, edited, templates_of, words_of

SMALL = (widgets.Layout, widgets.Style)


@pytest.mark.parametrize("widget", [Bars, Swipe, FileButton])
def test_the_script_asks_for_traits_that_are_there(widget):
    """What JavaScript reads by name has to be a trait that travels to the page."""
    script = widget._esm if isinstance(widget._esm, str) else widget._esm.default_value
    given = set(re.findall(r"""model\.(?:get|set)\("(\w+)\"""", script))
    given |= set(re.findall(r"""model\.on\("change:(\w+)\"""", script))
    synced = {name for name, trait in widget.class_traits().items() if trait.metadata.get("sync")}
    assert len(given) > 1 and given <= synced, given - synced


PARTS = [
    ({"x": 3.0}, -5, 5, [("x", 0.5, 0.8)]),
    ({"x": -5.0}, -5, 5, [("x", 0.0, 0.5)]),
    ({"x": 99.0}, -5, 5, [("x", 0.5, 1.0)]),
    ({"x": 0.0}, -5, 5, []),
    ({"x": math.nan}, 0, 1, []),
    ({"x": 10, "y": 0, "z": 30}, 0, 100, [("x", 0.0, 0.1), ("z", 0.1, 0.4)]),
]


@pytest.mark.parametrize(("values", "low", "high", "parts"), PARTS)
def test_parts_of_a_bar_follow_each_other_from_zero(values, low, high, parts):
    drawn = bar("a", values, high, low, text="t")["parts"]
    assert [(p["style"], p["from"], p["to"]) for p in drawn] == parts


def test_presses_and_files_of_the_browser_reach_who_listens():
    heard, taken = [], []
    bars = Bars(10, 10, heard.append, {})
    bars.show("t", [bar("a", {"x": 1}, 1, text="1")])
    bars._handle_custom_msg({"name": "a"}, [])
    bars._handle_custom_msg({"name": "gone"}, [])  # the bars changed meanwhile
    assert heard == ["a"]
    with pytest.raises(ValueError, match="there is no bar 'gone', expected one of a"):
        bars.click("gone")
    button = FileButton("Open", "", lambda *file: taken.append(file), taken.append)
    upload(button, "a", b"some content")
    upload(button, "empty", b"")
    button._handle_custom_msg({"name": "b", "problem": "has 106 MB"}, [])
    assert taken[:2] == [("a", b"some content"), ("empty", b"")] and str(taken[2]) == "b has 106 MB"


def test_long_work_lets_others_in_and_can_be_dropped():
    done, errors = [], []

    def work(name, n):
        for i in range(n):
            done.append((name, i))
            yield

    def broken():
        yield
        raise ValueError("broken")

    async def reading():
        slices = Slices(errors.append)
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
    slices = Slices(errors.append)
    slices.start(broken())  # at once where no loop runs
    assert [str(error) for error in errors] == ["broken"] and not slices._work


@pytest.mark.parametrize("prompts", [Prompts.paper(), Prompts.voc(), Prompts.voc("clims")])
def test_what_a_box_holds_says_the_same_again(prompts):
    tight = prompts.replace(synonyms={k: v.replace(", ", ",") for k, v in prompts.synonyms.items()})
    for index in range(len(prompts.classes)):
        for field in FIELDS:
            text = as_text(prompts, field, index=index)
            assert edited(prompts, field, text, index=index) == tight


def test_boxes_are_read_as_they_are_typed():
    assert words_of(" , \n") == [] and templates_of(" a {} |") == "a {}"
    prompts = Prompts.paper(method="clims")
    renamed = edited(prompts, "name", "ferry", index=0)
    assert renamed.classes[0] == "ferry" and renamed.backgrounds_of("ferry") == ("water",)
    fewer = edited(prompts, "backgrounds", "sky, rails", index=0)
    assert fewer.class_backgrounds == {"train": ("rails",), "plane": ("sky",)}


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
    images = Images(samples)
    assert list(images) == names[1::2] and list(Images(samples, {"p4", "p5"})) == ["p4", "p5"]
    assert set(read) == {"p0"}  # the first shows what kind of thing samples are
    read.clear()
    assert images["p3"].name == "p3" == images["p3"].name and read == ["p3"]
    assert [s.name for s in images.values()] == names[1::2]
    assert images._read.cache_info().currsize == 16
