"""The search of background words: scores of subsets, intervals, what is kept, refusals."""

import json

import numpy as np
import pytest
import torch

from wsss_kit.evaluation import BackgroundRule, Protocol, evaluate, word_scores
from wsss_kit.evaluation.word_scores import WordScores, WordSubsets, changes, score_of
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.search import Search, search_backgrounds

RULE = BackgroundRule(threshold=0.4)
N = 8


@pytest.fixture(scope="module")
def world():
    return PaperWorld(N)


def method_of(clip, **options):
    return CLIPES(clip, prompts=Prompts.paper(), **options).fit()


def some_lists(rng, n_words, n=4):
    return (torch.rand(n, n_words, generator=rng) < 0.4) | (torch.arange(n_words) == 1)


@pytest.mark.parametrize("options", [{}, {"preset": "clean"}, {"scales": (1.0, 1.5)}])
def test_a_subset_is_clip_es_with_these_words(clip, world, rng, options):
    method, on = method_of(clip, **options), some_lists(rng, 12)
    for sample in world[:3]:
        opened = method.open(sample.image, sample.labels)
        refined, boxes, probs = WordSubsets(opened)(on)
        for v, row in enumerate(on):
            names = [w for w, is_on in zip(method.prompts.backgrounds, row, strict=True) if is_on]
            anew = CLIPES(clip, prompts=method.prompts.replace(backgrounds=names), **options)
            expected = anew.fit().open(sample.image, sample.labels).maps()
            close = {"atol": 1e-5, "rtol": 0}
            torch.testing.assert_close(refined[v], expected.refined, **close)
            assert torch.equal(boxes[v], expected.masks)
            is_on = torch.cat([row.new_ones(len(boxes[v])), row])
            torch.testing.assert_close(probs[v][is_on], expected.probs, **close)
            assert not probs[v][~is_on].any()


def test_scores_and_changes_are_those_of_reports(clip, world, rng):
    method, on = method_of(clip), some_lists(rng, 12, n=2).numpy()
    scores = WordScores(method, method.prompts, objective="mIoU", rule=RULE)
    for sample in world:
        scores.add(sample, world.masks[sample.name])
    counts, reports = scores(on), []
    for row in on:
        words = np.array(method.prompts.backgrounds)[row].tolist()
        anew = method_of(clip).prompts.with_backgrounds(words)
        anew, predicted = CLIPES(clip, prompts=anew).fit(), {}
        for sample in world:
            maps = torch.zeros(1, 8, 96, 96)
            if sample.labels.any():
                opened = anew.open(sample.image, sample.labels)
                maps[0, sample.labels > 0] = opened.maps().full_size((96, 96))
            predicted[sample.name] = RULE.masks(maps, sample.labels[None])[0]
        options = {"classes": world.classes, "protocol": Protocol("p", "val"), "n_bootstrap": 0}
        reports.append(evaluate(predicted, world.masks, **options))
    expected = [100 * report.mean_iou for report in reports]
    assert score_of(counts.sum(0)) == pytest.approx(expected, abs=1e-6)
    found = changes(counts[:, :1], counts[:, 1:], alpha=0.05, n_bootstrap=200, seed=0)
    assert found.gain == pytest.approx(expected[0] - expected[1])
    assert found.low < found.gain < found.high
    other = scores(on, rule=BackgroundRule(threshold=0.9))
    assert scores.rule == RULE and (score_of(other.sum(0)) != score_of(counts.sum(0))).all()


def test_intervals_hold_all_differences_at_once():
    """Of 200 families of twenty differences that are all 0, about one in twenty has a miss."""
    rng, missed = np.random.default_rng(0), 0
    for seed in range(200):
        counts = np.ones((60, 20, 1, 2))
        counts[..., 0] = rng.normal(0.5, 0.1, (60, 20, 1))
        before = np.ones((60, 1, 1, 2)) * 0.5
        before[..., 1] = 1
        found = changes(counts, before, alpha=0.05, n_bootstrap=400, seed=seed)
        missed += ((found.low > 0) | (found.high < 0)).any()
    assert 2 <= missed <= 24


def fake(effects, n_images=60, *, noise=1.0):
    """A search whose lists score the sum of their words' effects, in points, with noise."""
    clip_es = CLIPES.__new__(CLIPES)
    torch.nn.Module.__init__(clip_es)
    clip_es.prompts = Prompts(["cat"], list(effects), template="a {}")
    search = Search(clip_es, list(effects), rule=RULE, most=3, n_bootstrap=500)
    per_image = np.random.default_rng(0).normal(0, noise, (n_images, len(effects)))
    per_image += np.array(list(effects.values())) - per_image.mean(0)

    def scored(on, *, rule=None):
        total = 30 + (per_image @ on.T)  # (M, V)
        return np.stack([total / 100, np.ones_like(total)], -1)[:, :, None]

    scored.objective, scored.rule, scored.names = "mIoU", RULE, range(n_images)
    scored.images_with = dict
    scored.prompts, scored.method = clip_es.prompts, clip_es
    search.scores = scored
    return search


def test_proven_words_are_kept_and_the_best_list_is_filled():
    search = fake({"good": 5.0, "fair": 2.0, "hint": 0.2, "none": 0.0, "bad": -3.0}, noise=2.0)
    rows = list(search.steps())
    assert [(r["step"], r["word"]) for r in rows] == [("add", w) for w in ("good", "fair", "hint")]
    assert rows[-1]["score"] == pytest.approx(37.2) and rows[-1]["low"] < 0 < rows[1]["low"]
    found = search.result()
    assert found.prompts.backgrounds == ("good", "fair")
    assert found.best.backgrounds == ("good", "fair", "hint")
    status = found.words["status"].to_dict()
    assert status["good"] == status["fair"] == "kept" and status["bad"] == "dropped"
    hint = found.words.loc["hint"]
    assert hint["status"] == "undecided" and hint["images"] > 60
    # with so many images the lower bound would be 0
    assert hint["images"] == pytest.approx(60 * ((hint["gain"] - hint["low"]) / 0.2) ** 2, abs=1)
    assert str(found).startswith("kept: good, fair\nundecided: hint")
    sure = fake({"good": 5.0, "tiny": 0.01}, noise=0.001)
    list(sure.steps())
    assert sure.result().words["status"].tolist() == ["kept", "kept"]


def test_a_search_may_be_stopped_and_nothing_may_be_found():
    search = fake({"good": 5.0, "fair": 2.0})
    assert search.result().prompts == search.scores.method.prompts  # its own: none was kept yet
    next(search.steps())
    assert search.result().prompts.backgrounds == ("good",)
    unknown = fake({"a": float("nan"), "b": float("nan")})  # a score that no image has
    assert not list(unknown.steps())
    useless = fake({"none": 0.0, "bad": -3.0})
    list(useless.steps())
    found = useless.result()
    assert (found.words["status"] != "kept").all() and found.words.loc["bad", "high"] < 0
    assert found.prompts == useless.scores.method.prompts


def test_found_prompts_are_written_with_where_they_come_from(clip, world, tmp_path, monkeypatch):
    options = {"masks": world.masks, "rule": RULE, "most": 2, "alpha": 0.9, "shown": False}
    held_out = world[:4], world.masks
    monkeypatch.setattr("wsss_kit.prompts.search.FEWEST", 2)
    found = search_backgrounds(
        method_of(clip), world, ["rails", "fog"], held_out=held_out, per_class=True, **options
    )
    path = tmp_path / "found.json"
    assert found.to_json(path) == path.read_text(encoding="utf-8")
    assert Prompts.from_json(path) == found.prompts
    assert Prompts.from_json(found.to_json(best=True)) == found.best
    made_by = json.loads(path.read_text(encoding="utf-8"))["made_by"]
    assert made_by["candidates"] == ["rails", "fog"] and made_by["images"] == N
    assert set(made_by["before"]) == set(Prompts.paper().backgrounds)
    assert made_by["held out"]["best"]["images"] == 4 == found.confirmed.loc["kept", "images"]
    counts = {name: sum(s.labels[c] > 0 for s in world) for c, name in enumerate(world.classes)}
    assert found.prompts.class_backgrounds and set(found.path["class"]) > {""}
    assert all(counts[name] > 1 for name in found.prompts.class_backgrounds)
    clims = CLIMS(clip, "paper", prompts=found.prompts.replace(template="a photo of {}"))
    assert clims.prompts.backgrounds_of(next(iter(found.prompts.class_backgrounds)))
    for name, words in found.prompts.class_backgrounds.items():
        assert name in world.classes and set(words) <= {"rails", "fog"}


@pytest.mark.parametrize("objective", word_scores.TRACKS)
def test_an_objective_without_masks_follows_miou_or_is_refused(clip, objective, monkeypatch):
    """The figure on record is of 100 images and 200 lists; here fewer of both."""
    world, method = PaperWorld(24), method_of(clip)
    words = method.prompts.backgrounds
    given = {"objective": objective, "rule": RULE}
    track = word_scores.rank_correlation(method, world, world.masks, words, n_lists=40, **given)
    assert track == pytest.approx(word_scores.TRACKS[objective], abs=0.35)
    found = search_backgrounds(method, world[:3], words[:2], most=1, shown=False, **given)
    assert found.made_by["objective"] == objective
    monkeypatch.setitem(word_scores.TRACKS, objective, 0.3)
    with pytest.raises(ValueError, match=r"correlation of 0\.30 to mIoU on the embedded world"):
        search_backgrounds(method, world, words, **given)
    monkeypatch.setattr(word_scores, "rank_correlation", lambda *_, **__: float("nan"))
    with pytest.raises(ValueError, match=r"of nan to mIoU on these 24 images, .* cannot choose"):
        search_backgrounds(method, world, words, masks=world.masks, **given)


def test_what_cannot_be_searched(clip, world):
    method, masks = method_of(clip), world.masks
    plus, logit = method_of(clip, preset="plus"), method_of(clip, target="logit")
    for of, words, options, message in (
        (method, ["sky", "Cat"], {"masks": masks, "rule": RULE}, "has 'Cat', a class; leave it"),
        (method, ["sky", "sky"], {"masks": masks, "rule": RULE}, "sky"),
        (method, ["sky"], {"masks": masks}, "mIoU is of masks, and rule is None; give a Backgr"),
        (method, ["sky"], {"rule": RULE}, "mIoU needs ground truth; expected masks, or an objec"),
        (method, ["sky"], {"masks": {}, "rule": RULE}, "8 of 8 images have no target mask"),
        (method, ["sky"], {"objective": "beauty"}, "objective is 'beauty', expected"),
        (plus, ["sky"], {"masks": masks, "rule": RULE}, "depends on the words, as preset 'plus'"),
        (logit, ["sky"], {"masks": masks, "rule": RULE}, "without a softmax .* target='softmax'"),
    ):
        with pytest.raises(ValueError, match=message):
            search_backgrounds(of, world, words, shown=False, **options)
