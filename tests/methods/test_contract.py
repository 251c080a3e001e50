"""What every method promises. Another method is one more line of ``METHODS``."""

import copy
import functools
import inspect
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.clip import load_clip
from wsss_kit.engine import Diverged
from wsss_kit.files import load_model, save_model
from wsss_kit.methods.base import CAMMethod, MethodOutput
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.prompts import Prompts


@functools.cache
def paper_clip():
    return load_clip("paper", device="cpu")


class Case(NamedTuple):
    """One method.

    Args:
        make: makes it, with keyword arguments put over its own.
        fit: what `fit` needs to take a second or two.
        load: what `load` has to be given, for no file holds it.
        others: for every other argument of the constructor another value, which is saved.
    """

    make: Callable
    fit: dict
    load: dict
    others: dict


CPU = {"device": "cpu"}
BASE = {"backbone": "paper", "weights": "web", "preset": "clean", "scales": (1.0,), **CPU}
OTHERS = {
    **{"backbone": "resnet18", "weights": None, "stride": 8, "scales": (0.5, 1.5)},
    **{"flip": False, "preset": "reference"},
}
FIT = {"batch_size": 4, "progress": False}
LONG = {**FIT, "baseline": {"epochs": 30, "batch_size": 4}}
WORDS, CLIMS_WORDS = Prompts.paper(), Prompts.paper(method="clims")
METHODS = {
    "cam": Case(functools.partial(CAM, **BASE), {"epochs": 8, **FIT}, CPU, OTHERS),
    "clims": Case(
        lambda **options: CLIMS(paper_clip(), **{**BASE, "prompts": CLIMS_WORDS, **options}),
        {"epochs": 2, **LONG},
        {"clip": paper_clip, **CPU},
        {
            **{**OTHERS, "prompts": CLIMS_WORDS.replace(template="a clean cutout of a {}")},
            **{"otm": 3.0, "btm": 2.0, "cbs": 0.0, "reg": 1.0, "cbs_threshold": 0.2},
            "preset": "paper",
        },
    ),
    "sc_cam": Case(
        functools.partial(SCCAM, **BASE, n_subcategories=2, rounds=1),
        {"epochs": 10, **LONG},
        CPU,
        {
            **{**OTHERS, "n_subcategories": 3, "rounds": 2, "subcategory_weight": 1.0},
            **{"features": "picture", "read_out": "parent", "restart_each_round": False},
        },
    ),
    "clip_es": Case(
        lambda **options: CLIPES(paper_clip(), **{"prompts": WORDS, **options}),
        {},
        {"clip": paper_clip, "affinity_backbone": paper_clip},  # the same changes nothing
        {
            "prompts": WORDS.replace(template="a photo of a {}", backgrounds=["fog"]),
            **{"n_layers": 3, "squarings": 2, "preset": "clean", "target": "logit"},
            **{"flip": True, "scales": (1.0, 0.5), "similarity": "values", "distribution": True},
        },
    ),
}


@pytest.fixture(scope="module", params=METHODS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def method(name, world):
    return METHODS[name].make().fit(world, **METHODS[name].fit)


@pytest.fixture(scope="module")
def batch(world):
    """Three images, not square: with its own label, with one more, and with none."""
    images = [world[i].image[:, :, 4:28] for i in range(3)]
    labels = torch.stack([world[0].labels, world[1].labels, torch.zeros(len(PAPER_CLASSES))])
    labels[1, int((labels[1] == 0).nonzero()[0])] = 1
    return SimpleNamespace(images=torch.stack(images), labels=labels)


def test_maps_have_their_shape_type_and_range(method, batch):
    cams, affinity = output = method(batch.images, batch.labels)
    assert isinstance(output, MethodOutput)
    B, C, h, w = cams.shape
    assert (B, C) == batch.labels.shape
    assert h * 24 == w * 32  # a grid of the image's proportions
    assert cams.dtype == torch.float32 and cams.device == batch.images.device
    assert 0 <= cams.min() and cams.max() <= 1
    assert (cams[batch.labels == 0] == 0).all()
    highest = cams[batch.labels == 1].amax((1, 2))
    assert ((highest > 0.99) | (highest == 0)).all() and (highest > 0.99).any()
    if affinity is not None:
        assert affinity.shape == (3, h * w, h * w) and affinity.dtype == torch.float32
        assert affinity.min() >= 0 and affinity.sum(2).min() > 0


def test_a_batch_equals_its_images_one_by_one(method, batch):
    together = method(batch.images, batch.labels)
    for b in range(3):
        alone = method(batch.images[b : b + 1], batch.labels[b : b + 1])
        torch.testing.assert_close(alone.cams[0], together.cams[b], atol=1e-3, rtol=0)
        if alone.affinity is not None:
            torch.testing.assert_close(alone.affinity[0], together.affinity[b])


def test_looking_changes_nothing(method, batch):
    """Neither weights nor inputs; also with gradients, and with labels of any dtype."""
    images, labels = batch.images.clone().requires_grad_(), batch.labels.clone()
    modules = [v for v in vars(method).values() if isinstance(v, torch.nn.Module)]
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    output = method(images, labels)
    assert not output.cams.requires_grad and images.grad is None
    assert output.affinity is None or not output.affinity.requires_grad
    for dtype in (torch.bool, torch.int64, torch.float64):
        with torch.no_grad():
            assert torch.equal(method(images, labels.to(dtype)).cams, output.cams)
    with torch.inference_mode():
        torch.testing.assert_close(method(images, labels).cams, output.cams)
    found = method(images.double(), labels).cams.float()
    torch.testing.assert_close(found, output.cams, atol=1e-4, rtol=1e-3)
    assert method(images[:0], labels[:0]).cams.shape == (0, *output.cams.shape[1:])
    several = copy.copy(method)
    several.scales = (1.0, 0.5)
    assert several(images[:0], labels[:0]).cams.shape == (0, *output.cams.shape[1:])
    assert torch.equal(images, batch.images) and torch.equal(labels, batch.labels)
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_numbers_of_numpy_and_images_of_float64_are_learned_from(name, world, tmp_path):
    few = [world[i] for i in range(4)]
    wide = [sample._replace(image=sample.image.double()) for sample in few]
    numbers, own = {"epochs": 1, "batch_size": 2, "learning_rate": 0.25, "seed": 2}, {}
    if fit := METHODS[name].fit:
        own = {key: np.float32(v) if v == 0.25 else np.int64(v) for key, v in numbers.items()}
        own = {**fit, **own, "checkpoint": tmp_path / "c"}
    method = METHODS[name].make(scales=(np.float32(1),)).fit(wide, **own)
    same = METHODS[name].make(scales=(1.0,)).fit(few, **({**fit, **numbers} if fit else {}))
    images, labels = (torch.stack([sample[i] for sample in few]) for i in (1, 2))
    assert torch.equal(method(images, labels).cams, same(images, labels).cams)
    method.save(tmp_path / "method")


def test_fit_comes_first_adds_what_ends_in_an_underscore_and_can_be_repeated(
    name, method, world, batch, tmp_path
):
    again = METHODS[name].make()
    assert isinstance(again, CAMMethod)
    with pytest.raises(RuntimeError, match="call fit"):
        again(batch.images, batch.labels)
    if METHODS[name].fit:
        with pytest.raises(RuntimeError, match="nothing to save yet; call fit"):
            again.save(tmp_path / "method")
        assert not list(tmp_path.iterdir())
    before, random = dict(vars(again)), torch.get_rng_state()
    assert again.fit(world, **METHODS[name].fit) is again
    assert torch.equal(torch.get_rng_state(), random)
    learned = {*vars(again), *again._parameters, *again._modules} - {*before}
    assert learned and all(attribute.endswith("_") for attribute in learned)
    kept = {key: value for key, value in before.items() if key != "training"}
    assert all(vars(again)[key] is value for key, value in kept.items())
    cams = again(batch.images, batch.labels).cams
    assert torch.equal(cams, method(batch.images, batch.labels).cams)


def options_of(case):
    return {k: v() if callable(v) else v for k, v in case.load.items()}


@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)
def test_every_argument_is_saved(case, world, batch, tmp_path):
    """Fitted with other values, saved and loaded with nothing said: the same values and maps."""
    fit = {**case.fit, "epochs": 1, "learning_rate": 1e-5} if case.fit else {}
    fit |= {"baseline": {"epochs": 20}} if "baseline" in fit else {}
    method = case.make(**case.others).fit(world[:4], **fit)
    path, expected = method.save(tmp_path / "deep" / "method"), method(batch.images, batch.labels)
    assert {p.suffix for p in path.parent.iterdir()} <= {".safetensors", ".json"}  # no pickle
    for given in (path, str(path.with_suffix(""))):
        loaded = type(method).load(given, **options_of(case))
        for key in case.others:
            assert getattr(loaded, key) == getattr(method, key), key
        result = loaded(batch.images, batch.labels)
        assert torch.equal(result.cams, expected.cams) and expected.cams.any()
        torch.testing.assert_close(result.affinity, expected.affinity, atol=0, rtol=0)
    with pytest.raises(FileNotFoundError, match="nope"):
        type(method).load(tmp_path / "nope")


@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)
def test_no_argument_is_forgotten_here(case):
    """A new argument of a constructor has to join the test above."""
    names = set()
    for each in type(case.make()).__mro__:
        parameters = inspect.signature(each.__init__).parameters
        names |= {*parameters} - {"network"}  # further arguments of the class that it is built on
        if "network" not in parameters:
            break
    assert names == {"self", *case.others, *case.load}


WRONG_TYPES = (("classes", None), ("classes", 3), ("classes", [1]), ("losses", 5), ("backbone", 3))


def test_a_card_that_lacks_something_is_refused(method, name, tmp_path):
    path, options = method.save(tmp_path / "method"), options_of(METHODS[name])
    if path.suffix == ".json":
        tensors, card = None, json.loads(path.read_text())
    else:
        tensors, card = load_model(path)
    changes = [({**card, "method": "CAN"}, f"card of CAN, expected one of {card['method']}")]
    changes += [({**card, "version": 99}, "version 99, expected")]
    for key in {*card} - {"method", "version", "sha256", "bytes"}:
        changes.append(({k: v for k, v in card.items() if k != key}, f"lacks {key}"))
    for key, value in WRONG_TYPES if "classes" in card else ():
        changes.append(({**card, key: value}, f"the card of .* has {key} .*expected"))
    for changed, message in changes:
        if tensors is None:
            path.write_text(json.dumps(changed))
        else:
            save_model(path, tensors, changed)
        with pytest.raises(ValueError, match=message):
            type(method).load(path, **options)


# -- what is refused ------------------------------------------------------------------------

BAD_IMAGES = (
    (lambda x: 255 * x, r"ranges from .* to 2\d\d.*, expected \[0, 1\]"),
    (lambda x: (255 * x).byte(), "hold uint8, expected floating-point"),
    (lambda x: x.where(x != x.flatten()[0], torch.nan), "holds NaN"),
    (lambda x: (x - 0.45) / 0.27, "ranges from -"),
    (lambda x: x[..., :0], r"shape \(.*, 0\), expected"),
    (lambda x: x[..., :1, :, :], r"shape \(.*1, \d+, \d+\), expected"),
    (lambda x: x.movedim(-3, -1), r"shape \(.*, 3\), expected"),
)
BAD_LABELS = (
    (lambda y: y.where(y == 0, -1), "holds -1, expected only 0 and 1"),
    (lambda y: 0.3 * y, "holds 0.3, expected only 0 and 1"),
    (lambda y: y.where(y == 0, torch.nan), "holds nan, expected only 0 and 1"),
    (lambda y: torch.cat([y, y[..., :1]], -1), r"\(.*9,?\)|9 labels"),
    (lambda y: y[..., 1:], r"\(.*7,?\)|7 labels"),
)


BAD_BATCHES = (
    *(("images", *case) for case in BAD_IMAGES),
    *(("labels", *case) for case in BAD_LABELS),
    ("images", lambda x: x[0], r"images have shape .*image\[None\]"),
    ("labels", lambda y: y[:1], r"expected \(3, 8\): one row an image"),
)


def test_bad_batches_are_refused(method, batch):
    for field, spoil, message in BAD_BATCHES:
        given = {**vars(batch), field: spoil(getattr(batch, field))}
        with pytest.raises(ValueError, match=message):
            method(**given)


class Named(list):
    """Samples in a list with the class names of the world."""

    classes = PAPER_CLASSES


every_fit = pytest.mark.parametrize("name", [name for name, case in METHODS.items() if case.fit])


@every_fit
def test_bad_samples_are_refused_by_fit(name, world):
    """Any one of them, not only the first; and the message names it."""
    method = METHODS[name].make()
    cases = [("image", spoil, message) for spoil, message in BAD_IMAGES]
    cases += [("labels", spoil, message) for spoil, message in BAD_LABELS]
    for field, spoil, message in cases:
        samples = Named(world[:8])
        samples[3] = samples[3]._replace(**{field: spoil(getattr(samples[3], field))})
        with pytest.raises(ValueError, match=f"'{samples[3].name}' .*({message})"):
            method.fit(samples, **METHODS[name].fit)


@every_fit
def test_a_training_that_diverges_stops(name, world):
    message = r"diverged in (.*, )?epoch \d+: (its loss is .* a sound one is \d|the maps)"
    with pytest.raises(Diverged, match=message):
        METHODS[name].make().fit(world, **{**METHODS[name].fit, "learning_rate": 1e9})
