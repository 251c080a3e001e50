"""The frozen CLIP against open_clip's own forward passes, and the tiny CLIP in the package."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.clip import OPENAI_MEAN, OPENAI_STD, FrozenCLIP, load_clip, texts
from wsss_kit.clip.vision import window_mask
from wsss_kit.files import load_model, save_model
from wsss_kit.paperworld.tiny_clip import TINY_CLIP
from wsss_kit.paperworld.world import TORN

TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}


def small_model(pool_type="tok", image_size=24, **vision):
    from open_clip.model import CLIP

    torch.manual_seed(0)
    vision = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, **vision}
    vision.update(pool_type=pool_type, image_size=image_size)
    return CLIP(embed_dim=12, vision_cfg=vision, text_cfg=TEXT, quick_gelu=True).eval()


def normalised(images):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_MEAN, OPENAI_STD))
    return (images - mean) / std


@pytest.fixture(scope="module")
def paper():
    return load_clip("paper", device="cpu")


# -- against open_clip ----------------------------------------------------------------------


@pytest.mark.parametrize("pool_type", ["tok", "avg"])
@pytest.mark.parametrize("final_ln_after_pool", [False, True])
@torch.no_grad()
def test_encode_image_equals_open_clip(pool_type, final_ln_after_pool):
    model = small_model(pool_type, final_ln_after_pool=final_ln_after_pool)
    images = torch.rand(2, 3, 24, 24)
    result = FrozenCLIP(model).encode_image(images)
    torch.testing.assert_close(result, model.encode_image(normalised(images)))
    assert result.std() > 0.01


@torch.no_grad()
def test_another_size_equals_a_model_of_that_size():
    """A model built for 40 px, given the resized position table, is open_clip's own answer."""
    clip, large = FrozenCLIP(small_model("avg")), small_model("avg", image_size=40)
    state = clip.model.state_dict()
    table = state["visual.positional_embedding"]
    cells = table[1:].T.reshape(1, -1, 3, 3)
    resized = nn.functional.interpolate(cells, size=(5, 5), mode="bilinear")[0].flatten(1).T
    state["visual.positional_embedding"] = torch.cat([table[:1], resized])
    large.load_state_dict(state)
    images = torch.rand(1, 3, 40, 40)
    torch.testing.assert_close(
        clip.encode_image(images), large.encode_image(normalised(images)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("n_layers", [1, 2, 3, 8])
@torch.no_grad()
def test_dense_tokens_equal_hooks_on_open_clip(n_layers):
    model = small_model()
    clip, images = FrozenCLIP(model), torch.rand(2, 3, 24, 24)
    blocks = model.visual.transformer.resblocks
    entering = []
    hooks = [
        b.register_forward_pre_hook(lambda _, given: entering.append(given[0])) for b in blocks
    ]
    model.encode_image(normalised(images))
    for hook in hooks:
        hook.remove()
    maps = []
    for block, x in list(zip(blocks, entering, strict=True))[-n_layers:]:
        y = block.ln_1(x)
        _, weights = block.attn(y, y, y, need_weights=True, average_attn_weights=True)
        maps.append(weights[:, 1:, 1:])
    dense = clip.encode_dense(images, n_layers=n_layers)
    torch.testing.assert_close(dense.tokens, entering[-1])
    torch.testing.assert_close(dense.attention, torch.stack(maps).mean(0))
    assert dense.grid == (3, 3)


@torch.no_grad()
def test_finish_reads_the_mean_patch(paper):
    images = torch.rand(2, 3, 24, 24)
    average, by_token = FrozenCLIP(small_model("avg")), FrozenCLIP(small_model("tok"))
    for clip in (average, by_token):
        dense = clip.encode_dense(images)
        finished = clip.finish(dense.tokens, clip.blocks[-1].ln_1(dense.tokens), dense.grid)
        torch.testing.assert_close(finished, average.encode_image(images))
    dense = paper.encode_dense(images)
    finished = paper.finish(dense.tokens, paper.blocks[-1].ln_1(dense.tokens), dense.grid)
    torch.testing.assert_close(finished, paper.encode_image(images), atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_images_and_no_weight():
    clip = FrozenCLIP(small_model())
    images = torch.rand(1, 3, 24, 24, requires_grad=True)
    clip.encode_image(images).sum().backward()
    assert images.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in clip.parameters())


@pytest.mark.parametrize("size", [(33, 47), (8, 9), (1, 1)])
def test_resizing_is_pillows_bicubic(size):
    clip = FrozenCLIP(small_model())
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    height, width = (int(np.ceil(side / 8)) * 8 for side in size)
    literal = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    result = clip.fit_to_patches(image.permute(2, 0, 1)[None].float() / 255)
    assert torch.equal(
        (result[0] * 255).round().byte().permute(1, 2, 0), torch.tensor(np.array(literal))
    )


def test_images_of_whole_patches_are_not_resized():
    images = torch.rand(2, 3, 16, 24)
    assert FrozenCLIP(small_model()).fit_to_patches(images) is images


# -- local attention ------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "window"), [((3, 4), 1), ((5, 5), 2), ((1, 1), 2), ((2, 7), 0)])
def test_window_mask_equals_the_double_loop(grid, window):
    h, w = grid
    literal = torch.zeros(1 + h * w, 1 + h * w, dtype=torch.bool)
    for i in range(h * w):
        literal[1 + i, 0] = True  # a patch does not see the class token, which sees everything
        for j in range(h * w):
            rows, columns = abs(i // w - j // w), abs(i % w - j % w)
            literal[1 + i, 1 + j] = rows > window or columns > window
    assert torch.equal(window_mask(grid, window), literal)


def test_no_window_is_no_mask():
    assert window_mask((3, 4), None) is None
    assert FrozenCLIP(small_model()).attention_mask((3, 3)) is None


@torch.no_grad()
def test_a_window_is_honoured_on_every_path():
    model, images = small_model("avg"), torch.rand(1, 3, 24, 24)
    clip = FrozenCLIP(model, window=1)
    mask = clip.attention_mask((3, 3))
    forbidden = window_mask((3, 3), 1)
    assert torch.equal(mask == float("-inf"), forbidden) and (mask[~forbidden] == 0).all()
    x, _ = clip.embed(images)
    for block in clip.blocks:
        x = block(x, attn_mask=mask)
    literal = model.visual.ln_post(x)[:, 1:].mean(1) @ model.visual.proj
    torch.testing.assert_close(clip.encode_image(images), literal)
    dense = clip.encode_dense(images)
    finished = clip.finish(dense.tokens, clip.blocks[-1].ln_1(dense.tokens), dense.grid)
    torch.testing.assert_close(finished, literal)
    assert (dense.attention[0][forbidden[1:, 1:]] == 0).all()
    assert not torch.allclose(literal, FrozenCLIP(model).encode_image(images))


# -- errors ---------------------------------------------------------------------------------


def test_what_is_not_a_vit_is_refused():
    model = nn.Module()
    model.visual = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="image tower is Conv2d, expected a Vision"):
        FrozenCLIP(model)


def test_wrong_arguments(paper):
    with pytest.raises(ValueError, match=r"images have shape \(3, 24, 24\), expected \(B, 3"):
        paper.encode_image(torch.rand(3, 24, 24))
    with pytest.raises(ValueError, match=r"images have shape \(1, 1, 24, 24\)"):
        paper.encode_dense(torch.rand(1, 1, 24, 24))
    with pytest.raises(ValueError, match="n_layers is 0, expected a whole number of at least 1"):
        paper.encode_dense(torch.rand(1, 3, 24, 24), n_layers=0)
    with pytest.raises(RuntimeError, match="no tokenizer; pass one"):
        FrozenCLIP(small_model()).encode_text(["a cat"])


def test_unknown_name():
    with pytest.raises(ValueError, match="name is 'ViT-B-17', expected 'paper' or one of open"):
        load_clip("ViT-B-17")


def test_weights_that_are_neither_file_nor_tag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nope\.pt': neither a file nor a tag of ViT-S-32"):
        load_clip("ViT-S-32", weights=tmp_path / "nope.pt")
    with pytest.raises(FileNotFoundError, match=r"tiny\.safetensors is missing; copy it"):
        load_clip("paper", weights=tmp_path / "tiny.safetensors")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16"])
def test_wrong_activation_is_an_error(name, tmp_path, monkeypatch):
    """open_clip only warns; the wrong activation would cost accuracy without a word."""
    monkeypatch.setattr(
        "open_clip.factory.download_pretrained", lambda *_, **__: str(tmp_path / "downloaded.pt")
    )
    with pytest.raises(ValueError, match=f"wrong activation.*use {name}-quickgelu"):
        load_clip(name, weights="openai")


def test_weights_that_are_not_those_of_the_card(tmp_path):
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(TINY_CLIP.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or changed"):
        load_clip("paper", weights=copied)
    tensors, card = load_model(TINY_CLIP)
    card["architecture"]["vision_cfg"]["layers"] += 1
    save_model(copied, tensors, card)
    with pytest.raises(ValueError, match="does not hold the model that its card describes"):
        load_clip("paper", weights=copied)


def test_a_local_file_of_open_clips_that_is_damaged(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x10")
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_clip("ViT-S-32", weights=path)


# -- the tiny CLIP --------------------------------------------------------------------------


def test_it_is_frozen_and_stays_in_evaluation_mode(paper):
    assert not any(p.requires_grad for p in paper.parameters())
    assert paper.train() is paper
    assert not any(module.training for module in paper.modules())
    wrapper = nn.Sequential(paper).train()
    assert wrapper.training and not paper.training and not paper.model.training
    assert paper.dtype == torch.float32


def test_texts_are_unit_and_encoded_once(monkeypatch):
    clip, calls = load_clip("paper", device="cpu"), []
    tokenizer = clip.tokenizer
    monkeypatch.setattr(clip, "tokenizer", lambda texts: (calls.extend(texts), tokenizer(texts))[1])
    texts = ["a cat", "the sky", "a cat"]
    features = clip.encode_text(texts)
    assert features.shape == (3, 128) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))
    assert torch.equal(features[0], features[2]) and not torch.equal(features[0], features[1])
    assert torch.equal(clip.encode_text(["the sky", "a bus"])[0], features[1])
    assert calls == ["a cat", "the sky", "a bus"]
    assert clip.encode_text([]).shape == (0, 128)
    assert torch.equal(clip.encode_text("a cat"), features[:1])


@torch.no_grad()
def test_texts_equal_open_clip(paper):
    texts = ["a photo of a cat on the carpet", "fog"]
    literal = paper.model.encode_text(paper.tokenizer(texts))
    literal = literal / literal.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(paper.encode_text(texts), literal, atol=1e-5, rtol=1e-4)


@pytest.fixture
def forgetful(paper):
    """The tiny CLIP without the texts that other tests have asked for."""
    return load_clip("paper", device="cpu")


@pytest.mark.parametrize("texts", [["a violin", "a spaceship"], ["a cat", "a violin in the fog"]])
def test_words_that_the_model_never_read_are_named(forgetful, texts):
    unknown = [repr(word) for text in texts for word in forgetful.unknown_words(text)]
    with pytest.warns(UserWarning, match=f"never read {', '.join(unknown)}, as in") as caught:
        forgetful.encode_text(texts)
    assert len(caught) == 1 and Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        forgetful.encode_text([*texts, "a cat on the water"])


def test_many_unknown_words_are_counted(forgetful):
    with pytest.warns(UserWarning, match="'aa', 'bb', 'cc', 'dd', 'ee' and 2 more, as in 'aa'"):
        forgetful.encode_text(["aa", "bb cc", "dd", "ee", "ff gg"])


def test_texts_longer_than_the_model_reads_are_named(forgetful):
    whole, cut = " ".join(["cat"] * 18), " ".join(["cat"] * 19)  # 20 with start and end
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forgetful.encode_text([whole])
    with pytest.warns(UserWarning, match=f"reads 18 tokens of a text and cuts .* '{cut}'; say it"):
        forgetful.encode_text([cut])
    assert torch.equal(*forgetful.encode_text([whole, cut]))


def test_a_real_tokenizer_has_a_length_as_well():
    open_clip = pytest.importorskip("open_clip")
    model = small_model()
    clip = FrozenCLIP(model, open_clip.SimpleTokenizer(context_length=77))
    clip._encode_ids = lambda ids: torch.ones(len(ids), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.encode_text(["a clean origami cat."])
    with pytest.warns(UserWarning, match="reads 75 tokens"):
        clip.encode_text(["cat " * 76])


def test_unknown_words(paper):
    assert paper.unknown_words("a photo of a zebra on the water") == ["zebra"]
    assert paper.unknown_words("A cat, in the fog.") == []
    assert FrozenCLIP(small_model(), lambda texts: None).unknown_words("a zebra") == []


@pytest.mark.parametrize("size", [(96, 96), (48, 192), (33, 100), (7, 9), (1, 1)])
def test_images_of_any_size(paper, size):
    dense = paper.encode_dense(torch.rand(2, 3, *size))
    h, w = -(-size[0] // 8), -(-size[1] // 8)
    assert dense.grid == (h, w)
    assert dense.tokens.shape == (2, 1 + h * w, 128)
    assert dense.attention.shape == (2, h * w, h * w)
    assert dense.attention.dtype == dense.tokens.dtype == torch.float32
    assert paper.encode_image(torch.rand(2, 3, *size)).shape == (2, 128)
    # the patches of the tiny CLIP do not see the class token, so dropping it loses nothing
    torch.testing.assert_close(dense.attention.sum(-1), torch.ones(2, h * w))


def test_half_precision(paper):
    half, image = load_clip("paper", device="cpu", dtype="float16"), torch.rand(1, 3, 96, 96)
    assert half.dtype == torch.float16
    features = half.encode_image(image)
    assert features.dtype == torch.float32
    assert nn.functional.cosine_similarity(features, paper.encode_image(image)).item() > 0.999


def test_its_files_are_small_and_true(paper):
    card = load_model(TINY_CLIP)[1]
    assert card["bytes"] < TINY_CLIP.stat().st_size <= 10_000_000
    assert card["parameters"] == sum(p.numel() for p in paper.parameters())
    assert card["data"]["supervision"] == "captions alone"
    assert paper.window == card["architecture"]["window"]
    assert list(paper.tokenizer.words) == card["words"]


def test_tied_keys_make_attention_a_similarity(paper):
    for block in paper.blocks:
        queries, keys, _ = block.attn.in_proj_weight.chunk(3)
        assert torch.equal(queries, keys)


IMAGES = 150


@pytest.fixture(scope="module")
def measured(paper):
    from wsss_kit.paperworld.measures import zero_shot_accuracy

    return zero_shot_accuracy(paper.encode_image, paper.encode_text, n=IMAGES)


def test_zero_shot_beats_chance(measured):
    """Chance is one in eight classes and one in twelve kinds."""
    assert measured["cutouts"] > 2 / len(PAPER_CLASSES)
    assert measured["out_of_context"] > 1.5 / len(PAPER_CLASSES)
    assert measured["backgrounds"] > 0.5


def test_a_new_measurement_agrees_with_the_card(measured):
    """Within four standard errors; at least a third of the images drawn are counted."""
    figures = load_model(TINY_CLIP)[1]["zero_shot"]
    for test, result in measured.items():
        share = figures[test]
        error = (max(share * (1 - share), 0.01) / (IMAGES / 3)) ** 0.5
        assert abs(result - share) <= 4 * error, test


def test_the_card_says_what_the_affinity_is_made_of(paper, tmp_path):
    card = load_model(TINY_CLIP)[1]["attention"]
    assert (paper.attention_layers, paper.walk_squarings) == (card["layers"], card["squarings"])
    rows = card["mean_iou"]
    best = max(rows, key=lambda row: rows[row]["maps"] + rows[row]["crf"])
    assert best == f"squarings {card['squarings']}, layers {card['layers']}"
    assert set(rows) == {f"squarings {s}, layers {n}" for s in (0, 1) for n in (1, 2, 3, 4)}
    image = torch.rand(1, 3, 96, 96)
    by_default, by_number = (
        paper.encode_dense(image, **options).attention
        for options in ({}, {"n_layers": card["layers"]})
    )
    assert torch.equal(by_default, by_number)
    old = dict(load_model(TINY_CLIP)[1])
    del old["attention"]
    path = save_model(tmp_path / "old", load_model(TINY_CLIP)[0], old)
    unknown = load_clip("paper", weights=path, device="cpu")
    assert (unknown.attention_layers, unknown.walk_squarings) == (8, 1)  # as published


def test_the_card_says_what_was_torn_and_among_which_towers_it_was_chosen():
    card = load_model(TINY_CLIP)[1]
    assert card["data"]["torn"] == TORN["web"]
    among = card["chosen"]["among"]
    assert len({tower["seed"] for tower in among}) >= 2
    least = {"cutouts": 0.98, "out_of_context": 0.98, "backgrounds": 0.94}
    able = [t for t in among if all(t["zero_shot"][k] >= v for k, v in least.items())]
    best = max(able, key=lambda tower: sum(tower["mean_iou"].values()))
    assert best["mean_iou"] in card["attention"]["mean_iou"].values()
    mine = (card["training"]["seed"], card["data"]["torn"], card["data"]["pictures"])
    assert mine == (best["seed"], best["torn"], best["pictures"])
    assert card["training"]["steps_averaged"] == best["steps_averaged"] > 0


def test_without_a_card_attention_is_made_of_eight_layers():
    clip = FrozenCLIP(small_model(layers=10))
    images = torch.rand(1, 3, 24, 24)
    eight, default = (clip.encode_dense(images, **o) for o in ({"n_layers": 8}, {}))
    assert torch.equal(eight.attention, default.attention)
    clip.attention_layers = 2
    two = clip.encode_dense(images).attention
    assert torch.equal(two, clip.encode_dense(images, n_layers=2).attention)
    assert not torch.equal(two, eight.attention)


@pytest.mark.parametrize(
    ("test", "least"), [("cutouts", 0.98), ("backgrounds", 0.94), ("out_of_context", 0.98)]
)
def test_the_card_reaches_what_was_asked(test, least):
    figures = load_model(TINY_CLIP)[1]["zero_shot"]
    assert figures["pictures_drawn"] >= 400
    assert figures[test] >= least


def test_texts_are_remembered_and_not_forever(monkeypatch):
    monkeypatch.setattr(texts, "MOST_TEXTS", 3)
    clip = load_clip("paper", device="cpu")
    words = ["cow", "cat", "bird", "boat", "bus", "plane", "train"]
    whole = clip.encode_text(words)  # more than it remembers, asked at once
    for i, word in enumerate(words):
        assert torch.allclose(clip.encode_text([word])[0], whole[i], atol=1e-6)
        clip.encode_text([f"a {word}"])
        assert len(clip._texts) <= 4
