"""The kit against the CLIP-ES reference code: figures measured with it, step by step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wsss_kit.affinity import box_masks, random_walk, transition_matrix
from wsss_kit.cam import normalize_cams, softmax_grad_cam
from wsss_kit.clip import FrozenCLIP
from wsss_kit.methods.clip_es import CLIPES, refined_maps
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import clip_es_maps

HERE = Path(__file__).parent
CASES = ("landscape_1", "portrait_3", "exact_2", "blobs", "zero_cam", "small")
EPS = 1e-7


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(HERE / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    from open_clip.model import CLIP

    vision = {"layers": 10, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 112}
    text = {"context_length": 77, "vocab_size": 600, "width": 64, "heads": 1, "layers": 2}
    model = CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    state = {key: torch.from_numpy(w.astype(np.float32)) for key, w in read("weights").items()}
    model.load_state_dict(state)
    tokens = torch.from_numpy(read("text")["tokens"]).long()
    return FrozenCLIP(model, lambda texts: tokens[[int(t) for t in texts]], round_positions=True)


@pytest.fixture(scope="module", params=CASES)
def case(request) -> SimpleNamespace:
    arrays = {
        key: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float16 else value)
        for key, value in read(f"case_{request.param}").items()
    }
    unit = arrays["image"].permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W) in [0, 1]
    return SimpleNamespace(unit=unit, **arrays)


@pytest.fixture(scope="module")
def dense(clip, case):
    return clip.encode_dense(case.unit)


@pytest.fixture(scope="module")
def raw(clip, case, dense):
    return softmax_grad_cam(
        dense.tokens[0],
        case.text_pos,
        case.text_bg,
        head=lambda tokens, normed: clip.finish(tokens, normed, dense.grid),
        norm=clip.blocks[-1].ln_1,
        grid=dense.grid,
        logit_scale=clip.logit_scale,
    )


def close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_position_embeddings_are_exact(clip):
    tables = read("posembed")
    assert set(tables) == {"7x7", "8x10", "10x8", "3x3"}
    for grid, table in tables.items():
        h, w = map(int, grid.split("x"))
        assert torch.equal(clip.position_embedding((h, w)), torch.from_numpy(table))


def test_rounding_the_positions_is_what_makes_them_exact(clip):
    plain = FrozenCLIP(clip.model)
    table = torch.from_numpy(read("posembed")["8x10"])
    assert 0 < (plain.position_embedding((8, 10)) - table).abs().max() < 2e-3


def test_texts(clip):
    unit = torch.from_numpy(read("text")["unit"])
    close(clip.encode_text(["2", "0", "3", "1"]), unit[[2, 0, 3, 1]], 1e-6)


def test_network_input(clip):
    arrays = read("case_portrait_3")
    image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)[None].float() / 255
    result = (clip.fit_to_patches(image) - clip.mean) / clip.std
    close(result[0], torch.from_numpy(arrays["input"]), 1e-5)


def test_last_block_input_and_attention(case, dense):
    assert dense.grid == tuple(case.grid.tolist())
    close(dense.tokens[0], case.last_block_input, 1e-5)
    close(dense.attention[0], case.attn_mean, 1e-5)


def test_logits_are_read_from_the_mean_patch(clip, case, dense):
    normed = clip.blocks[-1].ln_1(dense.tokens)
    seen = torch.nn.functional.normalize(clip.finish(dense.tokens, normed, dense.grid), dim=-1)
    logits = (clip.logit_scale * seen @ torch.cat([case.text_pos, case.text_bg]).T)[0]
    close(logits, case.logits, 1e-4)
    close(logits.softmax(0), case.probs, 1e-5)


def test_raw_and_scaled_maps(case, raw):
    close(raw, case.cam_raw, 1e-5)
    scaled = raw[None]
    for _ in range(2):
        scaled = normalize_cams(scaled, subtract_min=True, eps=EPS)
    close(scaled[0], case.cam, 1e-4)


def test_box_masks_are_exact(case):
    assert torch.equal(box_masks(case.cam[None], threshold=0.4)[0], case.mask.float())


def test_transition_and_refined_maps(case, dense):
    walk = transition_matrix(dense.attention, sinkhorn=3, squarings=1)
    close(walk[0], case.transition, 1e-5)
    close(random_walk((case.mask * case.cam)[None], walk)[0], case.refined, 1e-5)


def test_refined_maps_of_the_image(clip, case):
    result = refined_maps(clip, case.image.numpy(), case.text_pos, case.text_bg)
    close(result.cams, case.cam, 1e-4)
    close(result.refined, case.refined, 1e-5)
    close(result.attention, case.attn_mean, 1e-5)
    close(result.probs, case.probs, 1e-5)
    assert torch.equal(result.masks, case.mask.float())
    close(result.full_size(case.saved.shape[1:]), case.saved, 2e-3)


def test_the_recipe_ends_where_the_reference_does(clip, case):
    names = [f"class {c}" for c in range(len(case.text_pos))]
    words = [f"word {p}" for p in range(len(case.text_bg))]
    method = CLIPES(clip, prompts=Prompts(names, words, template="{}"))
    method.class_features_, method.background_features_ = case.text_pos, case.text_bg
    labels = torch.ones(1, len(names))
    close(method(case.unit, labels).cams[0], case.cam, 1e-4)
    close(clip_es_maps(case.unit, labels, method=method)[0], case.saved, 2e-3)
    if hasattr(case, "refined_full"):
        close(clip_es_maps(case.unit, labels, method=method)[0], case.refined_full, 1e-4)


def test_the_clean_preset_is_another_number(clip):
    """Unrounded positions move the maps, so the two presets cannot be confused."""
    arrays = read("case_landscape_1")
    image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)[None].float() / 255
    prompts = Prompts(["one"], [f"word {p}" for p in range(25)], template="{}")
    maps = {}
    for preset in ("reference", "clean"):
        method = CLIPES(clip, prompts=prompts, preset=preset, flip=False)
        method.class_features_ = torch.from_numpy(arrays["text_pos"])
        method.background_features_ = torch.from_numpy(arrays["text_bg"])
        maps[preset] = method(image, torch.ones(1, 1)).cams
    assert clip.round_positions  # put back
    assert 1e-6 < (maps["reference"] - maps["clean"]).abs().max() < 0.05
