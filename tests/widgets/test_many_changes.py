"""Hundreds of random changes of each instrument: no error, no stale image, no growing memory."""

from __future__ import annotations

import gc
import operator
import os
import random
from functools import partial
from pathlib import Path

import pytest

from tests.widgets.conftest import alike
from wsss_kit.evaluation import BackgroundRule, Protocol, evaluate, predict_masks
from wsss_kit.recipes import cam_maps, clip_es_maps
from wsss_kit.widgets import CAMExplorer, ErrorAtlas, PromptLab, stages
from wsss_kit.widgets.atlas import COMPARES as SIDES
from wsss_kit.widgets.explorer import RULES
from wsss_kit.widgets.lab import COMPARES, PANELS, VIEWS
from wsss_kit.widgets.stages import STAGES

CHANGES = 140
SETTLED = 90
"""Changes after which everything that is kept has been met once."""
GROWTH = 16
"""MB that a process may grow by in the rest of them: an allocator's own ups and downs."""


def used() -> float:
    """MB of memory in use."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def change_often(make, changes, look, *, seed, more=0, every=40):
    """Make a random change ``CHANGES + more`` times; now and then compare with a fresh instrument.

    Args:
        make: a new instrument.
        changes: functions of the instrument and a random generator.
        look: what an instrument shows.
        seed: of the changes.
        more: changes, for an instrument that keeps much.
        every: changes between comparisons.
    """
    dice, instrument, settled = random.Random(seed), make(), None
    for i in range(1, CHANGES + more + 1):
        change = dice.choice(changes)
        change(instrument, dice)
        assert not instrument.problem, (i, instrument.problem)
        if i % every == 0:
            fresh = make()
            for _ in range(2):  # some values are only to be had once others are set
                for trait in instrument._STATE:
                    value = getattr(instrument, trait)
                    if getattr(fresh, trait) != value:
                        fresh.set_trait(trait, value)
            for trait in instrument._STATE:
                assert getattr(fresh, trait) == getattr(instrument, trait), (i, trait)
            for mine, theirs in zip(look(instrument), look(fresh), strict=True):
                # what is remembered adds up in another order, so a pixel may round otherwise
                equal = alike if isinstance(mine, bytes) else operator.eq
                assert equal(mine, theirs), (i, theirs)
            fresh.close()
        if i == SETTLED + more // 2:
            settled = used()
    grown = used() - settled
    print(
        f"{type(instrument).__name__}: {grown:+.1f} MB in {CHANGES - SETTLED + more // 2} changes"
    )
    assert grown < GROWTH


def chosen(trait, options):
    """A change of one trait to one of its options."""
    return lambda it, dice: it.set_trait(trait, dice.choice(list(options(it))))


def number(trait, low, high):
    return lambda it, dice: it.set_trait(trait, round(dice.uniform(low, high), 2))


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read from /proc"
)


@needs_proc
def test_explorer(world, cam, clip_es, monkeypatch):
    monkeypatch.setattr(stages, "MOST_KEPT", 2**22)  # full before memory is first measured
    methods = {"CAM": cam, "CLIP-ES": clip_es}

    def make():
        return CAMExplorer(methods, world, world.masks, world.classes)

    changes = [
        chosen("picture", lambda it: world.names),
        chosen("method", lambda it: methods),
        chosen("class_name", lambda it: it._controls["class_name"].options),
        chosen("stage", lambda it: STAGES),
        chosen("rule", lambda it: RULES),
        chosen("compare", lambda it: it._controls["compare"].options),
        chosen("crf", lambda it: (False, False, False, True)),
        number("threshold", -0.2, 1.2),
        number("power", 0, 12),
        number("opacity", -0.2, 1.2),
    ]
    change_often(make, changes, lambda it: (it.view.before, it.view.after, it.words), seed=1)


@needs_proc
def test_lab(world, clip_es):
    words = [*clip_es.prompts.backgrounds, "zebra", "ship", "golden", "texture"]
    templates = ["a {}", "a photo of a {}", "a {} without background", "{} | a plain {}"]
    start = clip_es.prompts

    def make():
        return PromptLab(clip_es, world, world.masks)

    def backgrounds(it, dice):
        it.edit("backgrounds", ", ".join(dice.sample(words, dice.randint(1, 8))))

    def synonyms(it, dice):
        it.edit("synonyms", ", ".join(dice.sample(["cat", "kitten", "ship"], dice.randint(0, 3))))

    def rename(it, dice):
        it.edit("name", f"{start.classes[it._index]}{dice.choice(['', 's', ' of paper'])}")

    def switch(it, dice):
        on = [word for word in it.prompts.backgrounds if word not in it.off]
        if it.off or len(on) > 1:
            it._pressed(dice.choice(it.off or on))

    def step(it, dice):
        if it._history.past:
            it.undo()
            if dice.random() < 0.5:
                it.redo()

    changes = [
        *(backgrounds, backgrounds, synonyms, rename, switch, step),
        lambda it, dice: it.edit("template", dice.choice(templates)),
        chosen("picture", lambda it: world.names),
        chosen("class_name", lambda it: it._controls["class_name"].options),
        chosen("view", lambda it: VIEWS),
        chosen("compare", lambda it: COMPARES[:2]),  # the last words are no state of a fresh lab
        chosen("panel", lambda it: [*["words"] * 12, *PANELS]),
        number("opacity", 0, 1),
    ]

    def look(it):
        return it.screen.before, it.screen.after, it.bars.rows, it.unknown

    change_often(make, changes, look, seed=2, more=60)


@needs_proc
def test_atlas(world, cam, clip_es):
    methods = {
        "CAM": partial(cam_maps, method=cam),
        "CLIP-ES": partial(clip_es_maps, method=clip_es),
    }
    rule, protocol = BackgroundRule(threshold=0.3), Protocol("PaperWorld", "val")
    masks = {m: predict_masks(of, world, rule, shown=False) for m, of in methods.items()}
    options = {"classes": world.classes, "protocol": protocol, "n_bootstrap": 0}
    reports = {m: evaluate(mine, world.masks, **options) for m, mine in masks.items()}

    def make():
        return ErrorAtlas(world, masks, world.masks, reports)

    changes = [
        chosen("method", lambda it: masks),
        lambda it, dice: it.class_bars.click(dice.choice(it.class_bars.rows)["name"]),
        lambda it, dice: (
            it.image_bars.rows and it.image_bars.click(dice.choice(it.image_bars.rows)["name"])
        ),
        chosen("picture", lambda it: world.names),
        chosen("compare", lambda it: SIDES),
        number("opacity", 0, 1),
    ]

    def look(it):
        return it.screen.before, it.screen.after, it.image_bars.rows, it.words

    change_often(make, changes, look, seed=3)
