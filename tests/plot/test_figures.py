"""Figures: what they show, that nothing is clipped, and the words that come with them."""

import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps, pyplot
from matplotlib.text import Text
from PIL import Image

from tests.plot.conftest import make_reports, make_world
from wsss_kit import plot
from wsss_kit.classes import PAPER_CLASSES, VOC_CLASSES, Sample
from wsss_kit.evaluation import Protocol, evaluate


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def pixels_of(ax):
    return np.asarray(ax.get_images()[0].get_array())


@pytest.mark.filterwarnings("error")
def test_all_figures_are_whole_and_saved_with_their_alt_text(tmp_path):
    samples, cams, masks = make_world()
    wrong, before = {name: mask.roll(2) for name, mask in masks.items()}, pyplot.get_fignums()
    report, two = make_reports("x")["x"], ("logit", "softmax")
    figures = {
        "samples": plot.show_samples(samples, PAPER_CLASSES, ["one boat", "a long caption " * 4]),
        "cams": plot.show_cams(samples, cams, PAPER_CLASSES),
        "masks": plot.show_masks(samples, {"CAM": wrong, "ground truth": masks}, PAPER_CLASSES),
        "errors": plot.show_errors(samples, wrong, masks, report),
        "bars": plot.iou_bars(make_reports("CAM", "CLIP-ES")),
        "many bars": plot.iou_bars(make_reports("CAM", "SC-CAM", "CLIMS", classes=VOC_CLASSES)),
        "steps": plot.step_bars({name: make_reports(*two) for name in ("raw", "with CRF")}),
    }
    assert pyplot.get_fignums() == before
    for name, figure in figures.items():
        path = plot.save_figure(figure, tmp_path / "figures" / f"{name}.png")
        with Image.open(path) as image:
            assert image.info["Description"] == plot.alt_text(figure) != ""
            assert image.width <= 1100
            assert np.asarray(image.convert("L")).std() > 5  # not an empty page
        inside = figure.bbox.padded(1)
        shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert len(shown) > 3
        for text in shown:
            box = text.get_window_extent()
            corners = [(box.x0, box.y0), (box.x1, box.y1)]
            assert all(inside.contains(*corner) for corner in corners), (name, text)
    assert len(list((tmp_path / "figures").iterdir())) == len(figures)  # nothing else is left
    with pytest.raises(ValueError, match=r"ends in [.]png"):
        plot.save_figure(figure, tmp_path / "a.jpg")


def test_figures_keep_their_colours_in_files_and_notebooks(tmp_path):
    """A smooth slope has thousands of colours: a palette of 256 shifts them by more."""
    from IPython.core.formatters import DisplayFormatter

    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 96), indexing="ij")
    image = torch.stack([x, y, 1 - x])
    figure = plot.show_samples([Sample("slope", image, torch.zeros(8))], PAPER_CLASSES, columns=1)
    with Image.open(plot.save_figure(figure, tmp_path / "slope.png")) as saved:
        exact = np.asarray(saved.convert("RGB")).astype(int)
    assert len(np.unique(exact.reshape(-1, 3), axis=0)) > 1000
    data, metadata = DisplayFormatter().format(figure)
    assert data["text/plain"] == metadata["image/jpeg"]["alt"] == plot.alt_text(figure)
    with Image.open(io.BytesIO(data["image/jpeg"])) as shown:
        assert shown.size == (int(figure.bbox.width), int(figure.bbox.height))
        assert np.abs(np.asarray(shown).astype(int) - exact).mean() < 4
    assert len(data["image/jpeg"]) < 50_000


def test_overlay_blends_the_map_with_grey():
    image = torch.zeros(3, 4, 4)
    image[0] = 1  # red, lightness 0.299
    result = plot.overlay(image, torch.tensor([[0.0, 1.0]]), alpha=0.5)
    ends = np.array(colormaps["viridis"]([0.0, 1.0]))[:, :3]
    assert result.shape == (4, 4, 3) and result.dtype == np.float32
    assert result[0, 0] == pytest.approx(0.5 * ends[0] + 0.5 * 0.299, abs=1e-6)
    assert result[3, 3] == pytest.approx(0.5 * ends[1] + 0.5 * 0.299, abs=1e-6)
    as_array = plot.overlay(image.movedim(0, -1).numpy(), np.array([[0.0, 1.0]]), alpha=0.5)
    assert as_array == pytest.approx(result)


BAD_OVERLAYS = [
    (torch.zeros(1, 3, 4, 4), torch.zeros(2, 2), r"images\[0\]"),
    (torch.full((3, 4, 4), 200.0), torch.zeros(2, 2), "divide 8-bit values"),
    (torch.zeros(3, 4, 4), torch.zeros(1, 2, 2), "choose one class"),
    (torch.zeros(3, 4, 4), torch.full((2, 2), 9.0), "9 to 9.*normalize_cams"),
]


@pytest.mark.parametrize(("image", "cam", "message"), BAD_OVERLAYS)
def test_overlay_errors(image, cam, message):
    with pytest.raises(ValueError, match=message):
        plot.overlay(image, cam)


def test_samples_with_captions_by_name():
    samples, _, _ = make_world()
    captions = {"val-0": "first", "val-1": "second"}
    figure = plot.show_samples(samples, PAPER_CLASSES, captions, columns=1)
    assert titles(figure) == ["boat", "train, plane"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["first", "second"]
    with pytest.raises(ValueError, match="no images"):
        plot.show_samples([], PAPER_CLASSES)
    with pytest.raises(ValueError, match="8 values but there are 2"):
        plot.show_samples(samples, ("cow", "camel"))


def test_cams_show_present_classes_only():
    samples, cams, _ = make_world()
    figure = plot.show_cams(samples, cams, PAPER_CLASSES)
    assert titles(figure) == ["val-0", "boat", "val-1", "train", "plane"]
    assert pixels_of(figure.axes[1]) == pytest.approx(plot.overlay(samples[0].image, cams[0, 0]))
    images = torch.stack([sample.image for sample in samples])
    labels = torch.stack([sample.labels for sample in samples])
    figure = plot.show_cams(images, cams, PAPER_CLASSES, labels)
    assert titles(figure) == ["image 1", "boat", "image 2", "train", "plane"]
    with pytest.raises(ValueError, match="without labels"):
        plot.show_cams(images, cams, PAPER_CLASSES)
    with pytest.raises(ValueError, match="cams has 1 for 2"):
        plot.show_cams(samples, cams[:1], PAPER_CLASSES)


def test_masks_colour_each_class_and_hatch_255():
    samples, _, masks = make_world(1)
    figure = plot.show_masks(samples, {"ground truth": masks}, PAPER_CLASSES, alpha=1)
    assert titles(figure) == ["image", "ground truth"]
    shown = pixels_of(figure.axes[1])
    scale = len(shown) / 24  # painted larger than the mask, so that hatches are seen
    assert scale > 4
    assert shown[int(8 * scale), int(12 * scale)] == pytest.approx(plot.class_colours(8)[1])
    assert np.ptp(shown[int(20 * scale), int(30 * scale)]) < 1e-6  # the image in grey
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["boat", "ignored (255)"]
    ignored = shown[: int(3 * scale) - 2, : int(3 * scale) - 2, 0]
    line = np.diagonal(ignored[:, ::-1])  # "//" rises to the right: constant along it
    levels, counts = np.unique(ignored.round(3), return_counts=True)
    assert levels[0] == 0 and 0.1 < counts[0] / ignored.size < 0.5  # black lines on grey
    assert len(np.unique(line.round(3))) == 1


def test_masks_by_order_equal_masks_by_name():
    samples, _, masks = make_world()
    by_name = plot.show_masks(samples, {"a": masks}, PAPER_CLASSES)
    by_order = plot.show_masks(samples, {"a": torch.stack([*masks.values()])}, PAPER_CLASSES)
    assert plot.alt_text(by_name) == plot.alt_text(by_order)
    assert np.array_equal(*(pixels_of(figure.axes[3]) for figure in (by_name, by_order)))


@pytest.mark.parametrize("value", [0, 1, 255])
@pytest.mark.filterwarnings("error")
def test_masks_of_one_value_and_of_one_pixel(value, tmp_path):
    for size in ((1, 1), (1, 5), (6, 4)):
        mask = torch.full((1, *size), value)
        figure = plot.show_masks(torch.zeros(1, 3, *size), {"CAM": mask}, ("cow",))
        plot.save_figure(figure, tmp_path / "one.png")


BAD_MASKS = [
    ({"masks": {"val-0": torch.zeros(24, 36)}}, "'CAM' has no mask for 'val-1'"),
    ({"masks": torch.zeros(1, 24, 36)}, "has 1 for 2"),
    ({"masks": torch.zeros(2, 5, 5)}, r"\(5, 5\).*\(24, 36\)"),
    ({"classes": PAPER_CLASSES[:2]}, "holds 3, not 0 to 2"),
    ({"images": torch.zeros(2, 3, 24, 36)}, "show samples"),
]


@pytest.mark.parametrize(("change", "message"), BAD_MASKS)
def test_mask_errors(change, message):
    samples, _, masks = make_world()
    given = {"images": samples, "masks": masks, "classes": PAPER_CLASSES, **change}
    with pytest.raises(ValueError, match=message):
        plot.show_masks(given["images"], {"CAM": given["masks"]}, given["classes"])


def test_few_of_many_classes_get_distinct_colours():
    mask = torch.tensor([[7] * 4, [15] * 4])
    figure = plot.show_masks(torch.zeros(1, 3, 2, 4), {"a": [mask]}, VOC_CLASSES, alpha=1)
    shown = pixels_of(figure.axes[1])
    rows = len(shown) // 4, 3 * len(shown) // 4
    colours = plot.class_colours(8)
    assert shown[rows, 0] == pytest.approx(colours[1:3])
    assert plot.class_colours(20)[15] == pytest.approx(np.array([192, 128, 128]) / 255)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(9)
    assert distance.min() > 0.25


def test_each_cluster_has_its_row_and_its_images():
    samples, _, _ = make_world(3)
    figure = plot.show_clusters(
        {"red boat": samples[:2], "boat 2": [samples[2].image], "boat 3": []}
    )
    assert [len(ax.get_images()) for ax in figure.axes] == [1, 1, 1, 0, 0, 0]
    assert np.array_equal(pixels_of(figure.axes[2]), samples[2].image.permute(1, 2, 0))
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["red boat", "boat 2", "boat 3"]
    assert "red boat, 2 images; boat 2, 1 image; boat 3, 0 images" in plot.alt_text(figure)
    for rows in ({}, {"a": []}):
        with pytest.raises(ValueError, match="and no image, expected"):
            plot.show_clusters(rows)


def test_errors_as_bars_and_images():
    samples, _, target = make_world(1)
    predicted = {name: mask.roll(3, 1) % 255 for name, mask in target.items()}
    options = {"classes": PAPER_CLASSES[:2], "protocol": Protocol("one image", "val")}
    report = evaluate(predicted, target, boundary=0, **options)
    figure = plot.show_errors(samples, predicted, target, report)
    bars, image = figure.axes
    lengths = np.array([bar.get_width() for bar in bars.patches]).reshape(4, 3)
    assert lengths.T == pytest.approx(100 * np.nan_to_num(report.error_shares))
    assert image.get_title() == f"val-0: {100 * report.image_iou['val-0']:.0f}"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["boundary", "missed", "spilled", "confused"]
    with pytest.raises(ValueError, match="'predicted' has no mask for 'val-0'"):
        plot.show_errors(samples, {}, target, report)
