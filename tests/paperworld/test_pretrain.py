"""Training the tiny CLIP: loss by hand, equal runs, checkpoints, and what is written."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
from torch.nn import functional as F

from wsss_kit.clip import load_clip
from wsss_kit.clip.texts import text_features
from wsss_kit.clip.vision import window_mask
from wsss_kit.files import load_model
from wsss_kit.paperworld.pretrain import Pretraining, WebBatches, contrastive_loss
from wsss_kit.paperworld.tiny_clip import (
    ARCHITECTURE,
    build,
    tie_keys,
    train_image_features,
)
from wsss_kit.paperworld.words import _OPENINGS, WordTokenizer
from wsss_kit.paperworld.world import TORN, PaperWorld
from wsss_kit.training import Diverged

SMALL = {"steps": 4, "batch": 4, "workers": 0}


def state_of(run):
    """Weights and, once the last stretch has begun, their mean."""
    weights = {k: v.clone() for k, v in run.model.state_dict().items()}
    return weights | {f"mean {k}": v.clone() for k, v in run.average.state_dict().items()}


def assert_equal_states(one, other):
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run of four steps, and its state."""
    run = Pretraining(tmp_path_factory.mktemp("finished"), **SMALL).run()
    return run, state_of(run)


# -- features -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build(ARCHITECTURE).eval()
    tie_keys(model)
    return model


@torch.no_grad()
def test_image_features_equal_open_clip(model):
    images = torch.rand(2, 3, 96, 96)
    result = train_image_features(model, images, None, None)
    torch.testing.assert_close(result, model.encode_image(images), atol=1e-5, rtol=1e-4)
    every = torch.arange(145)
    torch.testing.assert_close(train_image_features(model, images, None, every), result)


@torch.no_grad()
def test_image_features_with_a_window_equal_the_frozen_model(model):
    from wsss_kit.clip import FrozenCLIP
    from wsss_kit.paperworld.tiny_clip import MEAN, STD

    clip = FrozenCLIP(model, mean=MEAN, std=STD, window=2)
    images = torch.rand(2, 3, 96, 96)
    mask = torch.zeros(145, 145).masked_fill(window_mask((12, 12), 2), float("-inf"))
    result = train_image_features(model, (images - 0.45) / 0.27, mask, None)
    torch.testing.assert_close(result, clip.encode_image(images), atol=1e-5, rtol=1e-4)
    model.requires_grad_(True)


@torch.no_grad()
def test_dropped_patches_play_no_part(model):
    images = torch.rand(1, 3, 96, 96)
    kept = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(1, 73)])  # the upper half
    below = images.clone()
    below[:, :, 48:] = 0
    one, other = (train_image_features(model, x, None, kept) for x in (images, below))
    assert torch.equal(one, other)
    assert not torch.allclose(one, train_image_features(model, images, None, None))


@torch.no_grad()
def test_text_features_equal_open_clip_also_when_cut(model):
    ids = WordTokenizer()(["a cat on the grass", "the sky", "fog"])
    expected = model.encode_text(ids)
    for length in (20, 7):
        result = text_features(model, ids[:, :length])
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)


def test_tying_copies_queries_over_keys():
    model = build(ARCHITECTURE)
    block = model.visual.transformer.resblocks[1].attn
    with torch.no_grad():
        block.in_proj_bias.copy_(torch.arange(384.0))
    before = block.in_proj_weight.detach().clone()
    tie_keys(model)
    assert torch.equal(block.in_proj_weight[128:256], before[:128])
    assert torch.equal(block.in_proj_weight[256:], before[256:])
    assert torch.equal(block.in_proj_bias[128:256], torch.arange(128.0))


# -- loss and schedule ----------------------------------------------------------------------


def test_the_loss_by_hand(rng):
    images, texts = (F.normalize(torch.randn(4, 5, generator=rng), dim=-1) for _ in range(2))
    captions = ["a photo of a cat", "a cat", "an image of fog", "an image of a clean cat"]
    same = [{0, 1}, {0, 1}, {2}, {3}]  # openings do not count
    total = 0.0
    for one, other in ((images, texts), (texts, images)):
        for i in range(4):
            logits = [3.0 * float(one[i] @ other[j]) for j in range(4)]
            whole = math.log(sum(map(math.exp, logits)))
            total += sum(whole - logits[j] for j in same[i]) / len(same[i]) / 8
    result = contrastive_loss(images, texts, torch.tensor(3.0), captions)
    assert result.item() == pytest.approx(total, rel=1e-5)


def test_equal_pairs_with_a_large_scale_cost_nothing():
    eye = torch.eye(4)
    captions = ["one", "two", "three", "four"]
    assert contrastive_loss(eye, eye, torch.tensor(50.0), captions) < 1e-6
    repeated = contrastive_loss(eye, eye, torch.tensor(0.0), ["one"] * 4)
    assert repeated.item() == pytest.approx(math.log(4))


def test_the_opening_of_a_caption_does_not_count():
    """Captions of one content are positives of each other, with every opening that is drawn."""
    openings = [f"{words} " if words else "" for words in {*_OPENINGS, "a clean cutout of"}]
    captions = [f"{opening}two boats" for opening in openings]
    assert len(captions) == 5
    eye, scale = torch.eye(5), torch.tensor(20.0)
    same = contrastive_loss(eye, eye, scale, ["two boats"] * 5)
    assert contrastive_loss(eye, eye, scale, captions) == same


def test_the_learning_rate_rises_stays_and_falls(tmp_path):
    run = Pretraining(tmp_path, steps=1000, learning_rate=2e-3, fall=0.2)
    rates = [run.rate(step) for step in range(1000)]
    assert run.falls_from == 800
    assert rates[0] == pytest.approx(2e-3 * 1.001 / 150)
    assert rates[:150] == sorted(rates[:150])
    assert rates[149:801] == pytest.approx([2e-3 * 1.001] * 652)
    assert rates[800:] == sorted(rates[800:], reverse=True)
    assert rates[900] == pytest.approx(2e-3 * (0.5 + 1e-3)) and 0 < rates[-1] < 3e-6


# -- runs -----------------------------------------------------------------------------------


def test_equal_seeds_give_equal_runs(finished, tmp_path):
    run, state = finished
    assert run.step == run.steps == 4
    assert_equal_states(state_of(Pretraining(tmp_path / "same", **SMALL).run()), state)
    other = Pretraining(tmp_path / "other", **SMALL, seed=1)
    fresh = Pretraining(tmp_path / "fresh", **SMALL)
    assert not torch.equal(other.model.visual.proj, fresh.model.visual.proj)
    assert not torch.equal(state["visual.proj"], fresh.model.visual.proj)


@pytest.mark.parametrize("read", [3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(finished, tmp_path, read):
    """The power fails before a step; the last checkpoint is of step 2 or 3."""

    def failing(batches):
        for k, batch in enumerate(batches):
            if k == read - 1:
                raise KeyboardInterrupt
            yield batch

    every = 2 if read == 3 else 3
    with pytest.raises(KeyboardInterrupt):
        Pretraining(tmp_path, **SMALL).run(save_every=every, progress=failing)
    resumed = Pretraining(tmp_path, **SMALL)
    assert resumed.resume() and resumed.step == every < resumed.steps
    seen = []
    resumed.run(progress=lambda batches: (seen.append(b) or b for b in batches))
    assert len(seen) == 4 - every
    assert_equal_states(state_of(resumed), finished[1])


def test_what_comes_out_is_the_mean_of_the_weights_over_the_last_stretch(tmp_path):
    run, seen = Pretraining(tmp_path, **{**SMALL, "steps": 5, "fall": 0.6}), []

    def watched(batches):
        for batch in batches:
            yield batch
            seen.append({k: v.clone() for k, v in run.model.state_dict().items()})

    assert run.falls_from == 2 and run.result is run.model
    run.run(progress=watched)
    assert run.average.n_averaged == 3
    for name, result in run.result.state_dict().items():
        expected = torch.stack([weights[name] for weights in seen[2:]]).mean(0)
        torch.testing.assert_close(result, expected)
    assert not torch.allclose(run.result.visual.proj, run.model.visual.proj, atol=1e-7)


def test_a_finished_run_is_taken_as_it_is(finished):
    run, state = finished
    again = Pretraining(run.folder, **SMALL).run()
    assert again.step == again.steps
    assert_equal_states(state_of(again), state)


def test_a_loss_that_runs_away_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    run = Pretraining(tmp_path, steps=200, batch=2, workers=0)
    losses = iter([0.7] * 100 + [math.nan] * 100)
    monkeypatch.setattr(run, "_train_step", lambda *_: next(losses))
    with pytest.raises(Diverged, match="in step 200: its loss is nan and began"):
        run.run(save_every=100)
    fresh = Pretraining(tmp_path, steps=200, batch=2, workers=0)
    assert fresh.resume() and fresh.step == 100


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("steps", v) for v in (0, -1, 1.5)),
        *(("batch", v) for v in (0, 2.5)),
        *(("seed", v) for v in (-1, "one")),
        ("workers", -1),
        *(("learning_rate", v) for v in (0, math.nan, math.inf)),
        *((k, v) for k in ("fall", "torn") for v in (-0.1, 1.1, math.nan)),
    ],
)
def test_numbers_that_make_no_run_leave_no_folder(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key} is .*, expected a (whole )?number"):
        Pretraining(tmp_path / "run", **{**SMALL, key: value})
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_has_nothing_to_resume(tmp_path):
    assert Pretraining(tmp_path / "new" / "run", **SMALL).resume() is False


@pytest.mark.parametrize(("key", "own"), [("seed", 5), ("batch", 2), ("torn", 0.5)])
def test_a_checkpoint_of_another_run_is_refused_and_untouched(finished, key, own):
    folder = finished[0].folder
    before = (folder / "checkpoint.safetensors").read_bytes()
    run = Pretraining(folder, **{**SMALL, key: own})
    with pytest.raises(ValueError, match=rf"with {key} [\d.]+, and this one asks for {own}"):
        run.run()
    assert run.step == 0
    assert (folder / "checkpoint.safetensors").read_bytes() == before


def test_a_run_past_its_steady_part_cannot_be_prolonged(finished):
    """Its learning rate has begun to fall; the docstring of `resume` promises an error."""
    run = Pretraining(finished[0].folder, **{**SMALL, "steps": 40})
    with pytest.raises(ValueError, match=r"steady|fall"):
        run.resume()


def test_a_steady_checkpoint_can_be_prolonged(finished):
    folder = finished[0].folder
    assert finished[0].falls_from == 3
    longer = Pretraining(folder, **{**SMALL, "steps": 40})
    assert longer.resume("steady") and longer.step == 3


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    run = Pretraining(tmp_path, **SMALL)
    run.save("checkpoint")
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def refuse(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    run.step = 3
    with pytest.raises(OSError, match="no space left"):
        run.save("checkpoint")
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    fresh = Pretraining(tmp_path, **SMALL)
    assert fresh.resume() and fresh.step == 0


def test_forgotten_words_are_words(finished):
    """Three in a hundred become unknown; start, end and padding never do."""
    run, random = finished[0], torch.Generator().manual_seed(0)
    captions = ["a photo of a golden cow on the grass"] * 300
    ids, plain = run._texts(captions, random), run.tokenizer(captions)[:, :11]
    assert ids.shape == (300, 11)
    changed = ids != plain
    assert (ids[changed] == 1).all() and not changed[:, [0, 10]].any()
    assert 0.015 < changed[:, 1:10].float().mean() < 0.045


def test_half_of_the_patches_to_the_last_step(finished):
    run, random = Pretraining(finished[0].folder, **SMALL), torch.Generator().manual_seed(0)
    kept = run._kept(random)
    assert len(kept) == 1 + 72 and kept[0] == 0
    assert kept.tolist() == sorted(set(kept.tolist())) and kept.max() <= 144
    run.step = run.steps - 1
    assert len(run._kept(random)) == 1 + 72


@pytest.mark.parametrize("torn", [0.0, 0.9])
def test_a_run_sees_as_many_torn_objects_as_it_asks_for(tmp_path, torn):
    images, captions = WebBatches(16, 3, 48, 2, 9, torn=torn)[1]
    world = PaperWorld(64, split="web", size=48, seed=3, torn=torn)[48:]
    assert captions == list(world.captions.values())
    expected = torch.stack([sample.image for sample in world])
    torch.testing.assert_close(images.float() / 255, expected)
    assert Pretraining(tmp_path, **SMALL, torn=torn).torn == torn


# -- what is written ------------------------------------------------------------------------


def test_exported_weights_come_back(finished, tmp_path):
    run = Pretraining(finished[0].folder, **SMALL)
    run.resume()
    path = run.export(tmp_path / "tiny", n=8)
    card = load_model(path)[1]
    assert card["architecture"] == ARCHITECTURE
    assert card["words"] == list(WordTokenizer().words)
    assert card["training"]["steps"] == 4 and card["data"]["pictures"] == 16
    assert card["data"]["torn"] == TORN["web"]
    assert card["zero_shot"]["pictures_drawn"] == 8
    assert set(card["zero_shot"]) == {"pictures_drawn", "cutouts", "out_of_context", "backgrounds"}
    json.dumps(card)
    clip = load_clip("paper", weights=path, device="cpu")
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = train_image_features(run.result, (images - 0.45) / 0.27, run.mask, None)
        words = run.result.encode_text(WordTokenizer()(["a cat"]))
    torch.testing.assert_close(clip.encode_image(images), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        clip.encode_text(["a cat"]), F.normalize(words, dim=-1), atol=1e-5, rtol=1e-4
    )
    assert path.stat().st_size < 3_500_000


def test_building_a_run_leaves_the_global_random_state_alone(tmp_path):
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    Pretraining(tmp_path, **SMALL)
    assert torch.equal(torch.rand(3), expected)
