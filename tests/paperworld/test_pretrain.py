"""Training the tiny CLIP: loss by hand, equal runs, checkpoints, and what is written."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from wsss_kit.clip import load_clip
from wsss_kit.clip.texts import text_features
from wsss_kit.engine import generator
from wsss_kit.files import load_model
from wsss_kit.paperworld import COOCCURRENCE, TORN, page
from wsss_kit.paperworld.pretrain import Pretraining, WebImages, contents_of, contrastive_loss
from wsss_kit.paperworld.tiny_clip import ARCHITECTURE, build, tie_keys, train_image_features
from wsss_kit.paperworld.words import WordTokenizer

SMALL = {"steps": 4, "batch": 4, "workers": 0}


# -- features -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build(ARCHITECTURE).eval()
    tie_keys(model)
    return model


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
    result = contrastive_loss(images, texts, torch.tensor(3.0), contents_of(captions))
    assert result.item() == pytest.approx(total, rel=1e-5)


# -- what is written ------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [0.0, 0.9])
def test_every_pass_draws_images_of_its_own(torn):
    images, ids, contents = WebImages(16, 3, 48, torn=torn).batch([2, 5], partial(generator, 1, 0))
    assert images.shape == (2, 3, 48, 48) and images.dtype == torch.uint8
    draw = page.__wrapped__
    for image, row, number in zip(images, ids, (2, 5), strict=True):
        seed = generator(1, 0, 1 + number).initial_seed()
        drawn = draw("web", 3, seed, 48, COOCCURRENCE["web"], torn=torn)
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(drawn.drawing.image))
        assert torch.equal(row, WordTokenizer()([drawn.caption])[0])
    assert contents.tolist() in ([0, 1], [0, 0])
    later = WebImages(16, 3, 48, torn=torn).batch([2, 5], partial(generator, 1, 1))
    assert not torch.equal(later[0], images)


def test_a_run_from_its_first_step_to_its_file(tmp_path):
    run = Pretraining(tmp_path, **{**SMALL, "steps": 5, "fall": 0.6})
    seen, after = [], run.after_step

    def watched(step):
        after(step)
        seen.append({k: v.clone() for k, v in run.model.state_dict().items()})

    run.after_step = watched
    assert run.falls_from == 2 and run.result is run.model
    run.run()
    assert run.average.n_averaged == 3 and len(run.losses_) == 1
    for name, result in run.result.state_dict().items():
        expected = torch.stack([weights[name] for weights in seen[2:]]).mean(0)
        torch.testing.assert_close(result, expected)
    with pytest.raises(ValueError, match="with seed 0, and this one asks for 5"):
        Pretraining(tmp_path, **{**SMALL, "steps": 5, "fall": 0.6}, seed=5).run()
    path = run.export(tmp_path / "tiny", n=8)
    card = load_model(path)[1]
    assert card["architecture"] == ARCHITECTURE
    assert card["words"] == list(WordTokenizer().words)
    assert card["training"]["steps"] == 5 and card["data"]["pictures"] == 20
    assert card["data"]["torn"] == TORN["web"]
    assert set(card["zero_shot"]) == {"pictures_drawn", "cutouts", "out_of_context", "backgrounds"}
    clip = load_clip("paper", weights=path, device="cpu")
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = train_image_features(run.result, (images - 0.45) / 0.27, run.mask, None)
        words = run.result.encode_text(WordTokenizer()(["a cat"]))
    torch.testing.assert_close(clip.encode_image(images), expected, atol=1e-4, rtol=1e-3)
    words = F.normalize(words, dim=-1)
    torch.testing.assert_close(clip.encode_text(["a cat"]), words, atol=1e-5, rtol=1e-4)
    assert path.stat().st_size < 3_500_000


def test_half_of_the_patches_and_nearly_all_words(tmp_path):
    run = Pretraining(tmp_path, **SMALL)
    torch.manual_seed(0)
    kept = run._kept()
    assert len(kept) == 1 + 72 and kept[0] == 0 and kept[-1] <= 144 and (kept.diff() > 0).all()
    captions = ["a photo of a golden cow on the grass"] * 300
    ids, plain = run._forgotten(run.tokenizer(captions)), run.tokenizer(captions)[:, :11]
    assert ids.shape == (300, 11)
    changed = ids != plain
    assert (ids[changed] == 1).all() and not changed[:, [0, 10]].any()
    assert 0.015 < changed[:, 1:10].float().mean() < 0.045
