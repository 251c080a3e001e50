"""ErrorAtlas: bars are the report's, worst images those that evaluate alone finds worst."""

from dataclasses import replace

import numpy as np
import pytest
import traitlets

from tests.widgets.conftest import same
from wsss_kit.evaluation import Protocol, error_map, evaluate
from wsss_kit.paperworld import PaperWorld
from wsss_kit.plot import alt_text
from wsss_kit.plot.canvas import image_array
from wsss_kit.plot.regions import fitted_image, paint_errors, paint_mask_named
from wsss_kit.widgets import ErrorAtlas

WORLD = PaperWorld(12, split="test")
OPTIONS = {"classes": WORLD.classes, "protocol": Protocol("PaperWorld", "test"), "n_bootstrap": 20}


@pytest.fixture(scope="module")
def masks(masks_of):
    return masks_of(WORLD)


@pytest.fixture(scope="module")
def reports(masks):
    return {m: evaluate(mine, WORLD.masks, **OPTIONS) for m, mine in masks.items()}


@pytest.fixture
def atlas(masks, reports):
    return ErrorAtlas(WORLD, masks, WORLD.masks, reports)


def test_class_bars_are_the_report(atlas, reports):
    for method, report in reports.items():
        atlas.method = method
        rows = {row["name"]: row for row in atlas.class_bars.rows}
        assert list(rows) == ["all classes", *report.classes]
        for name, iou in zip(report.classes, report.iou, strict=True):
            if np.isnan(iou):
                assert rows[name]["text"] == "-" and not rows[name]["parts"]
                continue
            assert rows[name]["text"] == f"{100 * iou:.0f}"
            lengths = [part["to"] - part["from"] for part in rows[name]["parts"]]
            assert sum(lengths) == pytest.approx(1 - iou)
        assert rows["all classes"]["text"] == f"{100 * report.mean_iou:.0f}"
        assert str(report.protocol) in atlas._said.value and report.headline in atlas._said.value


@pytest.mark.parametrize("scored", [None, ("cow", "cat")])
def test_the_worst_images_of_a_class(masks, scored):
    report = evaluate(masks["CAM"], WORLD.masks, scored=scored, **OPTIONS)
    atlas = ErrorAtlas(WORLD, {"CAM": masks["CAM"]}, WORLD.masks, {"CAM": report})
    assert [row["name"] for row in atlas.class_bars.rows] == ["all classes", *report.classes]
    for name in ("all classes", "cow", "background"):
        atlas.class_name = name
        alone, shares = {}, {}
        for image in WORLD.names:
            truth = {image: WORLD.masks[image]}
            one = evaluate(masks["CAM"], truth, scored=scored, **OPTIONS)
            if name == "all classes":
                present = one.pixels > 0
                values = one.iou[present].mean(), one.error_shares[present].mean(0)
            else:
                c = one.classes.index(name)
                values = one.iou[c], one.error_shares[c]
            if not np.isnan(values[0]):
                alone[image], shares[image] = values
        order = sorted(alone, key=lambda p: (alone[p], p))
        worst = atlas.worst()
        assert list(worst) == order and atlas.picture == order[0]
        for image, loss in worst.items():
            assert loss.iou == pytest.approx(alone[image])
            assert loss.shares == pytest.approx(shares[image])
        assert [row["name"] for row in atlas.image_bars.rows] == order
        assert atlas.words.startswith(f"{order[0]}, CAM, {name}: IoU {100 * alone[order[0]]:.0f} %")
        assert (atlas.class_bars.chosen, atlas.image_bars.chosen) == (name, order[0])


def test_a_pressed_image_shows_its_errors(atlas, masks):
    name = list(atlas.worst())[3]
    atlas.image_bars.click(name)
    assert atlas.picture == name
    image = WORLD[WORLD.names.index(name)].image
    large, truth = fitted_image(image_array(image), (320, 320)), WORLD.masks[name]
    for method in masks:
        atlas.method = method
        assert atlas.picture == name  # methods are compared on one image
        errors = error_map(masks[method][name], truth)
        assert same(atlas.screen.after, paint_errors(large, errors))
    sides = {"picture": large}
    for side, mask in {"ground truth": truth, "prediction": masks[method][name]}.items():
        sides[side] = paint_mask_named(large, mask, WORLD.classes, 0.7)
    for compare, expected in sides.items():
        atlas.compare = compare
        assert same(atlas.screen.before, expected)
        assert atlas.screen.before_name == f"{compare}, {name}"


def test_refusals(masks, reports, atlas):
    truth, other = WORLD.masks, replace(reports["CAM"], values=("background", "cow"))
    for given, message in (
        ((masks, truth, {"CAM": reports["CAM"]}), r"masks of \['CAM', 'CLIP-ES'\] and reports of"),
        (({"CAM": {}}, truth, {"CAM": reports["CAM"]}), r"'CAM' has no mask for 'test_0_000000'"),
        ((masks, {}, reports), "none of 12 images has ground truth"),
        ((masks, truth, {**reports, "CLIP-ES": other}), r"'CLIP-ES' has a report over \('cow',\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ErrorAtlas(WORLD, *given)
    for trait in ("method", "class_name", "picture", "compare"):
        with pytest.raises(traitlets.TraitError, match=f"{trait} is 'nothing', expected one of"):
            setattr(atlas, trait, "nothing")


def test_its_still(atlas):
    alt = alt_text(atlas.still())
    assert alt.startswith("What each kind of error takes from the IoU, in percent. background: ")
    assert alt.endswith(f"Error maps of {', '.join(list(atlas.worst())[:6])}.")
