"""Image towers of every family: the library's own embedding, attention and gradients."""

import json
import re
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from tests.clip.shrunk import shrink, shrunk_config, shrunk_trunk
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.clip.towers import AnyTower, Place, kept_attention
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts

PAGE = Path(__file__).parents[2] / "notebooks" / "backbones.md"
FAMILIES = {  # the module whose output has the cells, and tokens before them
    "RN50": ("layer4", None),
    "convnext_tiny": ("trunk.stages.3", None),
    "swin_base_patch4_window7_224": ("trunk.norm", None),
    "MobileCLIP-S1": ("trunk.final_conv", None),
    "ViT-B-16-SigLIP": ("trunk.blocks.1.norm1", 0),
    "PE-Core-B-16": ("trunk.blocks.1.norm1", 1),
    "EVA02-B-16": ("trunk.blocks.1.norm1", 1),
    "MobileCLIP-B": ("trunk.blocks.1.norm1", 1),
    "ViTamin-S": ("trunk.blocks.1.norm1", 0),
    "vit_medium_patch16_gap_256": ("trunk.blocks.1.norm1", 0),
    "vit_relpos_medium_patch16_cls_224": ("trunk.blocks.1.norm1", 1),
    "coca_ViT-B-32": ("transformer.resblocks.1.ln_1", 1),
}
FIXED = "vit_relpos_medium_patch16_cls_224"  # takes images of 224 x 224 alone


@pytest.fixture(params=FAMILIES)
def family(request, monkeypatch):
    """The tower and its name; its weights are random and the same each time."""
    shrink(monkeypatch, request.param)
    torch.manual_seed(0)
    return request.param, load_clip(request.param, device="cpu")


def images_of(clip, *, rows=3, columns=4, seed=1):
    """Two images with large patterns, so that cells differ."""
    rng = torch.Generator().manual_seed(seed)
    cells = torch.rand(2, 3, 2 * rows, 2 * columns, generator=rng)
    return F.interpolate(cells, (rows * clip.patch_size, columns * clip.patch_size))


def texts_of(clip, n, *, seed):
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, clip.width, generator=rng), dim=-1)


def test_embedding_and_maps_are_those_of_the_library_alone(family):
    """Plain differentiation of open_clip's model, which the kit has not touched, at its own size.

    Maps are compared before the ReLU: after it they may be 0 with random weights.
    """
    name, clip = family
    torch.manual_seed(0)
    alone, visual = open_clip.create_model(name).eval(), clip.model.visual
    size = getattr(visual, "image_size", 224)
    side = size[0] if isinstance(size, tuple) else size
    images = images_of(clip, rows=side // clip.patch_size, columns=side // clip.patch_size)
    x, where = (images - clip.mean) / clip.std, FAMILIES[name]
    kept = {}

    def keep(_, __, output):
        output.requires_grad_().retain_grad()
        kept["cells"] = output

    alone.visual.get_submodule(where[0]).register_forward_hook(keep)
    embedding = alone.encode_image(x)
    torch.testing.assert_close(
        F.normalize(clip.encode_image(images), dim=-1),
        F.normalize(embedding, dim=-1),
        atol=1e-5,
        rtol=0,
    )
    texts = texts_of(clip, 3, seed=0)
    probs = (clip.logit_scale * F.normalize(embedding, dim=-1) @ texts.T).softmax(-1)
    found, _, grid = clip.last_block(images)
    maps = clip.grad_cam(images, texts)
    for b in range(2):
        for t in range(3):
            (grads,) = torch.autograd.grad(probs[b, t], kept["cells"], retain_graph=True)
            cells, grads = kept["cells"][b].detach(), grads[b]
            if where[1] is not None:
                cells, grads = cells[where[1] :], grads[where[1] :]
            elif cells.shape[-1] != grid[1] or "swin" in name:  # (h, w, D)
                cells, grads = cells.flatten(0, 1), grads.flatten(0, 1)
            else:
                cells, grads = cells.flatten(1).T, grads.flatten(1).T
            expected = (cells @ grads.mean(0)).unflatten(0, grid)
            torch.testing.assert_close(found.cells[b], cells, atol=1e-5, rtol=1e-4)
            scale = float(expected.abs().max())
            assert scale > 0 and expected.std() > 0
            close = {"atol": 1e-4 * scale, "rtol": 0}
            torch.testing.assert_close(maps[b, t], expected.relu(), **close)


def test_other_sizes_batches_and_rows_of_attention(family):
    name, clip = family
    images, texts = images_of(clip), texts_of(clip, 3, seed=0)
    last, affinity, grid = clip.last_block(images)
    assert grid == (3, 4) or (name == FIXED and grid == (14, 14))
    N = grid[0] * grid[1]
    assert affinity.shape == (2, N, N) and affinity.isfinite().all() and affinity.min() >= 0
    if clip.attends:
        maps, first = [], FAMILIES[name][1]
        with torch.no_grad(), kept_attention(clip._place.attention[-1], 0, maps):  # all tokens
            clip.encode_image(images)
        torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, first + N))
        last_layer = clip.encode_dense(images, n_layers=1).attention
        torch.testing.assert_close(last_layer, maps[0][:, first:, first:])
    else:
        assert clip.encode_dense(images).attention is None
        torch.testing.assert_close(affinity.sum(-1), torch.ones(2, N))
    maps = clip.grad_cam(images, texts)
    for b in range(2):
        alone = clip.grad_cam(images[b : b + 1], texts)[0]
        torch.testing.assert_close(maps[b], alone, atol=1e-5, rtol=1e-3)
    with torch.inference_mode():
        torch.testing.assert_close(clip.grad_cam(images, texts), maps, atol=1e-6, rtol=1e-4)


def listed():
    """What the page says of each model: name -> map and affinity, or why it is refused."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: (maps, affinity) for name, maps, affinity in rows}


def test_the_page_has_a_row_for_every_model():
    if open_clip.__version__.startswith("3.3"):  # which the page was made with
        assert set(listed()) == set(open_clip.list_models())
    assert sum(maps != "refused" for maps, _ in listed().values()) >= 120


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_model_gives_maps_or_is_refused_in_words(name, monkeypatch):
    """Two classes and a background word; with a ReLU before the cells a text may have no map."""
    maps_by, affinity_by = listed()[name]
    shrink(monkeypatch, name)
    torch.manual_seed(0)
    if maps_by == "refused":
        with pytest.raises(ValueError, match=f"^{re.escape(name)} has the text tower .*use a mode"):
            load_clip(name, device="cpu")
        return
    clip = load_clip(name, device="cpu")
    assert maps_by == ("closed form" if isinstance(clip, FrozenCLIP) else "differentiation")
    assert affinity_by.startswith("attention" if clip.attends else "features")
    images = images_of(clip)
    tried = (clip.grad_cam(images, texts_of(clip, 3, seed=k))[:, :2] for k in range(20))
    assert any(maps.isfinite().all() and maps.flatten(2).std(-1).min() > 0 for maps in tried)
    assert clip.last_block(images)[1].isfinite().all()


# -- texts and files ------------------------------------------------------------------------


def test_texts_of_a_hub_tokenizer_may_be_given(monkeypatch):
    name = "ViT-B-16-SigLIP"
    shrink(monkeypatch, name)
    clip = load_clip(name, device="cpu")
    sample, prompts = PaperWorld(1)[0], Prompts.paper()
    with pytest.raises(RuntimeError, match=r"tokenizer of ViT-B-16-SigLIP .*give_texts"):
        clip.encode_text("a cow")
    sentences = [*prompts.class_sentences(), *prompts.background_sentences()]
    texts = [text for each in sentences for text in each]
    given = dict(zip(texts, texts_of(clip, len(texts), seed=0), strict=True))
    clip.give_texts({text: 3 * values for text, values in given.items()})
    torch.testing.assert_close(clip.encode_text(texts[:2]), torch.stack([*given.values()][:2]))
    method = CLIPES(clip, prompts=prompts).fit()
    masks = Pipeline(method)(sample.image[None], sample.labels[None])
    assert masks.shape == (1, *sample.image.shape[1:])
    opened = method.open(sample.image, sample.labels).prepare()
    few = opened.maps(without=prompts.backgrounds[3:])
    anew = CLIPES(clip, prompts=prompts.replace(backgrounds=prompts.backgrounds[:3])).fit()
    expected = anew.open(sample.image, sample.labels).maps()
    torch.testing.assert_close(few.refined, expected.refined, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"embedding of 'a' has shape \(3,\), expected 768 finite"):
        clip.give_texts({"a": torch.ones(3)})


def test_files_of_trainers_and_folders_of_the_hub(monkeypatch, tmp_path):
    name = "RN50"
    shrink(monkeypatch, name)
    model = open_clip.create_model(name).eval()
    state = model.state_dict()
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": v for key, v in state.items()}}
    torch.save(wrapped, tmp_path / "epoch_3.pt")
    with pytest.warns(UserWarning, match="does not say its activation"):
        loaded = load_clip(name, weights=tmp_path / "epoch_3.pt", device="cpu")
    for key, values in loaded.model.state_dict().items():
        assert torch.equal(values, state[key])
    config = {"model_cfg": shrunk_config("ViT-B-16-SigLIP"), "preprocess_cfg": {"mean": [0.5] * 3}}
    config["model_cfg"]["text_cfg"].pop("hf_tokenizer_name")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    shrink(monkeypatch, "ViT-B-16-SigLIP")
    ours = open_clip.create_model("ViT-B-16-SigLIP")
    torch.save(ours.state_dict(), folder / "open_clip_pytorch_model.bin")
    local = load_clip(f"local-dir:{folder}", device="cpu")
    assert local.mean.flatten().tolist() == [0.5] * 3 and isinstance(local, AnyTower)
    assert torch.equal(local.model.logit_scale, ours.logit_scale)


def test_what_towers_refuse(monkeypatch, tmp_path):
    shrink(monkeypatch, "RN50")
    clip, prompts, sample = load_clip("RN50", device="cpu"), Prompts.paper(), PaperWorld(1)[0]
    shrink(monkeypatch, FIXED)
    fixed = load_clip(FIXED, device="cpu")
    tiny, batch = load_clip("paper", device="cpu"), (sample.image[None], sample.labels[None])
    for call, message in (
        (lambda: AnyTower(nn.Conv2d(3, 3, 1)), "image tower is Conv2d, expected a ViT, a ResNet"),
        (lambda: load_clip("roberta-ViT-B-32"), r"text tower roberta-base.*wsss_kit\[hub\]"),
        (lambda: load_clip(f"local-dir:{tmp_path}"), "could not be opened .* check the name, or"),
        (lambda: load_clip("hf-hub:a/b", weights="x"), "brings its weights, and weights is x"),
        (lambda: load_clip("RN50", precision="half"), "precision is 'half', and the maps of RN50"),
        (lambda: load_clip("RN50", autocast="bfloat16"), "autocast is for open_clip's own ViT"),
        (
            lambda: clip.last_block(batch[0], similarity="values"),
            "gives no similarity of its values",
        ),
        (lambda: CLIPES(clip, prompts=prompts, distribution=True).fit()(*batch), "no embedding of"),
        (
            lambda: CLIPES(tiny, prompts=prompts, affinity_backbone=fixed).fit()(*batch),
            "vit_relpos.* sees 14 x 14 cells, whatever the image; expected 12 x 12",
        ),
        (
            lambda: CLIPES(tiny, prompts=prompts, affinity_backbone=nn.Conv2d(3, 3, 1)),
            "it is Conv2d, expected a model from load_clip or a network of timm",
        ),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            call()


# -- a second encoder -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"preset": "clean"}, {"similarity": "values"}])
def test_the_same_clip_as_second_encoder_changes_nothing(clip, options):
    sample, prompts = PaperWorld(1)[0], Prompts.paper()
    batch = sample.image[None], sample.labels[None]
    plain = CLIPES(clip, prompts=prompts, **options).fit()
    twice = CLIPES(clip, prompts=prompts, affinity_backbone=clip, **options).fit()
    expected, found = plain(*batch), twice(*batch)
    torch.testing.assert_close(found.cams, expected.cams, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.affinity, expected.affinity, atol=1e-6, rtol=0)
    assert Pipeline(twice).refinement == "attention affinity of the tiny CLIP"


def test_a_network_of_timm_gives_the_affinity_alone(clip):
    sample, prompts = PaperWorld(1)[0], Prompts.paper()
    batch = sample.image[None], sample.labels[None]
    torch.manual_seed(0)
    network = shrunk_trunk("vit_small_patch14_dinov2", num_classes=0, img_size=56)
    method = CLIPES(clip, prompts=prompts, affinity_backbone=network).fit()
    expected, found = CLIPES(clip, prompts=prompts).fit()(*batch), method(*batch)
    torch.testing.assert_close(found.cams, expected.cams, atol=1e-6, rtol=0)
    shown = F.interpolate(batch[0], (12 * 14, 12 * 14), mode="bicubic")
    assert found.affinity.shape == expected.affinity.shape and shown.shape[2] == 168
    assert (found.affinity - expected.affinity).abs().max() > 1e-3
    torch.testing.assert_close(found.affinity.sum(-1), torch.ones(1, 144), atol=0.05, rtol=0)
    assert Pipeline(method).refinement == "attention affinity of vit_small_patch14_dinov2"
    dino3 = AnyTower.of_timm(
        timm.create_model("vit_small_patch16_dinov3", num_classes=0), torch.device("cpu")
    )
    assert dino3.encode_dense(torch.rand(1, 3, 48, 64)).attention.shape == (1, 12, 12)


def test_the_page_shows_how_to_bring_a_backbone():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    code = next(block for block in blocks if "frozen(Mine()" in block)
    namespace = {}
    exec(code, namespace)  # the page's own words
    assert namespace["maps"].shape == (1, 3, 4, 6)
    visual = namespace["clip"].model.visual
    place = Place(visual.blocks[-1].attn, 1, [visual.blocks[-1].attn], 16)
    given = AnyTower(namespace["clip"].model, place=place)
    images = torch.rand(1, 3, *visual.patch_embed.img_size)
    torch.testing.assert_close(
        given.encode_image(images), AnyTower(given.model).encode_image(images)
    )
