"""CAMExplorer: every control moves the image, and the image is what was asked for."""

from __future__ import annotations

import io
import threading
from datetime import datetime, timezone
from html import escape

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from tests.widgets.conftest import decoded, same, shows_map
from wsss_kit.evaluation import BackgroundRule, error_map
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import alt_text
from wsss_kit.plot.canvas import image_array
from wsss_kit.plot.regions import enlarged, enlarged_mask, paint_errors, paint_mask_named
from wsss_kit.recipes import cam_maps, clip_es_maps
from wsss_kit.widgets import CAMExplorer, stages

SIZE = (392, 392)


@pytest.fixture
def explorer(world, cam, clip_es):
    return CAMExplorer({"CAM": cam, "CLIP-ES": clip_es}, world, world.masks, world.classes)


def file_of(height, width, colour="red", kind="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(content, kind)
    return content.getvalue()


def drop(explorer, name, content):
    """What the browser sends when a file falls on the image."""
    explorer.view._handle_custom_msg({"kind": "picture", "name": name}, [memoryview(content)])


def test_every_stage_shows_what_the_recipes_make(explorer, world, cam, clip_es):
    sample = next(s for s in world if s.labels.sum() == 2)
    explorer.picture = sample.name
    images, labels = sample.image[None], sample.labels[None]
    large = enlarged(image_array(sample.image), SIZE)
    name = explorer.class_name
    c = world.classes.index(name)
    refined = {"CAM": cam_maps(images, labels, method=cam)}
    refined["CLIP-ES"] = clip_es_maps(images, labels, method=clip_es)
    for method, maps in refined.items():
        explorer.method = method
        explorer.stage = "map"
        plain = cam_maps(images, labels, method={"CAM": cam, "CLIP-ES": clip_es}[method])
        assert shows_map(explorer.view.after, large, plain[0, c], alpha=0.6)
        above = 100 * (plain[0, c] > 0.3).float().mean()
        assert explorer.words == (
            f"{method}, map of {name}: {above:.0f} % of the pixels exceed 0.3."
        )
        explorer.stage = "refined"
        assert shows_map(explorer.view.after, large, maps[0, c], alpha=0.6)
        for rule in (BackgroundRule(threshold=0.3), BackgroundRule(power=2)):
            explorer.rule = "power" if rule.power else "constant"
            explorer.stage = "scores"
            scores = rule.scores(maps)[0, 1 + c]
            assert shows_map(explorer.view.after, large, scores, alpha=0.6)
            mask = rule.masks(maps, labels)[0]
            explorer.stage = "mask"
            assert same(explorer.view.after, paint_mask_named(large, mask, world.classes))
            assert f"{method}, mask by {rule}, no CRF: IoU of {name}" in explorer.words
            errors = error_map(mask, world.masks[sample.name])
            explorer.stage = "error"
            assert same(explorer.view.after, paint_errors(large, enlarged_mask(errors, SIZE), 0.6))
            assert f": {100 * (errors > 0).float().mean():.1f} % of the pixels" in explorer.words
        explorer.rule = "constant"
    assert "CLIP-ES" in explorer.view.after_name and not explorer.problem


def test_the_iou_in_the_words_is_that_of_the_mask(explorer, world, clip_es):
    explorer.method, explorer.stage = "CLIP-ES", "mask"
    sample = explorer.sample
    maps = clip_es_maps(sample.image[None], sample.labels[None], method=clip_es)
    mask = BackgroundRule(threshold=0.3).masks(maps, sample.labels[None])[0]
    value = 1 + world.classes.index(explorer.class_name)
    ours, theirs = mask == value, world.masks[sample.name] == value
    iou = 100 * (ours & theirs).sum() / (ours | theirs).sum()
    assert explorer.words.endswith(f"IoU of {explorer.class_name} in this image {iou:.0f} %.")


def test_the_crf_is_that_of_the_recipes(explorer, world, clip_es):
    explorer.method, explorer.stage, explorer.crf = "CLIP-ES", "mask", True
    sample = explorer.sample
    images, labels = sample.image[None], sample.labels[None]
    scores = BackgroundRule(threshold=0.3).scores(clip_es_maps(images, labels, method=clip_es))
    mask = Pipeline(clip_es, crf=True).refine(scores, images, labels)[0].argmax(0)
    large = enlarged(image_array(sample.image), SIZE)
    assert same(explorer.view.after, paint_mask_named(large, mask, world.classes))
    assert "dense CRF" in explorer.words


def test_left_of_the_handle_is_what_is_compared(explorer, world):
    large = enlarged(image_array(explorer.sample.image), SIZE)
    assert same(explorer.view.before, large)
    explorer.compare = "ground truth"
    truth = world.masks[explorer.picture]
    assert same(explorer.view.before, paint_mask_named(large, truth, world.classes))
    explorer.compare = "CLIP-ES"
    theirs = explorer.view.before
    assert explorer.view.before_name == f"CLIP-ES: map of {explorer.class_name}"
    explorer.method = "CLIP-ES"  # a method is not compared with itself
    assert explorer.compare == "picture" and explorer.view.after == theirs


def test_opacity_weighs_the_map(explorer):
    explorer.opacity = 0.0
    grey = decoded(explorer.view.after)
    assert np.abs(grey - grey.mean(-1, keepdims=True)).max() < 0.01
    explorer.opacity = 7.0
    assert explorer.opacity == 1.0


def test_classes_are_those_of_the_image(explorer, world):
    for sample in world:
        explorer.picture = sample.name
        present = [world.classes[c] for c in sample.labels.nonzero().flatten().tolist()]
        assert list(explorer._controls["class_name"].options) == present
        assert explorer.class_name in present
    absent = next(name for name in world.classes if name not in present)
    with pytest.raises(traitlets.TraitError, match=f"class_name is '{absent}', expected one of"):
        explorer.class_name = absent


@pytest.mark.parametrize("trait", ["picture", "method", "stage", "rule", "compare"])
def test_what_is_not_to_be_had_is_refused_in_words(explorer, trait):
    with pytest.raises(traitlets.TraitError, match=f"{trait} is 'nothing', expected one of"):
        setattr(explorer, trait, "nothing")
    assert not explorer.problem


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
    explorer.threshold = 0.25
    assert controls["threshold"].value == 0.25
    assert controls["threshold"].layout.display == "none"
    assert controls["power"].layout.display == ""


def test_a_dropped_image_is_shown_with_the_chosen_class(explorer, world, clip_es):
    drop(explorer, "mine.jpg", file_of(300, 600, kind="JPEG"))
    assert explorer.picture == "own: mine.jpg" and not explorer.problem
    assert tuple(explorer.sample.image.shape) == (3, 48, 96)  # as large as the others
    assert tuple(explorer._controls["class_name"].options) == world.classes
    explorer.method, explorer.class_name = "CLIP-ES", "cat"
    assert explorer.sample.labels.nonzero().item() == world.classes.index("cat")
    expected = cam_maps(explorer.sample.image[None], explorer.sample.labels[None], method=clip_es)[
        0, world.classes.index("cat")
    ]
    assert torch.equal(explorer._map("CLIP-ES", "map"), expected)
    assert decoded(explorer.view.after).shape == (260, 520, 3)
    explorer.stage = "error"
    assert explorer.words.endswith("its true mask is unknown.")
    assert "ground truth" not in explorer._controls["compare"].options
    drop(explorer, "mine.jpg", file_of(200, 200))  # another one of the same name
    assert tuple(explorer.sample.image.shape) == (3, 96, 96)
    assert decoded(explorer.view.after).shape == (392, 392, 3)


def test_the_button_opens_an_image_too(explorer):
    upload = {"name": "b.png", "content": memoryview(file_of(20, 20)), "type": "image/png"}
    upload |= {"size": 1, "last_modified": datetime.now(timezone.utc)}
    explorer._upload.set_trait("value", (upload,))
    assert explorer.picture == "own: b.png" and explorer._upload.value == ()


def test_what_is_no_image_is_said_on_the_panel(explorer):
    before = explorer.picture, explorer.view.after
    drop(explorer, "notes.txt", b"no image")
    assert explorer.problem.startswith("notes.txt does not decode as an image: 8 bytes that")
    assert escape(explorer.problem) in explorer._warned.value
    assert (explorer.picture, explorer.view.after) == before
    explorer.stage = "mask"
    assert not explorer.problem and not explorer._warned.value
    with pytest.raises(ValueError, match="damaged or cut short"):
        explorer.open_image("half.png", file_of(90, 90)[:100])


def test_few_own_images_are_kept(explorer):
    for i in range(9):
        drop(explorer, f"{i}.png", file_of(8, 8))
    mine = [name for name in explorer._controls["picture"].options if name.startswith("own: ")]
    assert mine == [f"own: {i}.png" for i in range(4, 9)]


def test_errors_of_a_method_are_said_on_the_panel(world, cam):
    class Broken(type(cam)):
        def full_maps(self, images, labels):
            raise KeyError("no such layer")

    broken = Broken("paper", weights="web")
    explorer = CAMExplorer({"CAM": cam, "broken": broken}, world, None, world.classes)
    explorer.method = "broken"
    assert explorer.problem == "KeyError: 'no such layer'"
    explorer.method = "CAM"
    assert not explorer.problem


def test_results_are_kept_and_not_forever(world, clip_es, monkeypatch):
    calls = []

    class Counted:
        brings_affinity = True

        def __call__(self, images, labels):
            calls.append(1)
            return clip_es(images, labels)

    kept = stages.Stages({"m": Counted()})
    for _ in range(3):
        kept.maps("m", world[0])
        kept.has_affinity("m")
    assert len(calls) == 1
    monkeypatch.setattr(stages, "MOST_KEPT", 1)
    for sample in world:
        kept.maps("m", sample)
    assert len(kept._known) == 1


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
    assert (
        explorer._controls["picture"].value == world.names[1] and "mask" in explorer.view.after_name
    )
    assert not explorer.problem


def test_its_still_shows_all_stages(explorer):
    explorer.method = "CLIP-ES"
    steps = "image, map, refined, scores, mask, ground truth, error"
    assert alt_text(explorer.still()) == f"CLIP-ES, {explorer.class_name} in the steps {steps}."
    explorer.method = "CAM"
    assert "refined" not in alt_text(explorer.still())
    bundle, metadata = explorer._repr_mimebundle_()
    assert set(bundle) == {
        "application/vnd.jupyter.widget-view+json",
        "image/jpeg",
        "text/plain",
    }
    assert metadata["image/jpeg"]["alt"] == alt_text(explorer.still())


def test_nothing_to_explore(world, cam):
    bare = [s._replace(labels=torch.zeros(8)) for s in world]
    for samples, methods in ((bare, {"CAM": cam}), (world, {})):
        with pytest.raises(ValueError, match=r"there are \d methods and \d images with a class"):
            CAMExplorer(methods, samples, world.masks, world.classes)
    with pytest.raises(ValueError, match="has 8 labels but there are 1 classes"):
        CAMExplorer({"CAM": cam}, world, world.masks, ["cow"])
