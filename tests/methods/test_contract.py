"""What every method promises. Another method is one more line of ``METHODS``."""

from __future__ import annotations

import functools
import inspect
import json
from types import SimpleNamespace
from typing import NamedTuple

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
from wsss_kit.paperworld import PaperWorld
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

    make: functools.partial
    fit: dict
    load: dict
    others: dict


CLIMS_OPTIONS = {
    **{"backbone": "paper", "weights": "web", "preset": "clean", "scales": (1.0,)},
    **{"device": "cpu", "prompts": Prompts.paper(method="clims")},
}
SC_CAM_OPTIONS = {
    **{"backbone": "paper", "weights": "web", "preset": "clean", "scales": (1.0,)},
    **{"device": "cpu", "n_subcategories": 2, "rounds": 1},
}
METHODS = {
    "cam": Case(
        functools.partial(
            CAM, backbone="paper", preset="clean", scales=(1.0,), device="cpu", weights="web"
        ),
        {"epochs": 8, "batch_size": 4, "progress": False},
        {"device": "cpu"},
        {
            "backbone": "resnet18",
            "weights": None,
            "stride": 4,
            "scales": (0.5, 1.5),
            "flip": False,
            "preset": "reference",
        },
    ),
    "clims": Case(
        functools.partial(lambda **options: CLIMS(paper_clip(), **{**CLIMS_OPTIONS, **options})),
        {
            **{"epochs": 2, "batch_size": 4, "progress": False},
            "baseline": {"epochs": 8, "batch_size": 4},
        },
        {"clip": paper_clip, "device": "cpu"},
        {
            "backbone": "resnet18",
            "prompts": Prompts.paper(method="clims").replace(template="a clean cutout of a {}"),
            "weights": None,
            "stride": 4,
            **{"otm": 3.0, "btm": 2.0, "cbs": 0.0, "reg": 1.0, "cbs_threshold": 0.2},
            "scales": (0.5, 1.5),
            "flip": False,
            "preset": "paper",
        },
    ),
    "sc_cam": Case(
        functools.partial(lambda **options: SCCAM(**{**SC_CAM_OPTIONS, **options})),
        {
            **{"epochs": 3, "batch_size": 4, "progress": False},
            "baseline": {"epochs": 8, "batch_size": 4},
        },
        {"device": "cpu"},
        {
            "backbone": "resnet18",
            "weights": None,
            "stride": 4,
            **{"n_subcategories": 3, "rounds": 2, "subcategory_weight": 1.0},
            **{"features": "picture", "read_out": "parent", "restart_each_round": False},
            "scales": (0.5, 1.5),
            "flip": False,
            "preset": "reference",
        },
    ),
    "clip_es": Case(
        functools.partial(
            lambda **options: CLIPES(paper_clip(), **{"prompts": Prompts.paper(), **options})
        ),
        {},
        {"clip": paper_clip},
        {
            "prompts": Prompts.paper().replace(template="a photo of a {}", backgrounds=["fog"]),
            "n_layers": 3,
            "squarings": 2,
            "preset": "clean",
            "target": "logit",
            "flip": True,
            "scales": (1.0, 0.5),
            "similarity": "values",
            "distribution": True,
        },
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
    assert torch.equal(images, batch.images) and torch.equal(labels, batch.labels)
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_equal_seeds_give_equal_maps(name, method, world, batch):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = fitted(name, world)(batch.images, batch.labels).cams
    assert torch.equal(again, method(batch.images, batch.labels).cams)
    assert torch.equal(torch.rand(3), expected)  # the global random state is left as it was


def test_fit_adds_what_ends_in_an_underscore_and_comes_first(name, world, batch, tmp_path):
    method = METHODS[name].make()
    assert isinstance(method, CAMMethod)
    with pytest.raises(RuntimeError, match="call fit"):
        method(batch.images, batch.labels)
    if METHODS[name].fit:
        with pytest.raises(RuntimeError, match="nothing to save yet; call fit"):
            method.save(tmp_path / "method")
        assert not list(tmp_path.iterdir())
    before = dict(vars(method))
    assert method.fit(world, **METHODS[name].fit) is method
    learned = {*vars(method), *method._parameters, *method._modules} - {*before}
    assert learned and all(attribute.endswith("_") for attribute in learned)
    kept = {key: value for key, value in before.items() if key != "training"}
    assert all(vars(method)[key] is value for key, value in kept.items())


def test_saved_and_loaded_it_gives_the_same_maps(name, method, batch, tmp_path):
    path = method.save(tmp_path / "deep" / "method")
    assert path.exists()
    assert {p.suffix for p in path.parent.iterdir()} <= {".safetensors", ".json"}  # no pickle
    options = options_of(METHODS[name])
    for given in (path, str(path.with_suffix(""))):
        loaded = type(method).load(given, **options)
        expected = method(batch.images, batch.labels)
        assert torch.equal(loaded(batch.images, batch.labels).cams, expected.cams)
    with pytest.raises(FileNotFoundError, match="nope"):
        type(method).load(tmp_path / "nope")


def options_of(case):
    return {k: v() if callable(v) else v for k, v in case.load.items()}


@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)
def test_every_argument_is_saved(case, world, batch, tmp_path):
    """Fitted with other values, saved and loaded with nothing said: the same values and maps."""
    fit = {**case.fit, "epochs": 1} if case.fit else {}
    fit |= {"baseline": {"epochs": 1}} if "baseline" in fit else {}
    method = case.make(**case.others).fit(world[:4], **fit)
    loaded = type(method).load(method.save(tmp_path / "method"), **options_of(case))
    for key in case.others:
        assert getattr(loaded, key) == getattr(method, key), key
    result, expected = (m(batch.images, batch.labels) for m in (loaded, method))
    assert torch.equal(result.cams, expected.cams)
    assert (result.affinity is None) == (expected.affinity is None)
    if result.affinity is not None:
        assert torch.equal(result.affinity, expected.affinity)


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


def with_card(path, change):
    """Write the card of a saved method again, changed."""
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        tensors, card = load_model(path)
        save_model(path, tensors, change(card))


def test_a_card_of_another_kind_is_refused(method, name, tmp_path):
    """Of another method, of another version, or with any one part missing."""
    path, options = method.save(tmp_path / "method"), options_of(METHODS[name])
    whole, card = path.read_bytes(), {}
    with_card(path, lambda each: card.update(each) or each)
    changes = [(lambda c: {**c, "method": "CAN"}, f"card of CAN, expected one of {card['method']}")]
    for version in (1, 99, "2", None):
        message = f"version {version or 'none'}, expected"
        changes.append((lambda c, v=version: {**c, "version": v or "none"}, message))
    for key in {*card} - {"method", "version", "sha256", "bytes"}:
        without = functools.partial(
            lambda c, key: {k: v for k, v in c.items() if k != key}, key=key
        )
        changes.append((without, f"lacks {key}"))
    for change, message in changes:
        path.write_bytes(whole)
        with_card(path, change)
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


def test_bad_batches_are_refused(method, batch):
    for spoil, message in BAD_IMAGES:
        with pytest.raises(ValueError, match=message):
            method(spoil(batch.images), batch.labels)
    for spoil, message in BAD_LABELS:
        with pytest.raises(ValueError, match=message):
            method(batch.images, spoil(batch.labels))
    with pytest.raises(ValueError, match=r"images have shape .*image\[None\]"):
        method(batch.images[0], batch.labels[:1])
    with pytest.raises(ValueError, match=r"expected \(3, 8\): one row an image"):
        method(batch.images, batch.labels[:1])


class Named(list):
    """Samples in a list with the class names of the world."""

    classes = PAPER_CLASSES


TRAINED = [name for name, case in METHODS.items() if case.fit]
FITS = {
    **{f"{name}, whole": (name, {}) for name in TRAINED},
    "cam, head": ("cam", {"train_backbone": False}),
}
every_fit = pytest.mark.parametrize(("name", "options"), FITS.values(), ids=FITS)


@every_fit
def test_bad_samples_are_refused_by_fit(name, world, options):
    """Any one of them, not only the first; and the message names it."""
    method = METHODS[name].make()
    cases = [("image", spoil, message) for spoil, message in BAD_IMAGES]
    cases += [("labels", spoil, message) for spoil, message in BAD_LABELS]
    for field, spoil, message in cases:
        samples = Named(world)
        samples[3] = samples[3]._replace(**{field: spoil(getattr(samples[3], field))})
        with pytest.raises(ValueError, match=f"'{samples[3].name}' .*({message})"):
            method.fit(samples, **METHODS[name].fit, **options)


@every_fit
def test_a_training_that_diverges_stops(name, world, options):
    values = {**METHODS[name].fit, **options, "learning_rate": 1e9}
    with pytest.raises(
        Diverged,
        match=r"diverged in (.*, )?epoch \d+: (its loss is .* a sound one is \d|the maps)",
    ):
        METHODS[name].make().fit(world, **values)
