"""The dense CRF: figures measured with pydensecrf2, cases by hand, and what must hold of any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_kit.cam import upsample
from wsss_kit.crf import dense, dense_crf, permutohedral, reference_crf_images

GOLDEN = Path(__file__).parent.parent / "golden"
SETTINGS = {
    "q_clip_es": {},  # the defaults
    "q_psa": {
        "spatial_std": 3,
        "bilateral_weight": 10,
        "bilateral_xy_std": 80,
        "bilateral_rgb_std": 13,
    },
    "q_irn": {
        "spatial_std": 3,
        "bilateral_weight": 10,
        "bilateral_xy_std": 50,
        "bilateral_rgb_std": 5,
        "unary": "hard",
    },
}


@pytest.fixture(autouse=True)
def fresh_lattices():
    dense._spatial_lattice.cache_clear()
    dense._bilateral_lattice.cache_clear()


def draw_scene(generator):
    scores = upsample(torch.rand(2, 3, 4, 6, generator=generator), (20, 30))
    images = upsample(torch.rand(2, 3, 5, 6, generator=generator), (20, 30))
    return scores / scores.sum(1, keepdim=True), images


@pytest.fixture
def scene(rng):
    """Scores of three classes on a coarse grid, over two images of 20x30 pixels."""
    return draw_scene(rng)


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)[None].float() / 255
        scores = torch.from_numpy(arrays["scores"].astype(np.float32))[None]
        return image, scores, {key: torch.from_numpy(arrays[key]) for key in SETTINGS}


# -- golden figures -------------------------------------------------------------------------


@pytest.mark.parametrize("sorting", ["numpy", "torch"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["crf_a", "crf_b"])
def test_equals_pydensecrf2(name, setting, sorting, monkeypatch):
    """Asked for: every argmax, and 2e-3; a point on a face of the lattice costs up to 1e-2."""
    if sorting == "torch":
        monkeypatch.setattr(permutohedral, "_numpy_is_faster", lambda codes: False)
    image, scores, measured = golden(name)
    probs = dense_crf(scores, image, **SETTINGS[setting])[0]
    assert torch.equal(probs.argmax(0), measured[setting].argmax(0))
    assert torch.equal(probs.amax(0) >= 0.95, measured[setting].amax(0) >= 0.95)
    torch.testing.assert_close(probs, measured[setting], atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_gpu_equals_pydensecrf2(setting):
    image, scores, measured = golden("crf_a")
    probs = dense_crf(scores.cuda(), image.cuda(), **SETTINGS[setting])
    assert probs.is_cuda
    torch.testing.assert_close(probs[0].cpu(), measured[setting], atol=2e-3, rtol=0)
    assert torch.equal(probs[0].cpu().argmax(0), measured[setting].argmax(0))


# -- by hand --------------------------------------------------------------------------------


def softmax(logits):
    grown = np.exp(logits - logits.max())
    return grown / grown.sum()


@pytest.mark.parametrize("weights", [(3, 4), (0, 4), (3, 0)])
def test_one_pixel_by_hand(weights):
    """A pixel alone pulls itself: each normalised kernel gives its own marginals back."""
    scores = np.array([0.2, 0.7, 0.0])
    unary = np.log(np.maximum(scores, 1e-5))
    expected = softmax(unary)
    for _ in range(10):
        expected = softmax(unary + sum(weights) * expected)
    probs = dense_crf(
        torch.tensor(scores).view(1, 3, 1, 1),
        torch.rand(1, 3, 1, 1),
        spatial_weight=weights[0],
        bilateral_weight=weights[1],
    )
    assert probs.dtype == torch.float32
    np.testing.assert_allclose(probs.flatten().numpy(), expected, atol=1e-6)


def test_without_iterations_it_is_the_unary_term():
    scores = torch.tensor([0.0, 0.6, 0.9]).view(1, 3, 1, 1)
    options = {"images": torch.zeros(1, 3, 1, 1), "iterations": 0}
    soft = dense_crf(scores, **options).flatten()
    expected = torch.tensor([1e-5, 0.6, 0.9])
    torch.testing.assert_close(soft, expected / expected.sum())  # cut, not renormalised before
    hard = dense_crf(scores, unary="hard", **options).flatten()
    torch.testing.assert_close(hard, torch.tensor([0.15, 0.15, 0.7]))
    two = dense_crf(scores[:, :2], unary="hard", **options).flatten()
    torch.testing.assert_close(two, torch.tensor([0.3, 0.7]))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mean_field_comes_near_to_the_exact_kernels(seed):
    """Both Gaussians written out as matrices; the lattice is an approximation of them."""
    scene = draw_scene(torch.Generator().manual_seed(seed))
    scores, images = (x[:1, :, :12, :15] for x in scene)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(15.0), indexing="ij")
    place = torch.stack([x, y]).view(2, -1).T
    colour = (images[0] * 255).round().view(3, -1).T
    kernels = {1: place / 3, 2: torch.cat([place / 20, colour / 60], 1)}
    unary = scores[0].reshape(3, -1).T.log()
    probs = unary.softmax(1)
    for _ in range(5):
        pulls = 0
        for weight, features in kernels.items():
            kernel = torch.exp(-(torch.cdist(features, features) ** 2) / 2)
            norm = kernel.sum(1, keepdim=True).rsqrt()
            pulls = pulls + weight * norm * (kernel @ (norm * probs))
        probs = (unary + pulls).softmax(1)
    result = dense_crf(
        scores,
        images,
        iterations=5,
        spatial_weight=1,
        spatial_std=3,
        bilateral_weight=2,
        bilateral_xy_std=20,
        bilateral_rgb_std=60,
    )
    change = (scores[0].reshape(3, -1).T - probs).abs().mean()
    assert (result[0].view(3, -1).T - probs).abs().mean() < 0.05 * change


def test_edges_come_from_the_image():
    """Blurred scores over an image of two halves end at the image's edge."""
    image = torch.zeros(1, 3, 20, 24)
    image[..., 12:] = 0.8
    ramp = torch.linspace(0.05, 0.95, 24).roll(2).expand(1, 1, 20, 24).clone()
    ramp[..., :2] = 0.05  # crosses 0.5 two pixels too far to the right
    scores = torch.cat([1 - ramp, ramp], 1)
    assert (scores.argmax(1)[0] == (torch.arange(24) >= 14)).all()
    assert (dense_crf(scores, image).argmax(1)[0] == (torch.arange(24) >= 12)).all()
    spatial_alone = dense_crf(scores, image, bilateral_weight=0)
    assert (spatial_alone.argmax(1)[0] == (torch.arange(24) >= 14)).all()


# -- what must hold -------------------------------------------------------------------------


def test_probabilities_and_batches(scene):
    scores, images = scene
    probs = dense_crf(scores, images)
    assert probs.shape == scores.shape
    assert probs.min() >= 0
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 20, 30))
    for b in range(2):
        one = dense_crf(scores[b][None], images[b][None])
        assert torch.equal(one[0], probs[b])
    swapped = dense_crf(scores[:, [2, 0, 1]], images)
    torch.testing.assert_close(swapped, probs[:, [2, 0, 1]], atol=1e-5, rtol=0)


def test_scores_of_one_image_go_together_and_come_back_as_alone(scene):
    scores, images = scene
    mixed = torch.cat([scores, scores.flip(1), scores.flip(2)])[[0, 2, 4, 1, 3, 0]]
    images = images[[0, 0, 0, 1, 1, 0]]
    together = dense_crf(mixed, images)
    for b in range(6):
        alone = dense_crf(mixed[b][None], images[b][None])[0]
        torch.testing.assert_close(together[b], alone, atol=1e-6, rtol=0)


def test_inputs_are_left_alone_and_gradients_stop(scene):
    scores, images = scene
    before = scores.clone(), images.clone()
    probs = dense_crf(scores.requires_grad_(), images)
    assert not probs.requires_grad
    assert torch.equal(scores, before[0])
    assert torch.equal(images, before[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_number_types_give_float32(scene, dtype):
    scores, images = scene
    probs = dense_crf(scores.to(dtype), images.double())
    assert probs.dtype == torch.float32
    expected = dense_crf(scores.to(dtype).float(), images)
    torch.testing.assert_close(probs, expected)


def test_a_single_class_gets_everything(scene):
    scores, images = scene
    for unary in ("soft", "hard"):
        probs = dense_crf(scores[:, :1], images, unary=unary)
        assert torch.equal(probs, torch.ones(2, 1, 20, 30))


def test_no_images_give_no_scores():
    assert dense_crf(torch.zeros(0, 2, 4, 5), torch.zeros(0, 3, 4, 5)).shape == (0, 2, 4, 5)


def test_thin_images(rng):
    for size in ((1, 7), (7, 1), (2, 2)):
        scores = torch.rand(1, 2, *size, generator=rng)
        probs = dense_crf(scores, torch.rand(1, 3, *size, generator=rng))
        torch.testing.assert_close(probs.sum(1), torch.ones(1, *size))


def test_lattices_are_built_once_a_size_and_once_an_image(scene, monkeypatch):
    built = []

    class Counted(permutohedral.Lattice):
        def __init__(self, features):
            built.append(features.shape)
            super().__init__(features)

    monkeypatch.setattr(dense, "Lattice", Counted)
    scores, images = scene
    dense_crf(scores, images)
    assert [d for d, _ in built] == [2, 5, 5]
    dense_crf(scores.flip(1), images)  # other scores of the same images
    assert len(built) == 3
    dense_crf(scores, images.flip(1))
    assert [d for d, _ in built] == [2, 5, 5, 5, 5]
    dense_crf(scores[..., :9], images[..., :9], bilateral_weight=0)  # another size
    assert [d for d, _ in built[5:]] == [2]


# -- bad input ------------------------------------------------------------------------------

GOOD = torch.full((1, 2, 4, 5), 0.5), torch.full((1, 3, 4, 5), 0.5)


def with_one(tensor, value):
    tensor = tensor.clone()
    tensor[0, 0, 1, 1] = value
    return tensor


@pytest.mark.parametrize(
    ("scores", "images", "reason"),
    [
        (GOOD[0][0], GOOD[1], r"scores has shape \(2, 4, 5\), expected \(B, K, H, W\).*scores\[No"),
        (torch.zeros(1, 0, 4, 5), GOOD[1], r"with a class and a pixel"),
        (torch.zeros(1, 2, 0, 5), torch.zeros(1, 3, 0, 5), r"a class and a pixel"),
        (GOOD[0], torch.zeros(1, 3, 4, 6), r"\(1, 3, 4, 6\), expected \(1, 3, 4, 5\) .*; resize"),
        (GOOD[0], torch.zeros(2, 3, 4, 5), r"expected \(1, 3, 4, 5\)"),
        (GOOD[0], torch.zeros(1, 1, 4, 5), r"expected \(1, 3, 4, 5\)"),
        (with_one(GOOD[0], float("nan")), GOOD[1], r"scores holds NaN"),
        (GOOD[0], with_one(GOOD[1], float("nan")), r"images holds NaN"),
        (with_one(GOOD[0], float("inf")), GOOD[1], r"scores ranges from 0.5 to inf"),
        (with_one(GOOD[0], -3), GOOD[1], r"scores ranges from -3 to 0.5, expected \[0, 1\]"),
        (GOOD[0], GOOD[1] * 255, r"images ranges .* to 127.5, expected \[0, 1\]; divide 8-bit"),
    ],
)
def test_scores_and_images_that_are_refused(scores, images, reason):
    with pytest.raises(ValueError, match=reason):
        dense_crf(scores, images)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"spatial_std": 0}, r"spatial_std is 0, expected .* above 0; spatial_weight=0 leaves"),
        ({"bilateral_xy_std": -1}, r"bilateral_xy_std is -1.*bilateral_weight=0 leaves"),
        ({"bilateral_rgb_std": float("nan")}, r"bilateral_rgb_std is nan"),
        ({"spatial_weight": -1}, r"spatial_weight is -1, expected a number of 0 or more"),
        ({"bilateral_weight": float("inf")}, r"bilateral_weight is inf"),
        ({"iterations": -1}, r"iterations is -1, expected a whole number"),
        ({"iterations": 2.5}, r"iterations is 2.5, expected a whole number"),
        ({"unary": "medium"}, r"unary is 'medium', expected one of soft, hard"),
    ],
)
def test_parameters_that_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        dense_crf(*GOOD, **options)


# -- the released code's images -----------------------------------------------------------


def test_reference_images_wrap_as_numpy_does(rng):
    image = torch.randint(256, (5, 6, 3), generator=rng).numpy().astype(np.uint8)
    bgr = image[..., ::-1].astype(np.float32) - np.float32(dense.BGR_MEAN)
    expected = bgr.astype(np.int64).astype(np.uint8)
    image = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    result = (reference_crf_images(image)[0] * 255).round().byte()
    np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), expected)
