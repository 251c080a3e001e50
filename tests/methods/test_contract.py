"""What every method promises. Another method is one more line of ``METHODS``."""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.clip import load_clip
from wsss_kit.methods.base import CAMMethod, MethodOutput, check_batch, preset_values
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts


@functools.cache
def paper_clip():
    return load_clip("paper", device="cpu")


class Case(NamedTuple):
    """How to make a method, fit it in a second or two, and give `load` what no file holds."""

    make: functools.partial
    fit: dict
    load: dict


SMALL = {"scales": (1.0,), "device": "cpu"}
METHODS = {
    "cam": Case(
        functools.partial(CAM, "paper", preset="clean", **SMALL),
        {"epochs": 30, "batch_size": 4, "progress": False},
        SMALL,
    ),
    "clip_es": Case(
        functools.partial(lambda: CLIPES(paper_clip(), prompts=Prompts.paper())),
        {},
        {"clip": paper_clip},
    ),
}


@pytest.fixture(scope="module", params=METHODS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def world():
    return PaperWorld(8, split="train", size=32)


def fitted(name, world):
    return METHODS[name].make().fit(world, **METHODS[name].fit)


@pytest.fixture(scope="module")
def method(name, world):
    return fitted(name, world)


@pytest.fixture(scope="module")
def batch(world):
    """Three pictures, not square: with its own label, with one more, and with none."""
    pictures = [world[i].image[:, :, 4:28] for i in range(3)]
    labels = torch.stack([world[0].labels, world[1].labels, torch.zeros(len(PAPER_CLASSES))])
    labels[1, int((labels[1] == 0).nonzero()[0])] = 1
    return SimpleNamespace(images=torch.stack(pictures), labels=labels)


def test_maps_have_their_shape_type_and_range(method, batch):
    output = method(batch.images, batch.labels)
    assert isinstance(output, MethodOutput)
    B, C, h, w = output.cams.shape
    assert (B, C) == batch.labels.shape
    assert h * 24 == w * 32  # a grid of the picture's proportions
    assert output.cams.dtype == torch.float32
    assert 0 <= output.cams.min() and output.cams.max() <= 1
    assert output.cams.device == batch.images.device


def test_absent_classes_have_maps_of_zeros(method, batch):
    cams = method(batch.images, batch.labels).cams
    assert (cams[batch.labels == 0] == 0).all()
    highest = cams[batch.labels == 1].amax((1, 2))
    assert ((highest > 0.99) | (highest == 0)).all() and (highest > 0.99).any()


def test_the_affinity_is_square_and_of_one_grid(method, batch):
    affinity = method(batch.images, batch.labels).affinity
    if affinity is None:
        return
    B, N, _ = affinity.shape
    assert B == 3 and affinity.shape == (B, N, N)
    assert affinity.dtype == torch.float32 and not affinity.requires_grad
    assert affinity.min() >= 0 and affinity.sum(2).min() > 0
    h, w = method(batch.images, batch.labels).cams.shape[2:]
    assert h * w == N


def test_a_batch_equals_its_pictures_one_by_one(method, batch):
    together = method(batch.images, batch.labels)
    for b in range(3):
        alone = method(batch.images[b : b + 1], batch.labels[b : b + 1])
        torch.testing.assert_close(alone.cams[0], together.cams[b], atol=1e-3, rtol=0)
        if alone.affinity is not None:
            torch.testing.assert_close(alone.affinity[0], together.affinity[b])


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
def test_labels_of_any_number_type(method, batch, kind):
    expected = method(batch.images, batch.labels).cams
    assert torch.equal(method(batch.images, batch.labels.to(kind)).cams, expected)


def test_calling_twice_gives_the_same_maps(method, batch):
    images, labels = batch.images.clone(), batch.labels.clone()
    first, second = (method(images, labels).cams for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, batch.images) and torch.equal(labels, batch.labels)


def test_equal_seeds_give_equal_maps(name, world, batch):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, second = (fitted(name, world)(batch.images, batch.labels).cams for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(3), expected)  # the global random state is left as it was


def test_no_gradients_leave_a_method(method, batch):
    images = batch.images.clone().requires_grad_()
    output = method(images, batch.labels)
    assert not output.cams.requires_grad and images.grad is None
    with torch.no_grad():
        quiet = method(batch.images, batch.labels).cams
    assert torch.equal(quiet, output.cams)


def test_weights_do_not_change_by_looking(method, batch):
    modules = [v for v in vars(method).values() if isinstance(v, torch.nn.Module)]
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    method(batch.images, batch.labels)
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_constructor_arguments_are_stored_as_given(name):
    method = METHODS[name].make()
    given = METHODS[name].make.keywords
    for argument in inspect.signature(type(method).__init__).parameters:
        if argument != "self":
            assert hasattr(method, argument)
            if argument in given:
                assert getattr(method, argument) is given[argument]
    assert method.preset in ("reference", "clean")


def test_what_fit_learns_ends_in_an_underscore(name, world):
    method = METHODS[name].make()
    before = dict(vars(method))
    assert method.fit(world, **METHODS[name].fit) is method
    learned = set(vars(method)) - set(before)
    assert learned and all(attribute.endswith("_") for attribute in learned)
    assert all(vars(method)[key] is value for key, value in before.items())


def test_call_and_save_before_fit(name, batch, tmp_path):
    method = METHODS[name].make()
    assert isinstance(method, CAMMethod)
    with pytest.raises(RuntimeError, match="call fit"):
        method(batch.images, batch.labels)


def test_saved_and_loaded_it_gives_the_same_maps(name, method, batch, tmp_path):
    path = method.save(tmp_path / "deep" / "method")
    assert path.exists()
    assert {p.suffix for p in path.parent.iterdir()} <= {".safetensors", ".json"}  # no pickle
    options = {k: v() if callable(v) else v for k, v in METHODS[name].load.items()}
    for given in (path, str(path.with_suffix(""))):
        loaded = type(method).load(given, **options)
        expected = method(batch.images, batch.labels)
        assert torch.equal(loaded(batch.images, batch.labels).cams, expected.cams)


def test_loading_what_is_not_there(method, tmp_path):
    with pytest.raises(FileNotFoundError, match="nope"):
        type(method).load(tmp_path / "nope")


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        ((3, 96, 96), (1, 8), r"images have shape \(3, 96, 96\).*image\[None\]"),
        ((1, 1, 96, 96), (1, 8), r"images have shape \(1, 1, 96, 96\)"),
        ((1, 3, 96, 96), (8,), r"labels have shape \(8,\), expected \(1, 8\)"),
        ((1, 3, 96, 96), (1, 9), r"labels have shape \(1, 9\), expected \(1, 8\)"),
        ((2, 3, 96, 96), (1, 8), r"expected \(2, 8\): one row a picture"),
    ],
)
def test_shapes_that_do_not_fit(method, images, labels, text):
    with pytest.raises(ValueError, match=text):
        method(torch.zeros(images), torch.zeros(labels))


def test_an_unknown_preset(name, world, batch):
    method = METHODS[name].make()
    method.preset = "best"
    with pytest.raises(ValueError, match="preset is 'best', expected one of reference, clean"):
        method.fit(world, **METHODS[name].fit)(batch.images, batch.labels)


# -- the base itself ------------------------------------------------------------------------


def test_explicit_values_win_over_the_preset():
    presets = {"reference": {"k": 10, "flip": True}, "clean": {"k": 4, "flip": True}}
    given = {"k": None, "flip": False}
    assert preset_values(presets, "clean", given) == {"k": 4, "flip": False}
    assert presets["clean"] == {"k": 4, "flip": True}


def test_check_batch_lets_what_fits_pass():
    assert check_batch(torch.zeros(2, 3, 5, 7), torch.zeros(2, 4), 4) is None
