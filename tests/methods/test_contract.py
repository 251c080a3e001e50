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
from wsss_kit.methods.base import CAMMethod, MethodOutput, check_batch, preset_values
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
    **{"backbone": "paper", "weights": None, "preset": "clean", "scales": (1.0,)},
    **{"device": "cpu", "prompts": Prompts.paper(method="clims")},
}
SC_CAM_OPTIONS = {
    **{"backbone": "paper", "weights": None, "preset": "clean", "scales": (1.0,)},
    **{"device": "cpu", "n_subcategories": 2, "rounds": 1},
}
METHODS = {
    "cam": Case(
        functools.partial(
            CAM, backbone="paper", preset="clean", scales=(1.0,), device="cpu", weights=None
        ),
        {"epochs": 30, "batch_size": 4, "progress": False},
        {"device": "cpu"},
        {
            "backbone": "resnet18",
            "weights": "web",
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
            "baseline": {"epochs": 30, "batch_size": 4},
        },
        {"clip": paper_clip, "device": "cpu"},
        {
            "backbone": "resnet18",
            "prompts": Prompts.paper(method="clims").replace(template="a clean cutout of a {}"),
            "weights": "web",
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
            **{"epochs": 10, "batch_size": 4, "progress": False},
            "baseline": {"epochs": 30, "batch_size": 4},
        },
        {"device": "cpu"},
        {
            "backbone": "resnet18",
            "weights": "web",
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
    output = method(batch.images, batch.labels)
    assert isinstance(output, MethodOutput)
    B, C, h, w = output.cams.shape
    assert (B, C) == batch.labels.shape
    assert h * 24 == w * 32  # a grid of the image's proportions
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


def test_a_batch_equals_its_images_one_by_one(method, batch):
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


def test_equal_seeds_give_equal_maps(name, method, world, batch):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = fitted(name, world)(batch.images, batch.labels).cams
    assert torch.equal(again, method(batch.images, batch.labels).cams)
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
    assert method.preset in ("reference", "clean", "paper")


def test_what_fit_learns_ends_in_an_underscore(name, world):
    method = METHODS[name].make()
    before = dict(vars(method))
    assert method.fit(world, **METHODS[name].fit) is method
    learned = {*vars(method), *method._parameters, *method._modules} - {*before}
    assert learned and all(attribute.endswith("_") for attribute in learned)
    kept = {key: value for key, value in before.items() if key != "training"}
    assert all(vars(method)[key] is value for key, value in kept.items())


def test_call_and_save_before_fit(name, batch, tmp_path):
    method = METHODS[name].make()
    assert isinstance(method, CAMMethod)
    with pytest.raises(RuntimeError, match="call fit"):
        method(batch.images, batch.labels)


def test_saved_and_loaded_it_gives_the_same_maps(name, method, batch, tmp_path):
    path = method.save(tmp_path / "deep" / "method")
    assert path.exists()
    assert {p.suffix for p in path.parent.iterdir()} <= {".safetensors", ".json"}  # no pickle
    options = options_of(METHODS[name])
    for given in (path, str(path.with_suffix(""))):
        loaded = type(method).load(given, **options)
        expected = method(batch.images, batch.labels)
        assert torch.equal(loaded(batch.images, batch.labels).cams, expected.cams)


def options_of(case):
    return {k: v() if callable(v) else v for k, v in case.load.items()}


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)
def test_every_argument_is_saved(case, apart, world, batch, tmp_path):
    """Fitted with other values, saved and loaded with nothing said: the same values and maps.

    A backbone of another name takes no weights of the paper backbone, so it is tried by itself.
    """
    given = {k: v for k, v in case.others.items() if (k == "backbone") == apart}
    if not given:
        pytest.skip("this method has no backbone")
    fit = dict(case.fit)  # as short as leaves maps that are not empty
    if apart:
        fit["epochs"] = 8
    if "baseline" in fit:
        fit["baseline"] = {"epochs": 20}
    method = case.make(**given).fit(world, **fit)
    loaded = type(method).load(method.save(tmp_path / "method"), **options_of(case))
    for key in case.others:
        assert getattr(loaded, key) == getattr(method, key), key
    result, expected = (m(batch.images, batch.labels) for m in (loaded, method))
    assert expected.cams.any() and torch.equal(result.cams, expected.cams)
    assert (result.affinity is None) == (expected.affinity is None)
    if result.affinity is not None:
        assert torch.equal(result.affinity, expected.affinity)


@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)
def test_no_argument_is_forgotten_here(case):
    """A new argument of a constructor has to join the test above."""
    known = {"self", *case.others, *case.load}
    assert set(inspect.signature(type(case.make()).__init__).parameters) == known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no card"),
        ("{", "is no card"),
        ("[]", "holds list, expected a JSON object"),
        ("{}", "is a card of no method"),
    ],
)
def test_a_card_that_is_none_is_refused(tmp_path, text, message):
    """CLIP-ES has no weights and is saved as a card alone; for the others see test_files."""
    case = METHODS["clip_es"]
    path = case.make().save(tmp_path / "method")
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        CLIPES.load(path, **options_of(case))


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

BAD_IMAGES = {
    "in 0..255": (lambda x: 255 * x, r"ranges from .* to 2\d\d.*, expected \[0, 1\]"),
    "8-bit": (lambda x: (255 * x).byte(), "hold uint8, expected floating-point"),
    "whole numbers": (lambda x: x.long(), "hold int64, expected floating-point"),
    "with a NaN": (lambda x: x.where(x != x.flatten()[0], torch.nan), "holds NaN"),
    "infinite": (lambda x: x.where(x != x.flatten()[0], torch.inf), "to inf, expected"),
    "normalised": (lambda x: (x - 0.45) / 0.27, "ranges from -"),
    "without pixels": (lambda x: x[..., :0], r"shape \(.*, 0\), expected"),
    "grey": (lambda x: x[..., :1, :, :], r"shape \(.*1, \d+, \d+\), expected"),
    "channels last": (lambda x: x.movedim(-3, -1), r"shape \(.*, 3\), expected"),
}
BAD_LABELS = {
    "minus one": (lambda y: y.where(y == 0, -1), "holds -1, expected only 0 and 1"),
    "two": (lambda y: 2 * y, "holds 2, expected only 0 and 1"),
    "probabilities": (lambda y: 0.3 * y, "holds 0.3, expected only 0 and 1"),
    "NaN": (lambda y: y.where(y == 0, torch.nan), "holds nan, expected only 0 and 1"),
    "one too many": (lambda y: torch.cat([y, y[..., :1]], -1), r"\(.*9,?\)|9 labels"),
    "one too few": (lambda y: y[..., 1:], r"\(.*7,?\)|7 labels"),
}


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_bad_images_are_refused_by_maps(method, batch, bad):
    spoil, message = BAD_IMAGES[bad]
    with pytest.raises(ValueError, match=message):
        method(spoil(batch.images), batch.labels)


@pytest.mark.parametrize("bad", BAD_LABELS)
def test_bad_labels_are_refused_by_maps(method, batch, bad):
    spoil, message = BAD_LABELS[bad]
    with pytest.raises(ValueError, match=message):
        method(batch.images, spoil(batch.labels))


class Named(list):
    """Samples in a list with the class names of the world."""

    classes = PAPER_CLASSES


TRAINED = [name for name, case in METHODS.items() if case.fit]
FITS = {
    **{f"{name}, whole": (name, {}) for name in TRAINED},
    "cam, head": ("cam", {"train_backbone": False}),
}
every_fit = pytest.mark.parametrize(("name", "options"), FITS.values(), ids=FITS)


@pytest.mark.parametrize("bad", BAD_IMAGES)
@every_fit
def test_bad_images_are_refused_by_fit(name, world, bad, options):
    """Any one of them, not only the first; and the message names it."""
    spoil, message = BAD_IMAGES[bad]
    samples = Named(world)
    samples[3] = samples[3]._replace(image=spoil(samples[3].image))
    with pytest.raises(ValueError, match=f"image '{samples[3].name}' .*{message}"):
        METHODS[name].make().fit(samples, **METHODS[name].fit, **options)


@pytest.mark.parametrize("bad", BAD_LABELS)
@every_fit
def test_bad_labels_are_refused_by_fit(name, world, bad, options):
    spoil, message = BAD_LABELS[bad]
    samples = Named(s._replace(labels=spoil(s.labels)) for s in world)
    with pytest.raises(ValueError, match=message):
        METHODS[name].make().fit(samples, **METHODS[name].fit, **options)
    samples = Named(world)
    samples[3] = samples[3]._replace(labels=spoil(samples[3].labels))
    with pytest.raises(ValueError, match=f"'{samples[3].name}' .*({message})"):
        METHODS[name].make().fit(samples, **METHODS[name].fit, **options)


@every_fit
def test_a_training_that_diverges_stops(name, world, options):
    values = {**METHODS[name].fit, **options, "learning_rate": 1e9}
    with pytest.raises(
        Diverged,
        match=r"diverged in (.*, )?epoch \d+: (its loss is .* a sound one is \d|the maps)",
    ):
        METHODS[name].make().fit(world, **values)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("epochs", v) for v in (0, -1, 1.5, "3", True)),
        *(("batch_size", v) for v in (0, -4, 2.5)),
        *(("learning_rate", v) for v in (0, -0.1, float("nan"), float("inf"), "fast")),
        *(("seed", v) for v in (-1, 0.5, "one")),
        *(("crop", v) for v in (0, -8, 1.5)),
        *(("long_side", v) for v in ((0, 4), (8, 4), (1.5, 3))),
    ],
)
@pytest.mark.parametrize("name", TRAINED)
def test_numbers_that_make_no_training(name, world, key, value):
    with pytest.raises(ValueError, match=f"{key} is .*, expected a (whole )?number"):
        METHODS[name].make().fit(world, **{**METHODS[name].fit, key: value})


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
        ((2, 3, 96, 96), (1, 8), r"expected \(2, 8\): one row an image"),
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
