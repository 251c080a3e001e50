"""CLIP-ES on the tiny CLIP: the competition of texts, presets and files."""

import functools

import pytest
import torch

from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.methods.clip_es import CLIPES, TARGETS
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts


@pytest.fixture(scope="module")
def sample():
    """An image of one class."""
    return next(s for s in PaperWorld(20) if s.labels.sum() == 1)


@pytest.fixture(scope="module")
def method(clip):
    return CLIPES(clip, prompts=Prompts.paper()).fit()


def test_the_number_of_layers_and_the_length_of_the_walk(clip, sample):
    """What was asked for, else what the model's card says, else as published."""
    make = functools.partial(CLIPES, prompts=Prompts.paper())
    image, labels = sample.image[None], sample.labels[None]
    affinities = {
        n: make(clip, n_layers=n).fit()(image, labels).affinity
        for n in (None, 8, len(clip.blocks), 1)
    }
    assert torch.equal(affinities[None], affinities[clip.attention_layers])  # its card's
    assert torch.equal(affinities[8], affinities[len(clip.blocks)])  # clamped to the depth
    assert not torch.allclose(affinities[8], affinities[1])
    assert make(clip).walk_squarings == clip.walk_squarings == 0
    assert [make(clip, squarings=n).walk_squarings for n in (0, 3)] == [0, 3]
    unknown = FrozenCLIP(load_clip("paper", device="cpu").model)
    assert make(unknown).walk_squarings == 1


def test_the_mirror_image_counts_as_much_as_the_image(clip, method, sample):
    image, labels = sample.image[None, :, :72], sample.labels[None]  # 9 x 12 cells
    both = CLIPES(clip, prompts=Prompts.paper(), flip=True).fit()(image, labels)
    one, other = method(image, labels), method(image.flip(-1), labels)
    mean = (one.cams + other.cams.flip(-1)) / 2
    low = mean.amin((2, 3), keepdim=True)
    scaled = (mean - low) / ((mean - low).amax((2, 3), keepdim=True) + 1e-7)
    torch.testing.assert_close(both.cams, scaled, atol=1e-4, rtol=1e-4)
    back = torch.arange(9 * 12).view(9, 12).flip(1).flatten()
    affinity = (one.affinity + other.affinity[:, back][:, :, back]) / 2
    torch.testing.assert_close(both.affinity, affinity, atol=1e-5, rtol=1e-4)


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


def test_templates_and_synonyms_are_averaged(clip):
    templates = ("a {} without background", "a clean cutout of a {}")
    synonyms = {"cat": ["cat", "kitten"]}
    prompts = Prompts.paper().replace(template=templates, synonyms=synonyms, fusion="feature")
    method = CLIPES(clip, prompts=prompts).fit()
    for result, sentences in (
        (method.class_features_, prompts.class_sentences()),
        (method.background_features_, prompts.background_sentences()),
    ):
        for feature, texts in zip(result, sentences, strict=True):
            mean = clip.encode_text(texts).mean(0)
            torch.testing.assert_close(feature, mean / mean.norm())
    with pytest.raises(ValueError, match="nothing to train; it cannot use epochs, seed"):
        method.fit([], epochs=3, seed=1)


def test_images_of_any_size(method):
    for size in ((1, 1), (7, 50)):
        output = method(torch.rand(1, 3, *size), torch.ones(1, 8))
        assert output.cams.shape[2:] == tuple(-(-side // 8) for side in size)
        assert output.cams.isfinite().all()
