"""From pixels to refined maps: the fast way, the literal way and the recipe are one."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.affinity import box_masks, random_walk, transition_matrix
from wsss_kit.cam import Texts, directions, probability_weights
from wsss_kit.clip import load_clip
from wsss_kit.methods.clip_es import CLIPES, PRESETS, refined_maps
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import clip_es_maps


@pytest.fixture(scope="module")
def words(clip):
    return CLIPES(clip, prompts=Prompts.paper()).fit()


def texts_of(words, sample):
    return words.class_features_[sample.labels > 0], words.background_features_


@pytest.mark.parametrize("preset", PRESETS)
def test_it_is_what_the_method_and_the_recipe_give(clip, preset):
    sample = next(s for s in PaperWorld(20) if s.labels.sum() == 2)
    method = CLIPES(clip, prompts=Prompts.paper(), preset=preset).fit()
    output = method(sample.image[None], sample.labels[None])
    result = refined_maps(clip, sample.image, *texts_of(method, sample), preset=preset)
    torch.testing.assert_close(result.cams, output.cams[0, sample.labels > 0])
    torch.testing.assert_close(result.attention, output.affinity[0])
    boxes = box_masks(output.cams, threshold=0.4, clamp=preset != "clean")
    assert torch.equal(result.masks, boxes[0, sample.labels > 0])
    walk = transition_matrix(result.attention[None], sinkhorn=3, squarings=0)
    walked = random_walk((result.masks * result.cams)[None], walk)[0]
    torch.testing.assert_close(result.refined, walked, atol=1e-6, rtol=1e-5)


def test_images_of_three_kinds(clip, words):
    sample = PaperWorld(1)[0]
    pixels = (sample.image * 255).round().byte().permute(1, 2, 0).numpy()
    kinds = (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    first, *others = (refined_maps(clip, variant, *texts_of(words, sample)) for variant in kinds)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_images_and_texts_that_are_refused(clip, words):
    image, texts = np.zeros((8, 8, 3), np.uint8), words.class_features_
    for given, positives, backgrounds, message in (
        (image[0], texts, texts, r"image is uint8 of shape \(8, 3\), expected \(H, W, 3\)"),
        (image / 255, texts, texts, "image is float64 of shape"),
        (torch.zeros(1, 3, 4, 4), texts, texts, "image is float32 of shape"),
        (torch.full((3, 4, 4), 2.0), texts, texts, r"images ranges from 2 to 2, expected \[0, 1\]"),
        (image, texts[:, :64], texts, r"positives has shape \(8, 64\), expected at least 1"),
        (image, texts[:0], texts, r"positives has shape \(0, 128\)"),
        (image, texts, texts[0], r"backgrounds has shape \(128,\).*128 numbers"),
        (image, texts, texts.tolist(), "backgrounds is list"),
    ):
        with pytest.raises(ValueError, match=message):
            refined_maps(clip, given, positives, backgrounds)
    alone = refined_maps(clip, image, texts[:1], texts[:0])
    assert (alone.cams == 0).all()  # nothing to compare with


def test_an_image_beyond_the_limit_keeps_its_size(words):
    """The model is shown 60 cells of an image of 96; maps and masks are the image's."""
    small = load_clip("paper", device="cpu")
    small.max_cells = 60
    sample = PaperWorld(1)[0]
    image, labels = sample.image[None, :, :64], sample.labels[None]
    method = CLIPES(small, prompts=Prompts.paper()).fit()
    with pytest.warns(UserWarning, match=r"64x96 are 96 patches.*shown them at 48x72, 60 patches"):
        maps = clip_es_maps(image, labels, method=method)
    assert maps.shape == (1, 8, 64, 96)
    on, whole = labels[0] > 0, clip_es_maps(image, labels, method=words)
    together = torch.stack([maps[0, on].flatten(), whole[0, on].flatten()])
    assert torch.corrcoef(together)[0, 1] > 0.5  # the same image, seen from further away


def test_a_probability_near_one_keeps_its_digits():
    """1 - p has lost all digits where the sum of the others has them."""
    probs = torch.tensor([-1e-12, 0.0, -30.0, -32.0]).exp()
    probs[0] = 1
    weights = probability_weights(probs.expand(2, -1), torch.arange(2))
    exact = probs.double()
    torch.testing.assert_close(weights[0, 0], (exact[0] * exact[1:].sum()).float())
    torch.testing.assert_close(weights[0, 2], (-exact[0] * exact[2]).float())
    torch.testing.assert_close(weights.sum(1), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("softmax", [True, False])
def test_directions_are_derivatives(softmax):
    """Of two images, the second without the first class."""
    features = torch.nn.functional.normalize(torch.randn(5, 7, dtype=torch.float64), dim=-1)
    present = torch.tensor([[True, True], [False, True]])
    embedding = torch.randn(2, 7, dtype=torch.float64)
    result, probs, image = directions(
        embedding, Texts(features, present), scale=20.0, softmax=softmax
    )
    expected = []
    for one, row in zip(embedding, present, strict=True):
        mine = torch.cat([features[:2][row], features[2:]])

        def targets(x, mine=mine):
            logits = 20 * mine @ torch.nn.functional.normalize(x, dim=0)
            return (logits.softmax(0) if softmax else logits)[: len(mine) - 3]

        expected.append(torch.autograd.functional.jacobian(targets, one))
    torch.testing.assert_close(result, torch.cat(expected))
    torch.testing.assert_close(probs.sum(1), torch.ones(2, dtype=torch.float64))
    assert probs[1, 0] == 0 and image.tolist() == [0, 0, 1]


def test_near_certainty_maps_are_those_of_double_precision(clip, words):
    """Where p is 1 but for its last digits, plain differentiation in float32 is noise."""
    exact = load_clip("paper", device="cpu", dtype="float64")
    image, backgrounds = PaperWorld(1)[0].image, words.background_features_[:5]
    seen = torch.nn.functional.normalize(clip.last_block(image[None])[0].embedding[0], dim=0)
    text = torch.nn.functional.normalize(0.6 * seen + 0.4 * words.class_features_[4], dim=0)[None]
    result = refined_maps(clip, image, text, backgrounds)
    expected = refined_maps(exact, image, text, backgrounds)
    assert result.probs[0] > 1 - 1e-6
    torch.testing.assert_close(result.cams, expected.cams, atol=1e-4, rtol=0)
