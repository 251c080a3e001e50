"""Ranking words: sharpness by hand, and a word left out against all done again without it."""

import numpy as np
import pytest
import torch

from wsss_kit.evaluation import BackgroundRule, Protocol, evaluate
from wsss_kit.evaluation.prompt_ranking import (
    leave_one_out,
    rank_synonyms,
    rank_templates,
    sharpness,
)
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import clip_es_maps

RULE = BackgroundRule(threshold=0.4)
KINDS = ["boundary", "missed", "spilled", "confused"]


@pytest.fixture(scope="module")
def world():
    return PaperWorld(12)


def test_sharpness_by_hand(rng):
    scores, present = torch.rand(5, 4, generator=rng), torch.rand(5, 4, generator=rng) > 0.4
    result = sharpness(scores, present)
    for row, on, value in zip(scores, present, result, strict=True):
        mine = row[on].double().numpy()
        if len(mine) < 2:
            assert value.isnan()
        else:
            assert value == pytest.approx(np.var(mine) / np.mean(mine), rel=1e-5)
    assert sharpness(torch.zeros(1, 2), torch.ones(1, 2)) == 0
    with pytest.raises(ValueError, match=r"scores have shape \(2,\) and present \(2,\)"):
        sharpness(torch.zeros(2), torch.zeros(2))


def literal_sharpness(clip, world, prompts):
    """Image by image, class by class."""
    values = []
    texts = [clip.encode_text(prompts.class_texts(t)) for t in prompts.templates]
    texts = torch.nn.functional.normalize(torch.stack(texts).mean(0), dim=-1)
    for sample in world:
        if sample.labels.sum() < 2:
            continue
        seen = clip.encode_image(sample.image[None])
        seen = seen / seen.norm()
        p = (100 * seen @ texts.T * clip.logit_scale / 100).softmax(1)[0]
        mine = np.array([p[c].item() for c in range(8) if sample.labels[c] > 0])
        values.append(mine.var() / mine.mean())
    return np.mean(values), len(values)


def test_templates_are_ranked_by_sharpness(clip, world):
    templates = ["a photo of a {}", "a {} without background", "two {}", "a {} on grass"]
    table = rank_templates(clip, world, Prompts.paper(), templates, shown=False)
    assert set(table.index) == set(templates) and table.index.name == "template"
    assert table["sharpness"].is_monotonic_increasing
    for template, row in table.iterrows():
        prompts = Prompts.paper().replace(template=template)
        expected, images = literal_sharpness(clip, world, prompts)
        assert row["sharpness"] == pytest.approx(expected, rel=1e-4)
        assert row["images"] == images > 3
    assert table["sharpness"].nunique() == 4


def test_synonyms_are_ranked_alone_and_together(clip):
    world, name = PaperWorld(60), "cat"
    phrases = ["cat", "kitten", "spotted kitten"]
    prompts = Prompts.paper().replace(synonyms={"cow": "bull", "cat": "kitten"})
    table = rank_synonyms(clip, world, prompts, name, phrases, shown=False)
    assert set(table.index) == {*phrases, "all, one sentence", "all, mean feature"}
    assert table["sharpness"].is_monotonic_increasing
    having = [s for s in world if s.labels[7] > 0 and s.labels.sum() > 1]
    together = prompts.replace(synonyms={"cow": "bull", "cat": ["cat", "kitten", "spotted kitten"]})
    sentence, n = literal_sharpness(clip, having, together)
    assert table.loc["all, one sentence", "sharpness"] == pytest.approx(sentence, rel=1e-4)
    assert set(table["images"]) == {n} and n == len(having) > 1
    bare = Prompts.paper()  # no synonym yet, and its fusion does not matter
    tables = (
        rank_synonyms(clip, world, bare.replace(fusion=f), name, phrases, shown=False)
        for f in ("sentence", "feature")
    )
    assert next(tables).equals(next(tables))
    alone = rank_synonyms(clip, world, prompts, name, ["kitten"], shown=False)
    assert alone.index.tolist() == ["kitten"]
    assert alone["sharpness"].item() == pytest.approx(table.loc["kitten", "sharpness"])


def all_again(clip, world, prompts):
    """IoU and shares in points by a method that never knew the word."""
    method = CLIPES(clip, prompts=prompts).fit()
    masks = {}
    for s in world:
        maps = clip_es_maps(s.image[None], s.labels[None], method=method)
        masks[s.name] = RULE.masks(maps, s.labels[None])[0]
    protocol = Protocol("PaperWorld", "val")
    return evaluate(masks, world.masks, classes=world.classes, protocol=protocol, n_bootstrap=0)


def test_a_word_left_out_is_everything_again_without_it(clip, world):
    prompts, words = Prompts.paper(), ["grass", "rails"]
    method = CLIPES(clip, prompts=prompts)
    table = leave_one_out(method, world, world.masks, rule=RULE, words=words, shown=False)
    assert list(table.columns) == ["word", "class", "images", "sharpness", "iou", *KINDS]
    usual = all_again(clip, world, prompts)
    for word in words:
        less = prompts.replace(backgrounds=[w for w in prompts.backgrounds if w != word])
        without = all_again(clip, world, less)
        rows = table[table["word"] == word].set_index("class")
        assert list(rows.index) == ["background", *world.classes, "mean"]
        expected = 100 * (without.iou - usual.iou)
        np.testing.assert_allclose(rows["iou"][:-1], expected, atol=0.2)
        gain = 100 * (without.mean_iou - usual.mean_iou)
        assert rows.loc["mean", "iou"] == pytest.approx(gain, abs=0.1)
        shares = 100 * (without.error_shares - usual.error_shares)
        np.testing.assert_allclose(rows[KINDS][:-1], shares, atol=0.2)
        assert rows["images"]["mean"] == len(world)
    changed = table[table["class"] == "mean"]["iou"].abs()
    assert changed.max() > 0.3


def test_without_masks_sharpness_alone_is_told(clip, world):
    method = CLIPES(clip, prompts=Prompts.paper()).fit()
    table = leave_one_out(method, world, words=["grass"], shown=False)
    assert list(table.columns) == ["word", "class", "images", "sharpness"]
    values = {True: [], False: []}
    words = method.prompts.backgrounds
    for sample in world:
        if sample.labels.sum() < 2:
            continue
        for without in (True, False):
            keep = [i for i, word in enumerate(words) if not (without and word == "grass")]
            texts = [method.class_features_[sample.labels > 0], method.background_features_[keep]]
            last, _, _ = clip.last_block(sample.image[None], round_positions=True)
            seen = torch.nn.functional.normalize(last.embedding[0], dim=0)
            p = (clip.logit_scale * torch.cat(texts) @ seen).softmax(0)[: len(texts[0])].numpy()
            values[without].append(p.var() / p.mean())
    expected = np.mean(values[True]) - np.mean(values[False])
    mean = table[table["class"] == "mean"]["sharpness"].item()
    assert mean == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_what_cannot_be_meant(clip, world):
    prompts, method = Prompts.paper(), CLIPES(clip, prompts=Prompts.paper())
    alone = [s._replace(labels=torch.eye(8)[0]) for s in world]
    fewer = [s._replace(labels=s.labels[1:]) for s in world]
    for call, arguments, message in (
        (leave_one_out, (method, world, None, {"words": ["gras"]}), "words has 'gras', expected"),
        (leave_one_out, (method, world, None, {"rule": RULE}), "masks is NoneType and rule const"),
        (leave_one_out, (method, world, {}, {"rule": RULE}), "12 of 12 images have no target mask"),
        (rank_templates, (clip, world, prompts, ["a cat"], {}), "template is 'a cat', expected"),
        (rank_templates, (clip, world, prompts, [], {}), "templates is empty"),
        (rank_templates, (clip, alone, prompts, ["a {}"], {}), "none of 12 images has two classes"),
        (rank_templates, (clip, fewer, prompts, ["a {}"], {}), "7 labels and the prompts 8 cl"),
        (rank_synonyms, (clip, world, prompts, "kat", ["x"], {}), "class 'kat'.*closest: 'cat'"),
        (rank_synonyms, (clip, alone, prompts, "cat", ["x"], {}), "none .* 'cat' and another"),
    ):
        *positional, options = arguments
        with pytest.raises(ValueError, match=message):
            call(*positional, **options)
