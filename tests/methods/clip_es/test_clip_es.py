"""CLIP-ES on the tiny CLIP: the competition of texts, presets and files."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from wsss_kit.cam import softmax_grad_cam
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.evaluation import BackgroundRule, Protocol, evaluate, predict_masks
from wsss_kit.methods.clip_es import CLIPES, TARGETS
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.measures import part_recall
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps, clip_es_maps


@pytest.fixture(scope="module")
def sample():
    """An image of one class."""
    return next(s for s in PaperWorld(20) if s.labels.sum() == 1)


@pytest.fixture(scope="module")
def method(clip):
    return CLIPES(clip, prompts=Prompts.paper()).fit()


def grad_cam(clip, dense, positives, backgrounds, **options):
    return softmax_grad_cam(
        dense.tokens[0],
        positives,
        backgrounds,
        head=lambda tokens, normed: clip.finish(tokens, normed, dense.grid),
        norm=clip.blocks[-1].ln_1,
        grid=dense.grid,
        logit_scale=clip.logit_scale,
        **options,
    )


def test_fit_encodes_the_phrases(clip, method):
    prompts = Prompts.paper()
    assert torch.equal(method.class_features_, clip.encode_text(prompts.class_texts()))
    assert torch.equal(method.background_features_, clip.encode_text(prompts.background_texts()))
    with pytest.raises(ValueError, match="nothing to train; it cannot use epochs, seed"):
        CLIPES(clip, prompts=prompts).fit([], epochs=3, seed=1)


def test_maps_are_scaled_gradients_of_the_classes_present(clip, method, sample):
    clip.round_positions = True
    dense = clip.encode_dense(sample.image[None])
    clip.round_positions = False
    (present,) = sample.labels.nonzero()[0].tolist()
    raw = grad_cam(clip, dense, method.class_features_[[present]], method.background_features_)[0]
    scaled = raw
    for _ in range(2):
        scaled = (scaled - scaled.min()) / ((scaled - scaled.min()).max() + 1e-7)
    output = method(sample.image[None], sample.labels[None])
    torch.testing.assert_close(output.cams[0, present], scaled)
    assert torch.equal(output.affinity, dense.attention)


def test_absent_classes_do_not_compete(clip, method, sample):
    """Another class among the texts changes the map; naming it absent does not."""
    image, labels = sample.image[None], sample.labels[None].clone()
    present = int(labels[0].argmax())
    alone = method(image, labels).cams[0, present]
    labels[0, (present + 1) % 8] = 1
    rivalled = method(image, labels).cams[0, present]
    assert not torch.allclose(alone, rivalled, atol=1e-4)


def test_a_single_text_gives_a_map_of_zeros(clip, method, sample):
    dense = clip.encode_dense(sample.image[None])
    positives = method.class_features_[sample.labels > 0]
    nothing = method.background_features_[:0]
    assert (grad_cam(clip, dense, positives, nothing) == 0).all()
    assert grad_cam(clip, dense, positives, nothing, softmax=False).max() > 0
    assert grad_cam(clip, dense, positives, method.background_features_).max() > 0


@pytest.mark.parametrize("softmax", [True, False])
def test_closed_form_on_the_tiny_clip(clip, method, sample, softmax):
    r"""The gradient of p_c is p_c (g_c - sum p g), with g the gradients of the logits."""
    dense = clip.encode_dense(sample.image[None])
    positives = method.class_features_[sample.labels > 0]
    texts = torch.cat([positives, method.background_features_])
    tokens = dense.tokens
    normed = clip.blocks[-1].ln_1(tokens).detach()

    def logits_of(patches):
        given = torch.cat([normed[:, :1], patches[None]], 1)
        seen = torch.nn.functional.normalize(clip.finish(tokens, given, dense.grid), dim=-1)
        return clip.logit_scale * (texts @ seen[0])

    g = torch.autograd.functional.jacobian(logits_of, normed[0, 1:]).mean(1)  # (T, D)
    p = logits_of(normed[0, 1:]).softmax(0)
    weights = p[0] * (g[0] - p @ g) if softmax else g[0]
    literal = (normed[0, 1:] @ weights).clamp_min(0).view(dense.grid)
    result = grad_cam(clip, dense, positives, method.background_features_, softmax=softmax)[0]
    scale = literal.max().clamp_min(1e-12)
    assert literal.max() > 0
    torch.testing.assert_close(result / scale, literal / scale, atol=1e-3, rtol=1e-3)


def test_the_number_of_layers(clip, sample):
    prompts, image, labels = Prompts.paper(), sample.image[None], sample.labels[None]
    affinities = {
        n: CLIPES(clip, prompts=prompts, n_layers=n).fit()(image, labels).affinity
        for n in (None, 8, len(clip.blocks), 1)
    }
    assert torch.equal(affinities[None], affinities[clip.attention_layers])  # its card's
    assert torch.equal(affinities[8], affinities[len(clip.blocks)])  # clamped to the depth
    assert not torch.allclose(affinities[8], affinities[1])


def test_the_length_of_the_walk(clip):
    """What was asked for, else what the model's card says, else the published two steps."""
    make = functools.partial(CLIPES, prompts=Prompts.paper())
    assert make(clip).walk_squarings == clip.walk_squarings == 0
    assert [make(clip, squarings=n).walk_squarings for n in (0, 3)] == [0, 3]
    unknown = FrozenCLIP(load_clip("paper", device="cpu").model)
    assert make(unknown).walk_squarings == 1


def test_presets_round_or_not_and_leave_the_clip_alone(clip, sample):
    maps = {}
    for preset in ("reference", "clean"):
        method = CLIPES(clip, prompts=Prompts.paper(), preset=preset, flip=False).fit()
        maps[preset] = method(sample.image[None, :, :72], sample.labels[None]).cams
        assert clip.round_positions is False
    assert not torch.equal(maps["reference"], maps["clean"])
    torch.testing.assert_close(maps["reference"], maps["clean"], atol=0.05, rtol=0)


def test_the_mirror_image_is_looked_at_where_it_is_asked_for(clip, sample):
    """With it, a mirrored image has mirrored maps; without, it has others."""
    image, labels = sample.image[None, :, :72], sample.labels[None]  # 9 x 12 cells
    for options, symmetric in (
        ({"preset": "reference"}, False),
        ({"preset": "clean", "flip": False}, False),
        ({"preset": "reference", "flip": True}, True),
        ({"preset": "clean"}, True),
    ):
        method = CLIPES(clip, prompts=Prompts.paper(), **options).fit()
        one, other = method(image, labels), method(image.flip(-1), labels)
        assert torch.allclose(other.cams.flip(-1), one.cams, atol=1e-4) is symmetric
        cells = torch.arange(9 * 12).view(9, 12).flip(1).flatten()
        back = other.affinity[:, cells][:, :, cells]
        assert torch.allclose(back, one.affinity, atol=1e-5) is symmetric
        assert one.cams.amax() == pytest.approx(1, abs=1e-4)


def test_the_mirror_image_counts_as_much_as_the_image(clip, method, sample):
    image, labels = sample.image[None], sample.labels[None]
    both = CLIPES(clip, prompts=Prompts.paper(), flip=True).fit()(image, labels)
    views = [method(image, labels).cams, method(image.flip(-1), labels).cams.flip(-1)]
    mean = sum(views) / 2
    low = mean.amin((2, 3), keepdim=True)
    scaled = (mean - low) / ((mean - low).amax((2, 3), keepdim=True) + 1e-7)
    torch.testing.assert_close(both.cams, scaled, atol=1e-4, rtol=1e-4)


def test_whose_gradient(clip, method, sample):
    image, labels = sample.image[None], sample.labels[None]
    maps = {t: CLIPES(clip, prompts=Prompts.paper(), target=t).fit() for t in TARGETS}
    result = {target: each(image, labels).cams for target, each in maps.items()}
    assert torch.equal(result["softmax"], method(image, labels).cams)
    assert (result["classes"] == 0).all()  # one class alone: its probability cannot move
    assert result["logit"].max() > 0.99
    assert not torch.allclose(result["logit"], result["softmax"], atol=0.05)
    labels = labels.clone()
    labels[0, (int(labels.argmax()) + 1) % 8] = 1
    assert maps["classes"](image, labels).cams.amax((2, 3))[0, labels[0] > 0].min() > 0.99
    with pytest.raises(ValueError, match="target is 'logits', expected one of softmax, classes, "):
        CLIPES(clip, prompts=Prompts.paper(), target="logits")


def test_several_templates_are_averaged(clip):
    templates = ("a {} without background", "a clean cutout of a {}")
    prompts = Prompts.paper().replace(template=templates)
    method = CLIPES(clip, prompts=prompts).fit()
    for result, texts in (
        (method.class_features_, prompts.class_texts),
        (method.background_features_, prompts.background_texts),
    ):
        mean = sum(clip.encode_text(texts(template)) for template in templates) / 2
        torch.testing.assert_close(result, mean / mean.norm(dim=1, keepdim=True))
        assert not torch.allclose(result, clip.encode_text(texts(templates[0])), atol=1e-3)


@pytest.mark.slow
def test_the_staircase_of_the_shipped_tower(clip):
    """PaperWorld test, 200 images; the rules are those that 100 images of val chose."""
    test = PaperWorld(200, split="test")
    truth = {name: test.masks[name] for name in test.names}
    logit, softmax = (
        CLIPES(clip, prompts=Prompts.paper(), target=t).fit() for t in ("logit", "softmax")
    )
    rules = {  # step: (method, maps, rule without the CRF, rule with it)
        "logit": (logit, cam_maps, {"threshold": 0.05}, {"threshold": 0.15}),
        "softmax": (softmax, cam_maps, {"power": 3}, {"threshold": 0.25}),
        "affinity": (softmax, clip_es_maps, {"power": 1.5}, {"threshold": 0.3}),
    }
    raw, refined, recall = {}, {}, {}
    for step, (method, maps_of, *both) in rules.items():
        maps = functools.partial(maps_of, method=method)
        crf = Pipeline(method, crf=True).refine
        for result, rule, refine in ((raw, both[0], None), (refined, both[1], crf)):
            masks = predict_masks(maps, test, BackgroundRule(**rule), refine=refine, shown=False)
            protocol = Protocol("PaperWorld", "test")
            report = evaluate(masks, truth, classes=test.classes, protocol=protocol, n_bootstrap=0)
            result[step], recall[step] = 100 * report.mean_iou, part_recall(masks, test)
    assert raw["softmax"] - raw["logit"] >= 20
    assert raw["affinity"] >= raw["softmax"]
    assert refined["affinity"] - refined["softmax"] >= 3
    assert refined["affinity"] - raw["affinity"] >= 7
    assert refined["affinity"] >= 65
    assert recall["affinity"]["body"] >= 0.8 and recall["affinity"]["signature part"] >= 0.7


def test_a_failure_leaves_the_clip_as_it_was(clip, method):
    method.n_layers = 0
    try:
        with pytest.raises(ValueError, match="n_layers is 0"):
            method(torch.rand(1, 3, 24, 24), torch.ones(1, 8))
    finally:
        method.n_layers = None
    assert clip.round_positions is False


def test_images_of_any_size(method):
    for size in ((1, 1), (7, 50), (96, 48)):
        output = method(torch.rand(1, 3, *size), torch.ones(1, 8))
        grid = tuple(-(-side // 8) for side in size)
        assert output.cams.shape[2:] == grid and output.cams.isfinite().all()


def test_half_precision(sample):
    """Rough but whole: gradients are taken of numbers with eleven bits."""
    half = CLIPES(load_clip("paper", device="cpu", dtype="float16"), prompts=Prompts.paper()).fit()
    output = half(sample.image[None], sample.labels[None])
    assert output.cams.dtype == output.affinity.dtype == torch.float32
    assert output.cams.isfinite().all()


def test_saved_and_loaded(clip, sample, tmp_path):
    prompts = Prompts(["cat", "boat"], ["fog", "water"], template="an image of a {}")
    options = {"n_layers": 2, "preset": "clean", "target": "logit", "flip": False}
    method = CLIPES(clip, prompts=prompts, **options).fit()
    path = method.save(tmp_path / "method")
    card = json.loads(path.read_text(encoding="utf-8"))
    assert {key: card[key] for key in ("method", *options)} == {"method": "CLIP-ES", **options}
    loaded = CLIPES.load(path, clip=clip)
    assert loaded.prompts == prompts and loaded.clip is clip
    result, expected = (m(sample.image[None], torch.ones(1, 2)) for m in (loaded, method))
    assert torch.equal(result.cams, expected.cams)
    assert torch.equal(result.affinity, expected.affinity)
