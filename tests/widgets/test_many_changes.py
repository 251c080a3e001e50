"""Hundreds of random changes of each instrument: no error, and no stale image."""

import random
from functools import partial

import numpy as np

from tests.widgets.conftest import decoded
from wsss_kit.evaluation import Protocol, evaluate
from wsss_kit.widgets import CAMExplorer, ErrorAtlas, PromptLab, explorer

CHANGES = 140


def alike(mine, other) -> bool:
    """Whether two results are the same; images but for pixels at the edge of a colour's step.

    What is remembered adds up in another order, so a pixel may round otherwise. Those are fewer
    than one in a hundred, and off by one step: at most 2.7 / 255 in viridis.
    """
    if not isinstance(mine, bytes):
        return mine == other
    first, second = decoded(mine), decoded(other)
    if first.shape != second.shape:
        return False
    errors = np.abs(first - second).max(-1)  # (h, w)
    return bool((errors > 1.01 / 255).mean() < 0.01 and errors.max() < 4.01 / 255)


def set_one(instrument, dice, skipped=()):
    """Set a trait to a random value that it may have, or to a number around its range."""
    trait = dice.choice([name for name in instrument._STATE if name not in skipped])
    choices, value = instrument._choices(), getattr(instrument, trait)
    if trait in choices:
        value = dice.choice(list(choices[trait]))
    elif isinstance(value, bool):
        value = dice.random() < 0.25
    else:
        value = round(dice.uniform(-0.2, 12 if trait == "power" else 1.2), 2)
    instrument.set_trait(trait, value)


def change_often(make, changes, look, *, seed, more=0):
    """Make a random change ``CHANGES + more`` times; now and then compare with a fresh instrument.

    Args:
        make: a new instrument.
        changes: functions of the instrument and a random generator.
        look: what an instrument shows.
        seed: of the changes.
        more: changes, for an instrument that keeps much.
    """
    dice, instrument = random.Random(seed), make()
    for i in range(1, CHANGES + more + 1):
        dice.choice(changes)(instrument, dice)
        assert not instrument.problem, (i, instrument.problem)
        if i % 40 == 0:
            fresh, state = make(), {name: getattr(instrument, name) for name in instrument._STATE}
            for trait, value in [*state.items()] * 2:  # some need others to be set first
                if getattr(fresh, trait) != value:
                    fresh.set_trait(trait, value)
            assert {name: getattr(fresh, name) for name in state} == state, i
            for mine, theirs in zip(look(instrument), look(fresh), strict=True):
                assert alike(mine, theirs), (i, theirs)
            fresh.close()


def test_explorer(world, cam, clip_es, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_KEPT", 2**22)  # so that results are forgotten, too
    given = {"CAM": cam, "CLIP-ES": clip_es}, world, world.masks, world.classes
    make = partial(CAMExplorer, *given)
    change_often(make, [set_one], lambda it: (it.view.before, it.view.after, it.words), seed=1)


def test_lab(world, clip_es):
    words = [*clip_es.prompts.backgrounds, "zebra", "ship", "golden", "texture"]
    templates = ["a {}", "a photo of a {}", "a {} without background", "{} | a plain {}"]
    names = clip_es.prompts.classes

    def edit(it, dice):
        new = {
            "backgrounds": ", ".join(dice.sample(words, dice.randint(1, 8))),
            "synonyms": ", ".join(dice.sample(["cat", "kitten", "vessel"], dice.randint(0, 3))),
            "name": f"{names[it._index]}{dice.choice(['', 's', ' of paper'])}",
            "template": dice.choice(templates),
        }
        it.edit(*dice.choice(list(new.items())))

    def switch(it, dice):
        on = [word for word in it.prompts.backgrounds if word not in it.off]
        if it.off or len(on) > 1:
            it._pressed(dice.choice(it.off or on))

    def step(it, dice):
        if it._past:
            it.undo()
            if dice.random() < 0.5:
                it.redo()

    def score(it, dice):
        it.panel = dice.choice([*["words"] * 12, "IoU", "leave one out"])

    # the last words are no state of a fresh lab
    set_some = partial(set_one, skipped=("prompts", "off", "panel", "compare"))
    changes = [edit, edit, edit, set_some, set_some, set_some, switch, step, score]
    make = partial(PromptLab, clip_es, world, world.masks)
    look = lambda it: (it.screen.before, it.screen.after, it.bars.rows, it.unknown)  # noqa: E731
    change_often(make, changes, look, seed=2, more=60)


def test_atlas(world, masks_of):
    masks, protocol = masks_of(world), Protocol("PaperWorld", "val")
    options = {"classes": world.classes, "protocol": protocol, "n_bootstrap": 0}
    reports = {m: evaluate(mine, world.masks, **options) for m, mine in masks.items()}

    def press(it, dice):
        bars = dice.choice([it.class_bars, it.image_bars])
        if bars.rows:
            bars.click(dice.choice(bars.rows)["name"])

    make = partial(ErrorAtlas, world, masks, world.masks, reports)
    look = lambda it: (it.screen.before, it.screen.after, it.image_bars.rows, it.words)  # noqa: E731
    change_often(make, [set_one, set_one, press], look, seed=3)
