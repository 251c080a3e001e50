"""Figures: what they show, that nothing is clipped, and the words that come with them."""

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.container import BarContainer
from matplotlib.text import Text
from PIL import Image

from wsss_kit.classes import PAPER_CLASSES, VOC_CLASSES, Sample
from wsss_kit.evaluation import Protocol, evaluate
from wsss_kit.plot import (
    alt_text,
    class_colours,
    iou_bars,
    overlay,
    save_figure,
    show_cams,
    show_masks,
    show_samples,
    step_bars,
)
from wsss_kit.plot.canvas import new_figure


def world(n=2, classes=PAPER_CLASSES, size=(24, 36)):
    """Samples, maps and masks: squares of one or two classes on noise."""
    rng = np.random.default_rng(0)
    samples, cams, masks = [], torch.zeros(n, len(classes), 6, 9), {}
    for index in range(n):
        labels, mask = torch.zeros(len(classes)), torch.zeros(size, dtype=torch.int64)
        for c in range(index, index + 1 + index % 2):
            labels[c], cams[index, c, 1:4, 2:5] = 1, 1
            mask[4 + 8 * (c - index) : 12 + 8 * (c - index), 8:20] = c + 1
        mask[:3, :3] = 255
        image = torch.from_numpy(rng.random((3, *size), np.float32))
        samples.append(Sample(f"val-{index}", image, labels))
        masks[f"val-{index}"] = mask
    return samples, cams, masks


def reports(names=("CAM",), classes=PAPER_CLASSES):
    """A report for each name, on masks that are a little wrong."""
    _, _, masks = world(3, classes)
    protocol = Protocol("squares", "val", background="constant 0.25")
    wrong = {name: mask.roll(1, 1) % 255 for name, mask in masks.items()}
    return {n: evaluate(wrong, masks, classes=classes, protocol=protocol) for n in names}


def draw_everything():
    samples, cams, masks = world()
    wrong = {name: mask.roll(2) for name, mask in masks.items()}
    return {
        "samples": show_samples(samples, PAPER_CLASSES, ["one boat", "a long caption " * 4]),
        "cams": show_cams(samples, cams, PAPER_CLASSES),
        "masks": show_masks(samples, {"CAM": wrong, "ground truth": masks}, PAPER_CLASSES),
        "bars": iou_bars(reports(("CAM", "CLIP-ES"))),
        "many bars": iou_bars(reports(("CAM", "SC-CAM", "CLIMS"), VOC_CLASSES)),
        "steps": step_bars({name: reports(("logit", "softmax")) for name in ("raw", "with CRF")}),
    }


def test_saved_figures_carry_their_alt_text_and_are_whole(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in draw_everything().items():
            path = save_figure(figure, tmp_path / "figures" / f"{name}.png")
            with Image.open(path) as image:
                image.load()
                assert image.info["Description"] == alt_text(figure) != ""
                assert image.width <= 1100
                assert np.asarray(image.convert("L")).std() > 5  # not an empty page
    assert sorted(path.suffix for path in (tmp_path / "figures").iterdir()) == [".png"] * 6


def test_no_text_is_clipped():
    for name, figure in draw_everything().items():
        figure.draw_without_rendering()
        inside = figure.bbox.padded(1)
        shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert len(shown) > 3
        for text in shown:
            box = text.get_window_extent()
            corners = [(box.x0, box.y0), (box.x1, box.y1)]
            assert all(inside.contains(*corner) for corner in corners), (name, text)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_figure(new_figure(1, 1, alt="old"), tmp_path / "a.png")
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(new_figure(1, 1, alt="new"), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"ends in [.]png"):
        save_figure(new_figure(1, 1, alt="new"), tmp_path / "a.jpg")


def test_a_notebook_shows_figures_with_alt_text():
    from IPython.core.formatters import DisplayFormatter

    data, metadata = DisplayFormatter().format(new_figure(1, 1, alt="Nothing to see."))
    assert data["image/jpeg"].startswith(b"\xff\xd8\xff")
    assert data["text/plain"] == metadata["image/jpeg"]["alt"] == "Nothing to see."


def test_pyplot_knows_of_no_figure():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    draw_everything()
    assert pyplot.get_fignums() == before


def test_overlay_blends_the_map_with_grey():
    image = torch.zeros(3, 4, 4)
    image[0] = 1  # red, lightness 0.299
    result = overlay(image, torch.tensor([[0.0, 1.0]]), alpha=0.5)
    ends = np.array(colormaps["viridis"]([0.0, 1.0]))[:, :3]
    assert result.shape == (4, 4, 3) and result.dtype == np.float32
    assert result[0, 0] == pytest.approx(0.5 * ends[0] + 0.5 * 0.299, abs=1e-6)
    assert result[3, 3] == pytest.approx(0.5 * ends[1] + 0.5 * 0.299, abs=1e-6)
    as_array = overlay(image.movedim(0, -1).numpy(), np.array([[0.0, 1.0]]), alpha=0.5)
    assert as_array == pytest.approx(result)


@pytest.mark.parametrize(
    ("image", "cam", "message"),
    [
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 2), r"images\[0\]"),
        (torch.full((3, 4, 4), 200.0), torch.zeros(2, 2), "divide 8-bit values"),
        (torch.zeros(3, 4, 4), torch.zeros(1, 2, 2), "choose one class"),
        (torch.zeros(3, 4, 4), torch.full((2, 2), 9.0), "9 to 9.*normalize_cams"),
    ],
)
def test_overlay_errors(image, cam, message):
    with pytest.raises(ValueError, match=message):
        overlay(image, cam)


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_cams_show_present_classes_only():
    samples, cams, _ = world()
    figure = show_cams(samples, cams, PAPER_CLASSES)
    assert titles(figure) == ["val-0", "boat", "val-1", "train", "plane"]
    images = torch.stack([sample.image for sample in samples])
    labels = torch.stack([sample.labels for sample in samples])
    figure = show_cams(images, cams, PAPER_CLASSES, labels)
    assert titles(figure) == ["image 1", "boat", "image 2", "train", "plane"]
    with pytest.raises(ValueError, match="without labels"):
        show_cams(images, cams, PAPER_CLASSES)
    with pytest.raises(ValueError, match="cams has 1 for 2"):
        show_cams(samples, cams[:1], PAPER_CLASSES)


def test_masks_colour_each_class_and_hatch_255():
    samples, _, masks = world(1)
    figure = show_masks(samples, {"ground truth": masks}, PAPER_CLASSES, alpha=1)
    assert titles(figure) == ["image", "ground truth"]
    shown = np.asarray(figure.axes[1].get_images()[0].get_array())
    scale = len(shown) / 24  # painted larger than the mask, so that hatches are seen
    assert scale > 4
    assert shown[int(8 * scale), int(12 * scale)] == pytest.approx(class_colours(8)[1])
    assert np.ptp(shown[int(20 * scale), int(30 * scale)]) < 1e-6  # the image in grey
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["boat", "ignored (255)"]
    ignored = shown[: int(3 * scale) - 2, : int(3 * scale) - 2, 0]
    line = np.diagonal(ignored[:, ::-1])  # "//" rises to the right: constant along it
    levels, counts = np.unique(ignored.round(3), return_counts=True)
    assert levels[0] == 0 and 0.1 < counts[0] / ignored.size < 0.5  # black lines on grey
    assert len(np.unique(line.round(3))) == 1


def test_masks_by_order_equal_masks_by_name():
    samples, _, masks = world()
    by_name = show_masks(samples, {"a": masks}, PAPER_CLASSES)
    by_order = show_masks(samples, {"a": torch.stack([*masks.values()])}, PAPER_CLASSES)
    assert alt_text(by_name) == alt_text(by_order)
    one, two = (f.axes[3].get_images()[0].get_array() for f in (by_name, by_order))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_of_one_value_and_of_one_pixel(value, tmp_path):
    for size in ((1, 1), (1, 5), (6, 4)):
        mask = torch.full((1, *size), value)
        figure = show_masks(torch.zeros(1, 3, *size), {"CAM": mask}, ("cow",))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            save_figure(figure, tmp_path / "one.png")


def test_mask_errors():
    samples, _, masks = world()
    with pytest.raises(ValueError, match="'CAM' has no mask for 'val-1'"):
        show_masks(samples, {"CAM": {"val-0": masks["val-0"]}}, PAPER_CLASSES)
    with pytest.raises(ValueError, match="has 1 for 2"):
        show_masks(samples, {"CAM": [masks["val-0"]]}, PAPER_CLASSES)
    with pytest.raises(ValueError, match=r"\(5, 5\).*\(24, 36\)"):
        show_masks(samples, {"CAM": torch.zeros(2, 5, 5)}, PAPER_CLASSES)
    with pytest.raises(ValueError, match="holds 3, not 0 to 2"):
        show_masks(samples, {"CAM": masks}, PAPER_CLASSES[:2])
    with pytest.raises(ValueError, match="show samples"):
        show_masks([s.image for s in samples], {"CAM": masks}, PAPER_CLASSES)


def test_few_of_many_classes_get_distinct_colours():
    mask = torch.tensor([[7] * 4, [15] * 4])
    figure = show_masks(torch.zeros(1, 3, 2, 4), {"a": [mask]}, VOC_CLASSES, alpha=1)
    shown = np.asarray(figure.axes[1].get_images()[0].get_array())
    rows = len(shown) // 4, 3 * len(shown) // 4
    assert shown[rows, 0] == pytest.approx(class_colours(8)[1:3])
    assert class_colours(20)[15] == pytest.approx(np.array([192, 128, 128]) / 255)


def test_eight_colours_are_apart():
    colours = class_colours(8)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(9)
    assert distance.min() > 0.25


def test_figures_keep_their_colours_in_files_and_notebooks(tmp_path):
    """A smooth slope has thousands of colours: a palette of 256 shifts them by more."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 96), indexing="ij")
    image = torch.stack([x, y, 1 - x])
    figure = show_samples([Sample("slope", image, torch.zeros(8))], PAPER_CLASSES, columns=1)
    path = save_figure(figure, tmp_path / "slope.png")
    with Image.open(path) as saved:
        assert saved.info["Description"] == alt_text(figure)
        exact = np.asarray(saved.convert("RGB")).astype(int)
    assert len(np.unique(exact.reshape(-1, 3), axis=0)) > 1000
    data, _ = figure._repr_mimebundle_()
    with Image.open(io.BytesIO(data["image/jpeg"])) as shown:
        assert shown.size == (int(figure.bbox.width), int(figure.bbox.height))
        assert np.abs(np.asarray(shown).astype(int) - exact).mean() < 4
    assert len(data["image/jpeg"]) < 50_000


def test_bars_show_the_report():
    figure = iou_bars(reports(("CAM", "CLIP-ES")))
    report = reports()["CAM"]
    heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
    expected = 100 * np.nan_to_num([*report.iou, report.mean_iou])
    assert heights == pytest.approx(expected.tolist())
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [f"{name}: {report.headline}" for name in ("CAM", "CLIP-ES")]
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().height < figure.axes[0].bbox.height
    bars = [c for c in figure.axes[0].containers if isinstance(c, BarContainer)]
    assert len({bar.get_hatch() for container in bars for bar in container}) == 2
    caption = figure.get_supxlabel().replace("\n", " ")
    assert caption == str(report.protocol)
    assert str(f"{100 * report.mean_iou:.1f}") in alt_text(figure)


def test_bars_of_many_methods_are_higher_than_their_legend():
    figure = iou_bars(reports([f"method {i}, no CRF" for i in range(8)]))
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().height < figure.axes[0].bbox.height / 2
    texts = figure.legends[0].get_texts()
    assert len(texts) == 8
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in texts)


def test_bars_state_protocols_that_differ():
    report = reports()["CAM"]
    other = replace(report, protocol=Protocol("other", "test"))
    caption = iou_bars({"CAM": report, "PW": other}).get_supxlabel()
    assert "CAM: squares val" in caption and "PW: other test" in caption
    caption = iou_bars({"CAM": report, "PW": other, "again": other}).get_supxlabel()
    varies = {"data": "varies", "split": "varies", "n_images": None, "background": "varies"}
    assert caption.replace("\n", " ") == str(replace(report.protocol, **varies))
    with pytest.raises(ValueError, match="same classes"):
        iou_bars({**reports(), "VOC": reports(classes=VOC_CLASSES)["CAM"]})
    with pytest.raises(ValueError, match="empty"):
        iou_bars({})


def test_steps_show_their_reports_and_what_the_protocols_share():
    steps = reports(("logit", "softmax", "affinity"))
    other = {
        name: replace(r, mean_iou=r.mean_iou / 2, protocol=replace(r.protocol, refinement="CRF"))
        for name, r in steps.items()
    }
    figure = step_bars({"raw": steps, "with CRF": other})
    raw, refined = (c for c in figure.axes[0].containers if isinstance(c, BarContainer))
    height = 100 * steps["logit"].mean_iou
    assert [bar.get_height() for bar in raw] == pytest.approx([height] * 3)
    assert [bar.get_height() for bar in refined] == pytest.approx([height / 2] * 3)
    assert raw[0].get_hatch() != refined[0].get_hatch()
    assert raw[1].get_x() < refined[1].get_x() < raw[2].get_x()
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert numbers == {f"{height:.1f}", f"{height / 2:.1f}"}
    caption = figure.get_supxlabel().replace("\n", " ")
    assert caption == str(replace(steps["logit"].protocol, refinement="varies"))
    assert f"with CRF: logit {height / 2:.1f}, softmax" in alt_text(figure)
    with pytest.raises(ValueError, match=r"'b' has the steps \['softmax'\], expected \['logit'"):
        step_bars({"a": steps, "b": {"softmax": steps["softmax"]}})
    for nothing in ({}, {"a": {}}):
        with pytest.raises(ValueError, match="series is empty"):
            step_bars(nothing)


def test_samples_with_captions_by_name():
    samples, _, _ = world()
    figure = show_samples(samples, PAPER_CLASSES, {"val-0": "first", "val-1": "second"}, columns=1)
    assert titles(figure) == ["boat", "train, plane"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["first", "second"]
    with pytest.raises(ValueError, match="no images"):
        show_samples([], PAPER_CLASSES)
    with pytest.raises(ValueError, match="8 values but there are 2"):
        show_samples(samples, ("cow", "camel"))
