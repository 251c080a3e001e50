"""ErrorAtlas: bars are the report's, worst images those that evaluate alone finds worst."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest
import traitlets

from tests.widgets.conftest import same
from wsss_kit.evaluation import BackgroundRule, Protocol, error_map, evaluate, predict_masks
from wsss_kit.paperworld import PaperWorld
from wsss_kit.plot import alt_text
from wsss_kit.plot.canvas import image_array
from wsss_kit.plot.regions import enlarged, enlarged_mask, paint_errors, paint_mask_named
from wsss_kit.recipes import cam_maps, clip_es_maps
from wsss_kit.widgets import ErrorAtlas

SIZE = (320, 320)
PROTOCOL = Protocol("PaperWorld", "test")


@pytest.fixture(scope="module")
def pictures():
    return PaperWorld(12, split="test")


@pytest.fixture(scope="module")
def masks(pictures, cam, clip_es):
    methods = {
        "CAM": partial(cam_maps, method=cam),
        "CLIP-ES": partial(clip_es_maps, method=clip_es),
    }
    rule = BackgroundRule(threshold=0.3)
    return {m: predict_masks(of, pictures, rule, shown=False) for m, of in methods.items()}


@pytest.fixture(scope="module")
def reports(pictures, masks):
    options = {"classes": pictures.classes, "protocol": PROTOCOL, "n_bootstrap": 20}
    return {m: evaluate(mine, pictures.masks, **options) for m, mine in masks.items()}


@pytest.fixture
def atlas(pictures, masks, reports):
    return ErrorAtlas(pictures, masks, pictures.masks, reports)


def test_class_bars_are_the_report(atlas, reports):
    for method, report in reports.items():
        atlas.method = method
        rows = {row["name"]: row for row in atlas.class_bars.rows}
        assert list(rows) == ["all classes", *report.classes]
        for name, iou, shares in zip(report.classes, report.iou, report.error_shares, strict=True):
            if np.isnan(iou):
                assert rows[name]["text"] == "-" and not rows[name]["parts"]
                continue
            assert rows[name]["text"] == f"{100 * iou:.0f}"
            lengths = [part["to"] - part["from"] for part in rows[name]["parts"]]
            assert sum(lengths) == pytest.approx(1 - iou) == pytest.approx(shares.sum())
        assert rows["all classes"]["text"] == f"{100 * report.mean_iou:.0f}"
        assert str(report.protocol) in atlas._said.value and report.headline in atlas._said.value


def test_the_worst_images_of_a_class(atlas, pictures, masks):
    for name in ("cow", "background"):
        atlas.class_bars.click(name)
        alone = {}
        for picture in pictures.names:
            truth = {picture: pictures.masks[picture]}
            options = {"classes": pictures.classes, "protocol": PROTOCOL, "n_bootstrap": 0}
            frame = evaluate(masks["CAM"], truth, **options).to_frame()
            if not np.isnan(frame.loc[name, "iou"]):
                alone[picture] = frame.loc[name, "iou"]
        order = sorted(alone, key=lambda p: (alone[p], p))
        assert list(atlas.worst()) == order and atlas.picture == order[0]
        assert [row["name"] for row in atlas.image_bars.rows] == order
        assert atlas.words.startswith(f"{order[0]}, CAM, {name}: IoU {100 * alone[order[0]]:.0f} %")
        assert (atlas.class_bars.chosen, atlas.image_bars.chosen) == (name, order[0])


def test_all_classes_go_by_the_reports_own_image_iou(atlas, reports):
    expected = reports["CAM"].image_iou
    assert list(atlas.worst()) == sorted(expected, key=lambda p: (expected[p], p))
    for name, loss in atlas.worst().items():
        assert loss.iou == pytest.approx(expected[name])


def test_a_pressed_image_shows_its_errors(atlas, pictures, masks):
    name = list(atlas.worst())[3]
    atlas.image_bars.click(name)
    assert atlas.picture == name
    image = pictures[pictures.names.index(name)].image
    large = enlarged(image_array(image), SIZE)
    for method in masks:
        atlas.method = method
        assert atlas.picture == name  # methods are compared on one image
        errors = error_map(masks[method][name], pictures.masks[name])
        assert same(atlas.screen.after, paint_errors(large, enlarged_mask(errors, SIZE)))
    sides = {"picture": large}
    sides["ground truth"] = paint_mask_named(large, pictures.masks[name], pictures.classes, 0.7)
    sides["prediction"] = paint_mask_named(large, masks[method][name], pictures.classes, 0.7)
    for compare, expected in sides.items():
        atlas.compare = compare
        assert same(atlas.screen.before, expected)
        assert atlas.screen.before_name == f"{compare}, {name}"


def test_images_are_counted_piece_by_piece(pictures, masks, reports):
    async def reading():
        atlas = ErrorAtlas(pictures, masks, pictures.masks, reports)
        assert atlas.class_bars.rows and not atlas.image_bars.rows
        await asyncio.sleep(0.02)
        assert atlas.image_bars.title.endswith("of 12 images counted")
        atlas.class_bars.click("cow")
        atlas.finish()
        assert atlas.image_bars.title.startswith("worst images, cow")

    asyncio.run(reading())


def test_refusals(pictures, masks, reports, atlas):
    truth = pictures.masks
    with pytest.raises(ValueError, match=r"masks of \['CAM', 'CLIP-ES'\] and reports of \['CAM'\]"):
        ErrorAtlas(pictures, masks, truth, {"CAM": reports["CAM"]})
    with pytest.raises(ValueError, match=r"'CAM' has no mask for 'test_0_000000'"):
        ErrorAtlas(pictures, {"CAM": {}}, truth, {"CAM": reports["CAM"]})
    with pytest.raises(ValueError, match="none of 12 images has ground truth"):
        ErrorAtlas(pictures, masks, {}, reports)
    with pytest.raises(ValueError, match="1 class names, but the report of 'CAM' counts 8 classes"):
        ErrorAtlas(pictures, masks, truth, reports, ["cow"])
    for trait in ("method", "class_name", "picture", "compare"):
        with pytest.raises(traitlets.TraitError, match=f"{trait} is 'nothing', expected one of"):
            setattr(atlas, trait, "nothing")


def test_reports_that_score_some_classes(pictures, masks):
    options = {"classes": pictures.classes, "protocol": PROTOCOL, "n_bootstrap": 0}
    report = evaluate(masks["CAM"], pictures.masks, scored=["cow", "cat"], **options)
    with pytest.raises(ValueError, match="expected classes to name all mask values"):
        ErrorAtlas(pictures, {"CAM": masks["CAM"]}, pictures.masks, {"CAM": report})
    atlas = ErrorAtlas(
        pictures, {"CAM": masks["CAM"]}, pictures.masks, {"CAM": report}, pictures.classes
    )
    rows = [row["name"] for row in atlas.class_bars.rows]
    assert rows == ["all classes", "background", "cow", "cat"]
    atlas.class_name = "cow"
    assert atlas.worst() and not atlas.problem


def test_its_still(atlas):
    alt = alt_text(atlas.still())
    assert alt.startswith("What each kind of error takes from the IoU, in percent. background: ")
    assert alt.endswith(f"Error maps of {', '.join(list(atlas.worst())[:6])}.")
