"""Recipes against the same chain written out by hand."""

import pytest
import torch

from wsss_kit import recipes
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.crf import crf_of_present, reference_crf_images
from wsss_kit.masks import add_background, scores_to_masks
from wsss_kit.methods.base import CAMMethod, MethodOutput
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline


class Given(CAMMethod):
    """A method whose maps and affinity are given."""

    def __init__(self, cams, affinity=None, preset="reference"):
        self.preset = preset
        self.output = MethodOutput(cams, affinity)
        self.brings_affinity = affinity is not None

    def __call__(self, images, labels):
        return self.output


@pytest.fixture
def given(rng):
    cams = torch.rand(2, 3, 4, 5, generator=rng)
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    affinity = torch.rand(2, 20, 20, generator=rng)
    cams = cams * labels[:, :, None, None]
    return Given(cams, affinity), torch.rand(2, 3, 17, 22, generator=rng), labels


def resize(maps, size):
    return torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def masks_of_constant(maps, labels, threshold):
    return scores_to_masks(add_background(maps, threshold=threshold), labels)


def masks_of_crf(maps, images, labels, background, confidence):
    """Masks of the dense CRF among a background (B, 1, H, W) and the classes present."""
    probs = crf_of_present(torch.cat([background, maps], 1), images, labels)
    return scores_to_masks(probs, labels, min_confidence=confidence)


def test_plain_maps_and_masks(given):
    method, images, labels = given
    maps = recipes.cam_maps(images, labels, method=method)
    torch.testing.assert_close(maps, resize(method.output.cams, (17, 22)))
    result = recipes.cam_masks(images, labels, method=method, threshold=0.5)
    assert torch.equal(result, masks_of_constant(maps, labels, 0.5))
    assert result.dtype == torch.int64 and result.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("masks_of", [recipes.clims_masks, recipes.sc_cam_masks])
def test_masks_of_a_constant_background_and_a_crf_if_asked_for(given, masks_of):
    method, images, labels = given
    maps = resize(method.output.cams, (17, 22))
    result = masks_of(images, labels, method=method)
    assert torch.equal(result, masks_of_constant(maps, labels, 0.15))
    for confidence in (None, 0.6):
        options = {"method": method, "threshold": 0.4, "min_confidence": confidence}
        refined = masks_of(images, labels, crf=True, **options)
        background = torch.full_like(maps[:, :1], 0.4)
        expected = masks_of_crf(maps, images, labels, background, confidence)
        assert torch.equal(refined, expected)
    unsure = masks_of(images, labels, **options)
    plain = masks_of_constant(maps, labels, 0.4)
    scores = torch.cat([torch.full_like(maps[:, :1], 0.4), maps * labels[:, :, None, None]], 1)
    doubtful = scores.amax(1) < 0.6
    assert torch.equal(unsure, plain.masked_fill(doubtful, 255)) and doubtful.any()


@pytest.mark.parametrize(
    ("preset", "power", "confidence"),
    [("reference", 1.0, None), ("clean", 4.0, None), ("reference", 1.0, 0.99999)],
)
def test_clip_es_masks(given, power, confidence, preset):
    """Background and the classes present, image by image; below the confidence 255."""
    method, images, labels = given
    method.preset = preset
    maps = recipes.clip_es_maps(images, labels, method=method, box_threshold=0.7)
    assert not torch.equal(
        maps, recipes.clip_es_maps(images, labels, method=method)
    )  # golden figures
    options = {"box_threshold": 0.7, "power": power, "min_confidence": confidence}
    result = recipes.clip_es_masks(images, labels, method=method, **options)
    seen = reference_crf_images(images) if preset == "reference" else images
    background = (1 - maps.amax(1, keepdim=True)) ** power
    assert torch.equal(result, masks_of_crf(maps, seen, labels, background, confidence))
    assert result.dtype == torch.int64
    assert (result == 255).any() == (confidence is not None)
    method.output = MethodOutput(0 * method.output.cams, method.output.affinity)
    assert (recipes.clip_es_masks(images, 0 * labels, method=method) == 0).all()


def walk_by_hand(maps, affinity, power, steps, size=(17, 22)):
    """Steps of D^-1 A^power, one after the other; the maps then have the size of the images."""
    A = affinity**power
    T = A / A.sum(-1, keepdim=True)
    for _ in range(steps):
        maps = torch.einsum("bij,bkj->bki", T, maps.flatten(2)).view(maps.shape)
    return resize(maps, size)


def test_sc_cam_and_cam_walk_with_their_background(given):
    method, images, labels = given
    cams, affinity = method.output
    scores = torch.cat([(1 - cams.amax(1, keepdim=True)) ** 16, cams], 1)
    walk = {"method": method, "affinity_net": lambda x: affinity}
    for options, power, steps in (
        ({"squarings": 2}, 8, 4),
        ({"walk_power": 3, "squarings": 0}, 3, 1),
    ):
        full = walk_by_hand(scores, affinity, power, steps)
        absent = torch.cat([torch.ones(2, 1), labels], 1) == 0
        expected = full.masked_fill(absent[:, :, None, None], -1).argmax(1)
        for recipe in (recipes.sc_cam_masks, recipes.cam_masks):
            result = recipe(images, labels, **walk, **options)
            assert torch.equal(result, expected)
    other = recipes.sc_cam_masks(images, labels, **walk, **options, background_power=1.0)
    assert not torch.equal(other, result)


def test_clims_walks_without_background_and_divides_by_the_images_maximum(given):
    method, images, labels = given
    cams, affinity = method.output
    full = walk_by_hand(cams, affinity, 10, 2)
    best, c = (full / (full.amax((1, 2, 3), keepdim=True) + 1e-5)).max(1)
    walk = {"method": method, "affinity_net": lambda x: affinity, "squarings": 1}
    for threshold, used in ((None, 0.2), (0.6, 0.6)):
        result = recipes.clims_masks(images, labels, threshold=threshold, **walk)
        assert torch.equal(result, torch.where(best > used, c + 1, 0))


def test_clip_es_maps_walk_with_a_learned_affinity_instead(given):
    method, images, labels = given
    cams, affinity = method.output
    other = affinity.flip(0)
    full = walk_by_hand(cams, other, 8, 2)
    full = full - full.amin((2, 3), keepdim=True)
    expected = full / (full.amax((2, 3), keepdim=True) + 1e-7)
    walk = {"affinity_net": lambda x: other, "squarings": 1}
    result = recipes.clip_es_maps(images, labels, method=method, **walk)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    method.output = MethodOutput(cams)  # none of its own is needed
    masks = recipes.clip_es_masks(images, labels, method=method, min_confidence=None, **walk)
    scores = torch.cat([1 - expected.amax(1, keepdim=True), expected], 1)
    refined = Pipeline(method, crf=True).refine(scores, images, labels)
    assert torch.equal(masks, refined.argmax(1))


def test_maps_that_walk_with_a_boundary_leave_it_first():
    world = PaperWorld(2)
    net = AffinityNet(device="cpu", kind="boundary", levels=2, channels=8, seed=1)
    images, labels = (torch.stack([s[k] for s in world]) for k in (1, 2))
    cams = torch.rand(2, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    cams = cams * labels[:, :, None, None]
    edges = net.boundaries(images)
    full = walk_by_hand(cams * (1 - edges), net(images), 10, 4, size=(96, 96))
    best, c = (full / (full.amax((1, 2, 3), keepdim=True) + 1e-5)).max(1)
    options = {"method": Given(cams), "affinity_net": net, "squarings": 2}
    assert edges.std() > 0.01
    result = recipes.clims_masks(images, labels, **options)
    assert (result == torch.where(best > 0.2, c + 1, 0)).float().mean() > 0.999
    assert len(result.unique()) > 2
