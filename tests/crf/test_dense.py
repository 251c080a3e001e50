"""The dense CRF: figures measured with pydensecrf2, cases by hand, and what must hold of any."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_kit import crf
from wsss_kit.cam import upsample

GOLDEN = Path(__file__).parent.parent / "golden"
SETTINGS = {"q_clip_es": {}, "q_psa": crf.PSA_CRF, "q_irn": crf.IRN_CRF}


@pytest.fixture(autouse=True)
def fresh_lattices():
    crf.permutohedral.spatial_lattice.cache_clear()
    crf.permutohedral._lattice_of_one.cache_clear()


@pytest.fixture
def scene():
    """Scores of three classes on a coarse grid, over two images of 20x30 pixels."""
    rng = torch.Generator().manual_seed(4)
    scores = upsample(torch.rand(2, 3, 4, 6, generator=rng), (20, 30))
    images = upsample(torch.rand(2, 3, 5, 6, generator=rng), (20, 30))
    return scores / scores.sum(1, keepdim=True), images


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)[None].float() / 255
        scores = torch.from_numpy(arrays["scores"].astype(np.float32))[None]
        return image, scores, {key: torch.from_numpy(arrays[key]) for key in SETTINGS}


# -- golden figures -------------------------------------------------------------------------


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Compute as on a GPU: batches in one lattice, long rows in pieces, sorted by torch."""
    for module in (crf.permutohedral, crf.dense):
        monkeypatch.setattr(module, "on_gpu", lambda values: True)


@pytest.mark.parametrize("way", ["cpu", "gpu"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["crf_a", "crf_b"])
def test_equals_pydensecrf2(name, setting, way, request):
    """Asked for: every argmax, and 2e-3; a point on a face of the lattice costs up to 1e-2."""
    if way == "gpu":
        request.getfixturevalue("as_on_a_gpu")
    image, scores, measured = golden(name)
    probs = crf.dense_crf(scores, image, **SETTINGS[setting])[0]
    assert torch.equal(probs.argmax(0), measured[setting].argmax(0))
    assert torch.equal(probs.amax(0) >= 0.95, measured[setting].amax(0) >= 0.95)
    torch.testing.assert_close(probs, measured[setting], atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_gpu_equals_pydensecrf2(setting):
    image, scores, measured = golden("crf_a")
    probs = crf.dense_crf(scores.cuda(), image.cuda(), **SETTINGS[setting])
    assert probs.is_cuda
    torch.testing.assert_close(probs[0].cpu(), measured[setting], atol=2e-3, rtol=0)
    assert torch.equal(probs[0].cpu().argmax(0), measured[setting].argmax(0))


# -- by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(0, 4), (3, 0)])
def test_one_pixel_by_hand(weights):
    """A pixel alone pulls itself: each normalised kernel gives its own marginals back."""
    scores = torch.tensor([0.2, 0.7, 0.0])
    unary = scores.clamp_min(1e-5).log()
    expected = unary.softmax(0)
    for _ in range(10):
        expected = (unary + sum(weights) * expected).softmax(0)
    given = scores.view(1, 3, 1, 1), torch.rand(1, 3, 1, 1)
    probs = crf.dense_crf(*given, spatial_weight=weights[0], bilateral_weight=weights[1])
    torch.testing.assert_close(probs.flatten(), expected, atol=1e-6, rtol=0)


def test_without_iterations_it_is_the_unary_term():
    scores = torch.tensor([0.0, 0.6, 0.9]).view(1, 3, 1, 1)
    options = {"images": torch.zeros(1, 3, 1, 1), "iterations": 0}
    soft = crf.dense_crf(scores, **options).flatten()
    expected = torch.tensor([1e-5, 0.6, 0.9])
    torch.testing.assert_close(soft, expected / expected.sum())  # cut, not renormalised before
    two = crf.dense_crf(scores[:, :2], unary="hard", **options).flatten()
    torch.testing.assert_close(two, torch.tensor([0.3, 0.7]))


# -- what must hold -------------------------------------------------------------------------


def test_a_gpu_takes_a_batch_in_one_lattice(scene, as_on_a_gpu, monkeypatch):
    several = scene[0][[0, 1, 0, 0]], scene[1][[0, 1, 1, 0]].clone()
    several[1][0] = 0.5  # flat: its corners have many points
    together = crf.dense_crf(*several)
    for most in (1, 1200):
        monkeypatch.setattr(crf.dense, "_MOST_POINTS", most)
        torch.testing.assert_close(crf.dense_crf(*several), together, atol=1e-6, rtol=0)
    monkeypatch.undo()
    torch.testing.assert_close(together, crf.dense_crf(*several), atol=1e-4, rtol=0)


def test_a_batch_is_its_images_and_no_class_is_favoured(scene):
    scores, images = scene
    before = scores.clone(), images.clone()
    probs = crf.dense_crf(scores.requires_grad_(), images)
    assert probs.shape == scores.shape and probs.min() >= 0 and not probs.requires_grad
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 20, 30))
    scores = scores.detach()
    assert torch.equal(scores, before[0]) and torch.equal(images, before[1])
    swapped = crf.dense_crf(scores[:, [2, 0, 1]], images)
    torch.testing.assert_close(swapped, probs[:, [2, 0, 1]], atol=1e-5, rtol=0)
    channels_last = (each.to(memory_format=torch.channels_last) for each in (scores, images))
    assert torch.equal(crf.dense_crf(*channels_last), probs)
    halved = crf.dense_crf(scores.half(), images.double())
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, crf.dense_crf(scores.half().float(), images))
    mixed = torch.cat([scores, scores.flip(1), scores.flip(2)])[[0, 2, 4, 1, 3, 0]]
    images = images[[0, 0, 0, 1, 1, 0]]  # scores of one image go together
    together = crf.dense_crf(mixed, images)
    for b in range(6):
        alone = crf.dense_crf(mixed[b][None], images[b][None])[0]
        torch.testing.assert_close(together[b], alone, atol=1e-6, rtol=0)


def test_a_single_class_thin_images_and_none(scene, rng):
    for unary in ("soft", "hard"):
        probs = crf.dense_crf(scene[0][:, :1], scene[1], unary=unary)
        assert torch.equal(probs, torch.ones(2, 1, 20, 30))
    for size in ((1, 7), (7, 1), (2, 2)):
        scores = torch.rand(1, 2, *size, generator=rng)
        probs = crf.dense_crf(scores, torch.rand(1, 3, *size, generator=rng))
        torch.testing.assert_close(probs.sum(1), torch.ones(1, *size))
    assert crf.dense_crf(torch.zeros(0, 2, 4, 5), torch.zeros(0, 3, 4, 5)).shape == (0, 2, 4, 5)


def test_lattices_are_built_once_a_size_and_once_an_image(scene, monkeypatch):
    built = []

    class Counted(crf.permutohedral.Lattice):
        def __init__(self, features, images=1):
            built.append(features.shape)
            super().__init__(features, images)

    monkeypatch.setattr(crf.permutohedral, "Lattice", Counted)
    scores, images = scene
    crf.dense_crf(scores, images)
    assert [d for d, _ in built] == [2, 5, 5]
    crf.dense_crf(scores.flip(1), images)  # other scores of the same images
    assert len(built) == 3
    crf.dense_crf(scores, images.flip(1))
    assert [d for d, _ in built] == [2, 5, 5, 5, 5]
    crf.dense_crf(scores[..., :9], images[..., :9], bilateral_weight=0)  # another size
    assert [d for d, _ in built[5:]] == [2]


def test_codes_too_large_to_hold_an_index_are_sorted_as_well(rng):
    codes = torch.randint(2**61, (50,), generator=rng)
    ordered, places = crf.permutohedral._sort(codes)
    assert torch.equal(ordered, codes.sort().values)
    assert torch.equal(codes[places], ordered)


def test_a_lattice_beyond_64_bits_is_refused():
    features = torch.tensor([[0.0, 1e7]] * 5)
    with pytest.raises(ValueError, match=r"can number; use larger standard deviations"):
        crf.permutohedral.Lattice(features)


# -- bad input ------------------------------------------------------------------------------


MISFITS = [
    ((2, 4, 5), (1, 3, 4, 5), r"scores has shape \(2, 4, 5\), expected \(B, K, H, W\)"),
    ((1, 0, 4, 5), (1, 3, 4, 5), r"with a class and a pixel"),
    ((1, 2, 0, 5), (1, 3, 0, 5), r"with a class and a pixel"),
    ((1, 2, 4, 5), (1, 3, 4, 6), r"\(1, 3, 4, 6\), expected \(1, 3, 4, 5\) .*; resize"),
    ((1, 2, 4, 5), (2, 3, 4, 5), r"expected \(1, 3, 4, 5\)"),
]


@pytest.mark.parametrize(("scores", "images", "reason"), MISFITS)
@pytest.mark.parametrize("refine", [crf.dense_crf, crf.pamr])
def test_shapes_that_do_not_fit(refine, scores, images, reason):
    with pytest.raises(ValueError, match=reason):
        refine(torch.zeros(scores), torch.zeros(images))


# -- the released code's images -----------------------------------------------------------


def test_reference_images_wrap_as_numpy_does(rng):
    image = torch.randint(256, (5, 6, 3), generator=rng).numpy().astype(np.uint8)
    bgr = image[..., ::-1].astype(np.float32) - np.float32(crf.dense.BGR_MEAN)
    expected = bgr.astype(np.int64).astype(np.uint8)
    image = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    result = (crf.reference_crf_images(image)[0] * 255).round().byte()
    np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), expected)
