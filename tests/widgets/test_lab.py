"""PromptLab: an edit gives what a new method with these words gives, and numbers are evaluate's."""

import asyncio
import json

import numpy as np
import pandas as pd
import pytest
import torch
import traitlets

from tests.evaluation.test_prompt_ranking import RULE, all_again
from tests.widgets.conftest import same, shows_map, upload
from wsss_kit.evaluation.prompt_ranking import leave_one_out
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.plot import alt_text
from wsss_kit.plot.canvas import image_array
from wsss_kit.plot.regions import fitted_image, paint_claims
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.search import search_backgrounds
from wsss_kit.recipes import clip_es_maps
from wsss_kit.widgets import PromptLab

SIDE = (300, 300)


@pytest.fixture
def lab(clip_es, world):
    return PromptLab(clip_es, world, world.masks, rule=RULE)


def maps_with(lab, prompts, sample):
    """(C, H, W) everything from the beginning with these words."""
    method = CLIPES(lab.method.clip, prompts=prompts).fit()
    return clip_es_maps(sample.image[None], sample.labels[None], method=method)[0]


def is_up_to_date(lab, world):
    """Whether the screen shows the map that the prompts make of the image."""
    sample = next(s for s in world if s.name == lab.picture)
    cam = maps_with(lab, lab.asked, sample)[lab.prompts.classes.index(lab.class_name)]
    large = fitted_image(image_array(sample.image), SIDE)
    return shows_map(lab.screen.after, large, cam, alpha=lab.opacity)


def texts_of(lab):
    return {row["name"]: row["text"] for row in lab.bars.rows}


def row_of(lab, name):
    return next(row for row in lab.bars.rows if row["name"] == name)


EDITS = {
    "backgrounds": "grass, sky, zebra",
    "template": "a photo of a {} | a plain {}",
    "synonyms": "kitten, spotted cat",
    "name": "tiger",
}


@pytest.mark.parametrize("field", EDITS)
def test_an_edit_shows_what_these_words_make(lab, world, field):
    before, pixels = lab.prompts, lab.screen.after
    assert is_up_to_date(lab, world)
    lab._boxes[field].value = EDITS[field]
    assert lab.prompts != before and lab.screen.after != pixels and not lab.problem
    assert is_up_to_date(lab, world)
    lab.undo()
    assert lab.prompts == before and lab.screen.after == pixels
    assert lab._boxes[field].value != EDITS[field]
    lab.redo()
    assert lab.prompts != before and is_up_to_date(lab, world)
    with pytest.raises(ValueError, match="there is nothing to redo"):
        lab.redo()


def test_prompts_may_be_set_as_an_object_and_are_compared_with_earlier_ones(lab, world):
    start = lab.screen.after
    lab.prompts = Prompts.paper().replace(backgrounds=["grass", "fog"])
    assert is_up_to_date(lab, world) and lab._boxes["backgrounds"].value == "grass, fog"
    second = lab.screen.after
    lab.edit("backgrounds", "fog")
    lab.compare = "start words"
    assert lab.screen.before == start
    lab.compare = "last words"
    assert lab.screen.before == second
    lab.undo()
    lab.undo()
    assert lab.prompts == Prompts.paper()
    with pytest.raises(ValueError, match="there is nothing to undo"):
        lab.undo()
    with pytest.raises(traitlets.TraitError, match="the prompts have 20 classes, expected 8"):
        lab.prompts = Prompts.voc()
    for i in range(250):
        lab._remember(lab.prompts.replace(template=f"{i} {{}}"))
    assert len(lab._past) == 200


def test_a_renamed_class_keeps_its_place(lab, world):
    index = lab._index
    lab.edit("name", "tiger")
    assert lab.class_name == "tiger" == lab.prompts.classes[index]
    assert lab._controls["class_name"].options[0] == "tiger" and lab.unknown == ("tiger",)
    lab.picture = world.names[1]
    lab.picture = world.names[0]
    assert lab.class_name in lab._present(lab.prompts)


CLASHES = [
    ("template", "no place for the word", "template"),
    ("backgrounds", "sky, grass, Sky", "backgrounds has 'sky' and 'Sky'"),
    ("backgrounds", " ", "backgrounds is empty"),
    ("backgrounds", "sky; Cow", "'Cow' is a class and a background word"),
    ("synonyms", "calf, fog", "'fog' is a class and a background word"),
    ("name", "", "classes has ''"),
    ("name", "boat", "classes"),
]


@pytest.mark.parametrize(("field", "text", "said"), CLASHES)
def test_words_that_do_not_go_together_are_said_and_change_nothing(lab, world, field, text, said):
    lab.class_name = next(n for n in lab._present(lab.prompts) if n != "boat")
    before = lab.prompts, lab.screen.after
    lab._boxes[field].value = text
    assert lab.problem.startswith(said) and said in lab._warned.value.replace("&#x27;", "'")
    assert (lab.prompts, lab.screen.after) == before
    assert lab._boxes[field].value == text  # nobody's words are changed under their fingers
    with pytest.raises(ValueError, match=said):
        lab.edit(field, text)
    lab.view = "competition"
    assert not lab.problem


def test_words_the_model_never_read_are_named_and_nothing_is_warned_of(lab, recwarn):
    lab.edit("backgrounds", "grass, zebra stripes, <b>sky</b>")
    lab.edit("template", "a blurry {}")
    assert lab.unknown[:2] == ("zebra", "stripes") and lab.unknown[-1] == "blurry"
    assert "This CLIP never read: zebra, stripes, " in lab._said.value
    assert "<b>sky" not in lab._said.value  # what is typed is not HTML
    lab._boxes["name"].value = "<i>x</i>"
    assert "<i>" not in lab._said.value and "<i>" not in lab._warned.value
    lab.still()
    assert not recwarn.list
    lab._back_to_start()
    assert lab.unknown == () and "never read" not in lab._said.value


def test_a_pressed_word_is_switched_off_and_on(lab, world):
    opened = lab.method.open(world[0].image, world[0].labels)
    names = [n for n, on in zip(world.classes, world[0].labels, strict=True) if on]
    probs = [f"{p:.1f}" for p in (100 * opened.maps().probs).tolist()]
    expected = dict(zip([*names, *lab.prompts.backgrounds], probs, strict=True))
    assert texts_of(lab) == expected and lab.bars.chosen == lab.class_name
    rival, with_all = lab.prompts.backgrounds[0], lab.screen.after
    lab.bars.click(rival)
    assert lab.off == (rival,) and rival not in lab.asked.backgrounds and is_up_to_date(lab, world)
    assert row_of(lab, rival)["off"] and row_of(lab, rival)["text"] == "-"
    lab.edit("template", "a {}")  # stays off through other edits
    assert lab.off == (rival,) and is_up_to_date(lab, world)
    lab.undo()
    lab.bars.click(rival)
    assert lab.off == () and lab.screen.after == with_all
    with pytest.raises(traitlets.TraitError, match="all 12 background words would be off"):
        lab.off = lab.prompts.backgrounds
    with pytest.raises(traitlets.TraitError, match="off has 'sea', expected one of"):
        lab.off = ("sea",)
    lab.off = lab.prompts.backgrounds[1:]
    lab.bars.click(lab.prompts.backgrounds[0])  # the last one that is on
    assert lab.problem.startswith("all 12 background words would be off")
    assert lab.off == lab.prompts.backgrounds[1:]


def test_a_pressed_class_is_gone_to(lab, world):
    lab.panel = "IoU"
    there = next(s for s in world if s.labels[lab._index] == 0)
    name = world.classes[int(there.labels.nonzero()[0])]
    lab.bars.click(name)
    assert lab.class_name == name
    assert next(s for s in world if s.name == lab.picture).labels[world.classes.index(name)] == 1
    lab.bars.click("mean")  # no class, so nowhere to go
    assert lab.class_name == name and not lab.problem


def test_the_competition_shows_who_claims_each_cell(lab, world):
    lab.view = "competition"
    words = [*lab._present(lab.prompts), *lab.prompts.backgrounds]
    claims = lab.method.open(world[0].image, world[0].labels).claims().argmax(0)
    large = fitted_image(image_array(world[0].image), SIDE)
    assert same(lab.screen.after, paint_claims(large, claims, words))


def test_iou_is_that_of_evaluate(lab, world):
    lab.edit("backgrounds", "grass, sky, water")
    lab.panel = "IoU"
    now, start = (all_again(lab.method.clip, world, each) for each in (lab.prompts, lab.start))
    for name, iou, was in zip(now.classes, now.iou, start.iou, strict=True):
        if not np.isnan(iou):
            assert texts_of(lab)[name] == f"{100 * iou:.1f} ({100 * (iou - was):+.1f})"
    change = 100 * (now.mean_iou - start.mean_iou)
    assert f"mIoU {100 * now.mean_iou:.1f} % ({change:+.1f} since the start)" in lab.words


def test_a_word_is_worth_what_is_lost_without_it(lab, world):
    lab.panel = "leave one out"
    table = leave_one_out(lab.method, world, world.masks, rule=RULE, shown=False)
    mean = table[table["class"] == "mean"].set_index("word")["iou"]
    assert texts_of(lab) == {word: f"{-mean[word]:+.1f}" for word in lab.prompts.backgrounds}
    lab.off = ("sky",)
    assert row_of(lab, "sky")["off"] and row_of(lab, "sky")["text"] == "off"


def test_a_search_runs_in_pieces_and_another_panel_stops_it(lab, world):
    titles, words = [], ("rails", "fog")
    lab.edit("backgrounds", ", ".join(words))
    lab.off = ("fog",)  # it is tried all the same

    async def watching():
        lab.bars.observe(lambda change: titles.append(change.new), "title")
        lab.panel = "search"
        await asyncio.sleep(0.02)
        lab.panel = "words"
        assert not lab._slices._work and lab.found is None
        lab.panel = "search"
        while lab._slices._work:
            await asyncio.sleep(0.01)

    asyncio.run(watching())
    assert f"search: {len(world)} of {len(world)} images" in titles and not lab.problem
    assert any(title.startswith("search: add rails, ") for title in titles)
    alone = search_backgrounds(
        CLIPES(lab.method.clip, prompts=lab.asked),
        world,
        words,
        masks=world.masks,
        rule=RULE,
        most=4,
        shown=False,
    )
    pd.testing.assert_frame_equal(lab.found.words, alone.words)
    texts = {w: f"{row['gain']:+.1f} {row['status']}" for w, row in alone.words.iterrows()}
    assert texts_of(lab) == texts and f"kept: {', '.join(lab.found.made_by['kept'])}" in lab.words
    photograph = world[0]._replace(name="horse.jpg")  # without a mask: it is left out
    more = PromptLab(lab.method, [photograph, *world], world.masks, rule=RULE)
    more.edit("backgrounds", "rails, fog")
    more.panel = "search"
    assert not more.problem and f" {len(world)} images: kept" in more.words
    pd.testing.assert_frame_equal(more.found.words, alone.words)
    plain = PromptLab(lab.method, world)
    plain.edit("backgrounds", "rails, fog")
    plain.panel = "search"
    assert plain.found.made_by["objective"] == "agreement" and not plain.problem


def test_without_masks_there_is_sharpness(clip_es, world):
    lab = PromptLab(clip_es, world)
    lab.panel = "IoU"
    assert lab.bars.title == "sharpness, low is good (change since the start)" and not lab.problem
    assert "mIoU" not in lab.words and "sharpness 0." in lab.words
    lab.panel = "leave one out"
    assert lab.bars.title == "what each word is worth in sharpness" and not lab.problem


def test_save_and_load(lab, tmp_path, world):
    lab.edit("backgrounds", "grass, sky")
    lab.off = ("sky",)
    lab._file.value = str(tmp_path / "words.json")
    lab._save()
    assert lab.words == f"Saved as {tmp_path / 'words.json'}."
    assert Prompts.from_json(tmp_path / "words.json").backgrounds == ("grass",)
    lab._back_to_start()
    lab.load(tmp_path / "words.json")
    assert lab.prompts.backgrounds == ("grass",) and is_up_to_date(lab, world)
    lab.undo()
    assert lab.prompts == lab.start
    with pytest.raises(FileNotFoundError):
        lab.load(tmp_path / "nothing.json")
    own = json.loads((tmp_path / "words.json").read_text())
    for content, problem in (
        (b"\x89PNG", "it begins with '\ufffdPNG', expected {"),
        (b'{"\xff"}', "'utf-8' codec can't decode byte 0xff"),
        (Prompts.voc().to_json().encode(), "the prompts have 20 classes"),
        (
            json.dumps({**own, "classes": own["classes"][::-1]}).encode(),
            "class 0 of the prompts is 'cat', ",
        ),
    ):
        upload(lab._load, "mine.json", content)
        assert f"mine.json has no prompts for this lab: {problem}" in lab.problem
        assert lab.prompts == lab.start
    own["classes"][0] = "ferry"
    upload(lab._load, "mine.json", b"\xef\xbb\xbf" + json.dumps(own).encode())
    assert lab.prompts.backgrounds == ("grass",) and not lab.problem
    assert lab.words.endswith(" mine.json is loaded; it renames boat to ferry.")


def test_fast_typing_is_one_piece_of_work(lab, monkeypatch):
    shown, draw = [], PromptLab._show
    monkeypatch.setattr(PromptLab, "_show", lambda self: (shown.append(1), draw(self)))
    text = "grass, sky, fog"

    async def typing():
        for i in range(1, len(text) + 1):
            lab._boxes["backgrounds"].value = text[:i]
            await asyncio.sleep(0.002)
        assert shown == []
        await asyncio.sleep(0.6)

    asyncio.run(typing())
    assert len(shown) == 1 and lab.prompts.backgrounds == ("grass", "sky", "fog")
    assert lab._boxes["backgrounds"].value == text and lab.unknown == ()


def test_numbers_come_piece_by_piece_and_an_edit_begins_them_anew(lab, monkeypatch):
    async def reading():
        lab.panel = "leave one out"
        assert lab._slices._work
        await asyncio.sleep(0.05)
        lab.edit("backgrounds", "grass, fog")
        lab._answer(lab.redo)
        assert lab._slices._work
        while lab._slices._work:
            await asyncio.sleep(0.01)

    asyncio.run(reading())
    assert list(texts_of(lab)) == ["grass", "fog"] and lab.problem == "there is nothing to redo"
    monkeypatch.setattr(lab, "_tallied", lambda *_: 1 / 0)
    lab.panel = "IoU"  # at once
    assert lab.problem == "ZeroDivisionError: division by zero"
    lab.panel = "words"
    assert not lab.problem

    async def reading_on():
        lab.panel = "IoU"  # while somebody reads
        await asyncio.sleep(0.05)

    asyncio.run(reading_on())
    assert lab.problem == "ZeroDivisionError: division by zero" and lab.problem in lab._warned.value


def test_its_still_and_its_start(lab, clip_es, world):
    still = lab.still()
    start = f"{lab.class_name}, 'a {{}} without background': map, cells by their most"
    assert alt_text(still).startswith(start)
    bars = {t.get_text() for t in still.axes[2].get_yticklabels()}
    assert bars == {lab.class_name, *lab.prompts.backgrounds}
    widths = [bar.get_width() for bar in still.axes[2].patches]
    assert widths == sorted(widths, reverse=True) and sum(widths) == pytest.approx(100, rel=1e-4)
    bare = [s._replace(labels=torch.zeros(8)) for s in world]
    with pytest.raises(ValueError, match=r"0 of 5 images have a label, .*8 labels for"):
        PromptLab(clip_es, bare)
    with pytest.raises(ValueError, match="there is no field 'words', expected one of name"):
        lab.edit("words", "a")
