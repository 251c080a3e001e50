"""The frozen CLIP against open_clip's own forward passes, and the tiny CLIP in the package."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import SimpleTokenizer
from PIL import Image
from torch import nn

from tests.clip.clips import small_clip
from wsss_kit.clip import OPENAI_MEAN, OPENAI_STD, FrozenCLIP, load_clip, texts
from wsss_kit.clip.vision import window_mask
from wsss_kit.files import load_model, save_model
from wsss_kit.paperworld.tiny_clip import TINY_CLIP, zero_shot_accuracy
from wsss_kit.views import enlarge_levels

# -- against open_clip ----------------------------------------------------------------------


@pytest.mark.parametrize("pool_type", ["tok", "avg"])
@pytest.mark.parametrize("final_ln_after_pool", [False, True])
@torch.no_grad()
def test_encode_image_equals_open_clip(pool_type, final_ln_after_pool):
    vision = {"pool_type": pool_type, "final_ln_after_pool": final_ln_after_pool}
    clip, images = small_clip(quick_gelu=True, **vision), torch.rand(2, 3, 24, 24).double()
    result = clip.encode_image(images)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_MEAN, OPENAI_STD))
    expected = clip.model.encode_image((images - mean) / std)
    torch.testing.assert_close(result, expected.float())
    assert result.std() > 0.01


@pytest.mark.parametrize("size", [(33, 47), (8, 9), (1, 1), (375, 500)])
def test_resizing_is_pillows_bicubic(size):
    clip = small_clip(quick_gelu=True)
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    height, width = (int(np.ceil(side / 8)) * 8 for side in size)
    literal = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    result = clip.fit_to_patches(image.permute(2, 0, 1)[None].float() / 255)
    pixels = (result[0] * 255).round().byte().permute(1, 2, 0)
    assert torch.equal(pixels, torch.tensor(np.array(literal)))
    enlarged = enlarge_levels(image.permute(2, 0, 1)[None], (height, width))[0]  # as on a GPU
    assert torch.equal(enlarged.permute(1, 2, 0).byte(), pixels)
    assert clip.fit_to_patches(result) is result  # whole patches are not resized


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
    assert window_mask(grid, None) is None


@torch.no_grad()
def test_a_window_is_honoured_on_every_path():
    clip, images = small_clip(quick_gelu=True, window=1), torch.rand(1, 3, 24, 24).double()
    visual, mask = clip.model.visual, clip.attention_mask((3, 3))
    forbidden = window_mask((3, 3), 1)
    assert torch.equal(mask == float("-inf"), forbidden) and (mask[~forbidden] == 0).all()
    x, _ = clip.embed(images)
    for block in clip.blocks:
        x = block(x, attn_mask=mask)
    literal = (visual.ln_post(x)[:, 0] @ visual.proj).float()
    torch.testing.assert_close(clip.encode_image(images), literal)
    assert (clip.encode_dense(images).attention[0][forbidden[1:, 1:]] == 0).all()
    assert not torch.allclose(literal, FrozenCLIP(clip.model).encode_image(images))


# -- errors ---------------------------------------------------------------------------------


def test_what_is_refused(clip, tmp_path):
    convolution = nn.Module()
    convolution.visual = nn.Conv2d(3, 3, 1)
    nothing, damaged = tmp_path / "nope.safetensors", tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x10")
    image, copied = torch.rand(1, 3, 24, 24), tmp_path / "copy.safetensors"
    tensors, card = load_model(TINY_CLIP)
    card["architecture"]["vision_cfg"]["layers"] += 1
    save_model(copied, tensors, card)
    for call, message in (
        (lambda: load_clip("paper", weights=copied), "not hold the model that its card describes"),
        (lambda: FrozenCLIP(convolution), "image tower is Conv2d, expected a Vision"),
        (lambda: clip.encode_image(image[0]), r"images have shape \(3, 24, 24\), expected \(B, 3"),
        (lambda: clip.encode_dense(image, n_layers=0), "n_layers is 0, expected a whole number"),
        (lambda: small_clip(quick_gelu=True).encode_text("a cat"), "no tokenizer; pass one"),
        (lambda: load_clip("ViT-S-32", weights=nothing), "neither a file nor a tag of ViT-S-32"),
        (lambda: load_clip("ViT-S-32", weights=""), "neither a file nor a tag of ViT-S-32"),
        (lambda: load_clip("paper", weights=nothing), r"nope\.safetensors is missing; copy it"),
        (lambda: load_clip("ViT-S-32", weights=damaged), r"damaged\.safetensors"),
    ):
        with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=message):
            call()


def test_wrong_activation_is_an_error(tmp_path, monkeypatch):
    """open_clip only warns; the wrong activation would cost accuracy without a word."""
    monkeypatch.setattr(
        "open_clip.factory.download_pretrained", lambda *_, **__: str(tmp_path / "downloaded.pt")
    )
    with pytest.raises(ValueError, match=r"wrong activation.*use ViT-B-16-quickgelu"):
        load_clip("ViT-B-16", weights="openai")


# -- the tiny CLIP --------------------------------------------------------------------------


def test_it_is_frozen_small_and_stays_in_evaluation_mode(clip):
    card = load_model(TINY_CLIP)[1]
    assert TINY_CLIP.stat().st_size <= 10_000_000
    assert card["parameters"] == sum(p.numel() for p in clip.parameters())
    assert not any(p.requires_grad for p in clip.parameters())
    assert nn.Sequential(clip).train()[0].train() is clip
    assert not any(module.training for module in clip.modules())
    assert clip.window == card["architecture"]["window"]
    for block in clip.blocks:  # tied keys make attention a similarity
        queries, keys, _ = block.attn.in_proj_weight.chunk(3)
        assert torch.equal(queries, keys)


@torch.no_grad()
def test_a_model_that_was_loaded_in_inference_mode_computes_the_same(clip):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = load_clip("paper", device="cpu").encode_dense(image)
    torch.testing.assert_close(tokens.tokens, clip.encode_dense(image).tokens)


def test_what_inference_mode_made_serves_trainings_and_random_numbers_stay(clip):
    before = torch.get_rng_state()
    with torch.inference_mode():
        loaded = load_clip("paper", device="cpu")
        loaded.encode_dense(torch.rand(1, 3, 72, 56, generator=torch.Generator()))
    assert torch.equal(before, torch.get_rng_state())
    for model in (loaded, clip):  # the mask of this grid is remembered
        image = torch.full((1, 3, 72, 56), 0.5, requires_grad=True)
        model.encode_image(image).sum().backward()
        assert image.grad.any()


@torch.no_grad()
def test_other_weights_in_a_model_that_was_used():
    one, image = load_clip("paper", device="cpu"), torch.rand(1, 3, 64, 64)
    fresh, words = load_clip("paper", device="cpu"), ["a cat", "a boat"]
    for weights in fresh.model.parameters():
        weights += 0.01 * torch.randn(weights.shape)
    before, expected = one.encode_text(words), fresh.encode_text(words)
    one.grad_cam(image, before)
    for model in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), one):
        model.load_state_dict(fresh.state_dict())
        assert torch.equal(model.encode_text(words), expected)
        assert torch.equal(model.grad_cam(image, expected), fresh.grad_cam(image, expected))
    assert not torch.equal(before, expected)


@torch.no_grad()
def test_texts_are_unit_encoded_once_and_not_remembered_forever(monkeypatch):
    clip, calls = load_clip("paper", device="cpu"), []
    tokenizer = clip.tokenizer
    monkeypatch.setattr(clip, "tokenizer", lambda texts: (calls.extend(texts), tokenizer(texts))[1])
    features = clip.encode_text(["a cat on the carpet", "the sky", "a cat on the carpet"])
    literal = clip.model.encode_text(tokenizer(["a cat on the carpet", "the sky"]))
    literal = literal / literal.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(features, literal[[0, 1, 0]], atol=1e-5, rtol=1e-4)
    assert torch.equal(clip.encode_text(["the sky", "a bus"])[0], features[1])
    assert calls == ["a cat on the carpet", "the sky", "a bus"]
    assert clip.encode_text([]).shape == (0, 128)
    assert torch.equal(clip.encode_text("the sky"), features[1:2])
    monkeypatch.setattr(texts, "MOST_TEXTS", 3)
    words = ["cow", "cat", "bird", "boat", "bus", "plane", "train"]
    whole = clip.encode_text(words)  # more than it remembers, asked at once
    for i, word in enumerate(words):
        assert torch.allclose(clip.encode_text([word])[0], whole[i], atol=1e-6)
        clip.encode_text([f"a {word}"])
        assert len(clip._texts) <= 4


def test_words_that_the_model_never_read_are_named_once():
    clip = load_clip("paper", device="cpu")
    assert clip.unknown_words("A zebra, on the water.") == ["zebra"]
    assert FrozenCLIP(small_clip(quick_gelu=True).model, len).unknown_words("a zebra") == []
    texts = ["a cat", "a violin in the fog"]
    with pytest.warns(UserWarning, match="never read 'violin', as in") as caught:
        clip.encode_text(texts)
    assert len(caught) == 1 and Path(caught[0].filename) == Path(__file__)
    clip.encode_text([*texts, "a cat on the water"])  # a warning is an error here
    with pytest.warns(UserWarning, match="'aa', 'bb', 'cc', 'dd', 'ee' and 2 more, as in 'aa'"):
        clip.encode_text(["aa", "bb cc", "dd", "ee", "ff gg"])


def test_texts_longer_than_the_model_reads_are_named():
    clip = load_clip("paper", device="cpu")
    whole, cut = " ".join(["cat"] * 18), " ".join(["cat"] * 19)  # 20 with start and end
    clip.encode_text([whole])
    with pytest.warns(UserWarning, match=f"reads 18 tokens of a text and cuts .* '{cut}'; say it"):
        clip.encode_text([cut])
    assert torch.equal(*clip.encode_text([whole, cut]))
    real = FrozenCLIP(small_clip(quick_gelu=True).model, SimpleTokenizer(context_length=77))
    real._encode_ids = lambda ids: torch.ones(len(ids), 4)
    real.encode_text(["a clean origami cat."])
    with pytest.warns(UserWarning, match="reads 75 tokens"):
        real.encode_text(["cat " * 76])


def test_the_card_s_figures_are_enough_and_measured_again(clip):
    """Within four standard errors; at least a third of the images drawn are counted."""
    figures, n = load_model(TINY_CLIP)[1]["zero_shot"], 150
    least = {"cutouts": 0.98, "backgrounds": 0.94, "out_of_context": 0.98}
    for test, result in zero_shot_accuracy(clip.encode_image, clip.encode_text, n=n).items():
        share = figures[test]
        error = (max(share * (1 - share), 0.01) / (n / 3)) ** 0.5
        assert abs(result - share) <= 4 * error and share >= least.get(test, 0), test


def test_the_card_says_what_the_affinity_is_made_of(clip, tmp_path):
    tensors, card = load_model(TINY_CLIP)
    chosen = card.pop("attention")
    assert (clip.attention_layers, clip.walk_squarings) == (chosen["layers"], chosen["squarings"])
    rows = chosen["mean_iou"]
    best = max(rows, key=lambda row: rows[row]["maps"] + rows[row]["crf"])
    assert best == f"squarings {chosen['squarings']}, layers {chosen['layers']}"
    image = torch.rand(1, 3, 96, 96)
    by_number = clip.encode_dense(image, n_layers=chosen["layers"]).attention
    assert torch.equal(clip.encode_dense(image).attention, by_number)
    path = save_model(tmp_path / "old", tensors, card)
    unknown = load_clip("paper", weights=path, device="cpu")
    assert (unknown.attention_layers, unknown.walk_squarings) == (8, 1)  # as published
