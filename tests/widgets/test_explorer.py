"""CAMExplorer: every control moves the image, and the image is what was asked for."""

import threading
from html import escape
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import traitlets

from tests.widgets.conftest import decoded, file_of, same, shows_map, upload
from wsss_kit.evaluation import BackgroundRule, error_map
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import alt_text
from wsss_kit.plot.canvas import image_array
from wsss_kit.plot.regions import fitted_image, paint_errors, paint_mask_named
from wsss_kit.recipes import cam_maps, clip_es_maps
from wsss_kit.widgets import CAMExplorer
from wsss_kit.widgets import explorer as module

SIDE = (392, 392)


@pytest.fixture
def explorer(world, cam, clip_es):
    return CAMExplorer({"CAM": cam, "CLIP-ES": clip_es}, world, world.masks, world.classes)


def test_every_stage_shows_what_the_recipes_make(explorer, world, cam, clip_es):
    sample = next(s for s in world if s.labels.sum() == 2)
    explorer.picture = sample.name
    images, labels = sample.image[None], sample.labels[None]
    large, truth = fitted_image(image_array(sample.image), SIDE), world.masks[sample.name]
    name = explorer.class_name
    c = world.classes.index(name)
    for method, model, maps in (
        ("CAM", cam, cam_maps(images, labels, method=cam)),
        ("CLIP-ES", clip_es, clip_es_maps(images, labels, method=clip_es)),
    ):
        explorer.method, explorer.stage = method, "map"
        plain = cam_maps(images, labels, method=model)[0, c]
        assert shows_map(explorer.view.after, large, plain, alpha=0.6)
        above = f"{100 * (plain > 0.3).float().mean():.0f} % of the pixels exceed 0.3."
        assert explorer.words == f"{method}, map of {name}: {above}"
        explorer.stage = "refined"
        assert shows_map(explorer.view.after, large, maps[0, c], alpha=0.6)
        for rule in (BackgroundRule(threshold=0.3), BackgroundRule(power=2)):
            explorer.rule = "power" if rule.power else "constant"
            explorer.stage = "scores"
            scores = rule.scores(maps)[0]
            assert shows_map(explorer.view.after, large, scores[1 + c], alpha=0.6)
            assert shows_map(explorer.view.before, large, scores[0], alpha=0.6)  # the background
            assert "linear-gradient" in explorer._said.value
            mask = rule.masks(maps, labels)[0]
            explorer.stage = "mask"
            assert same(explorer.view.after, paint_mask_named(large, mask, world.classes))
            ours, theirs = mask == c + 1, truth == c + 1
            iou = 100 * (ours & theirs).sum() / (ours | theirs).sum()
            words = f"{method}, mask by {rule}, no CRF: IoU of {name} in this image {iou:.0f} %."
            assert explorer.words == words
            explorer.stage = "error"
            errors = error_map(mask, truth)
            assert same(explorer.view.after, paint_errors(large, errors, 0.6))
            assert f": {100 * (errors > 0).float().mean():.1f} % of the pixels" in explorer.words
        explorer.rule = "constant"
    assert "CLIP-ES" in explorer.view.after_name and not explorer.problem
    explorer.stage, explorer.crf = "mask", True
    scores = BackgroundRule(threshold=0.3).scores(maps)
    mask = Pipeline(clip_es, crf=True).refine(scores, images, labels)[0].argmax(0)
    assert same(explorer.view.after, paint_mask_named(large, mask, world.classes))
    assert "dense CRF" in explorer.words


def test_left_of_the_handle_is_what_is_compared(explorer, world):
    large = fitted_image(image_array(explorer.sample.image), SIDE)
    assert same(explorer.view.before, large)
    explorer.compare = "ground truth"
    truth = world.masks[explorer.picture]
    assert same(explorer.view.before, paint_mask_named(large, truth, world.classes))
    explorer.compare = "CLIP-ES"
    theirs = explorer.view.before
    assert explorer.view.before_name == f"CLIP-ES: map of {explorer.class_name}"
    explorer.method = "CLIP-ES"  # a method is not compared with itself
    assert explorer.compare == "picture" and explorer.view.after == theirs


def test_controls_and_traits_move_each_other(explorer, world):
    controls = explorer._controls
    for trait, value in {
        **{"picture": world.names[1], "method": "CLIP-ES", "stage": "mask", "rule": "power"},
        **{"power": 4.0, "threshold": 0.5, "crf": True, "opacity": 0.3},
        "compare": "ground truth",
    }.items():
        before = explorer.view.after, explorer.view.before, explorer.words
        controls[trait].value = value
        assert getattr(explorer, trait) == value
        if trait != "threshold":  # the power rule is on
            assert (explorer.view.after, explorer.view.before, explorer.words) != before, trait
    with pytest.raises(traitlets.TraitError, match="threshold is nan, expected 0 to 1"):
        explorer.threshold = float("nan")
    explorer.threshold = 0.254
    # the page would round, and its answer arrive after later values of a loop
    assert (controls["threshold"].value, explorer.threshold) == (0.25, 0.254)
    assert controls["threshold"].layout.display == "none"
    assert controls["power"].layout.display == ""
    explorer.opacity = -7.0
    assert explorer.opacity == 0.0
    grey = decoded(explorer.view.after)[30:50, 30:50]
    assert np.abs(grey - grey.mean(-1, keepdims=True)).max() < 0.01


def test_only_what_is_to_be_had_can_be_chosen(explorer, world):
    for sample in world:
        explorer.picture = sample.name
        present = [world.classes[c] for c in sample.labels.nonzero().flatten().tolist()]
        assert list(explorer._controls["class_name"].options) == present
        assert explorer.class_name in present
    for trait in ("picture", "method", "stage", "rule", "compare", "class_name"):
        with pytest.raises(traitlets.TraitError, match=f"{trait} is 'nothing', expected one of"):
            setattr(explorer, trait, "nothing")
    assert not explorer.problem


def test_a_dropped_image_is_shown_with_the_chosen_class(explorer, world, clip_es):
    upload(explorer._upload, "mine.jpg", file_of(300, 600, "JPEG"))
    assert explorer.picture == "own: mine.jpg" and not explorer.problem
    assert tuple(explorer.sample.image.shape) == (3, 48, 96)  # as large as the others
    assert tuple(explorer._controls["class_name"].options) == world.classes
    explorer.method, explorer.class_name = "CLIP-ES", "cat"
    sample, c = explorer.sample, world.classes.index("cat")
    assert sample.labels.nonzero().item() == c
    expected = cam_maps(sample.image[None], sample.labels[None], method=clip_es)[0, c]
    large = fitted_image(image_array(sample.image), (260, 520))
    assert shows_map(explorer.view.after, large, expected, alpha=0.6)
    explorer.stage = "error"
    assert "its true mask is unknown. These networks know only drawings" in explorer.words
    assert "ground truth" not in explorer._controls["compare"].options
    upload(explorer._upload, "mine.jpg", file_of(200, 200))  # another one of the same name
    assert tuple(explorer.sample.image.shape) == (3, 96, 96)
    assert decoded(explorer.view.after).shape == (392, 392, 3)
    for i in range(9):
        upload(explorer._upload, f"{i}.png", file_of(8, 8))
    assert explorer.picture == "own: 8.png"
    mine = [name for name in explorer._controls["picture"].options if name.startswith("own: ")]
    assert mine == [f"own: {i}.png" for i in range(4, 9)]  # few are kept


def test_what_goes_wrong_is_said_on_the_panel(explorer, world, cam):
    before = explorer.picture, explorer.view.after
    upload(explorer._upload, "notes.txt", b"no image")
    assert explorer.problem.startswith("notes.txt does not decode as an image: 8 bytes that")
    assert escape(explorer.problem) in explorer._warned.value
    assert (explorer.picture, explorer.view.after) == before
    explorer.stage = "mask"
    assert not explorer.problem and not explorer._warned.value
    with pytest.raises(ValueError, match="damaged or cut short"):
        explorer.open_image("half.png", file_of(90, 90)[:100])

    class Broken(type(cam)):
        def full_maps(self, images, labels):
            raise KeyError("no such layer")

    methods = {"CAM": cam, "broken": Broken("paper", weights="web")}
    explorer = CAMExplorer(methods, world, None, world.classes)
    explorer.method = "broken"
    assert explorer.problem == "KeyError: 'no such layer'"
    explorer.method = "CAM"
    assert not explorer.problem


def test_results_are_kept_and_not_forever(explorer, world, monkeypatch):
    method = explorer._methods["CAM"]
    counted = Mock(wraps=method.full_maps)
    monkeypatch.setattr(method, "full_maps", counted)
    for name in (world.names[1], world.names[0], world.names[1]):
        explorer.picture = name
    assert counted.call_count == 1  # the first image was there already
    monkeypatch.setattr(module, "MOST_KEPT", 1)
    for name in world.names:
        explorer.picture = name
    assert len(explorer._kept) == 1


def test_a_change_from_another_thread_is_shown_after_this_one(explorer, world):
    # newer kernels answer controls in a thread of their own while a cell runs
    showing, go_on, show = threading.Event(), threading.Event(), explorer._show

    def slowly():
        show()
        if not showing.is_set():
            showing.set()
            assert go_on.wait(20)

    explorer._show = slowly
    cell = threading.Thread(target=setattr, args=(explorer, "stage", "mask"))
    control = threading.Thread(target=setattr, args=(explorer, "picture", world.names[1]))
    cell.start()
    assert showing.wait(20)
    control.start()
    control.join(0.1)  # waits for the cell
    go_on.set()
    for thread in (cell, control):
        thread.join(20)
    assert explorer.view.before_name == f"image {world.names[1]}"
    assert explorer._controls["picture"].value == world.names[1]
    assert "mask" in explorer.view.after_name and not explorer.problem


def test_its_still_shows_all_stages(explorer):
    explorer.method = "CLIP-ES"
    steps = "image, map, refined, scores, mask, ground truth, error"
    still = explorer.still()
    assert alt_text(still) == f"CLIP-ES, {explorer.class_name} in the steps {steps}."
    assert [ax.get_title() for ax in still.axes] == steps.split(", ")
    explorer.method = "CAM"
    assert "refined" not in alt_text(explorer.still())
    bundle, metadata = explorer._repr_mimebundle_()
    live = "application/vnd.jupyter.widget-view+json"
    assert set(bundle) == {live, "image/jpeg", "text/plain"}
    assert metadata["image/jpeg"]["alt"] == alt_text(explorer.still())


def test_nothing_to_explore(world, cam):
    bare = [s._replace(labels=torch.zeros(8)) for s in world]
    for samples, methods in ((bare, {"CAM": cam}), (world, {})):
        with pytest.raises(ValueError, match=r"there are \d methods and \d images with a class"):
            CAMExplorer(methods, samples, world.masks, world.classes)
    with pytest.raises(ValueError, match="has 8 labels but there are 1 classes"):
        CAMExplorer({"CAM": cam}, world, world.masks, ["cow"])
