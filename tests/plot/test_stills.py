"""The instruments on paper: every panel is there, and wrong sizes are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss_kit.classes import Sample
from wsss_kit.evaluation import Protocol, error_map, evaluate
from wsss_kit.plot import alt_text, show_errors, show_stages, show_words
from wsss_kit.plot.canvas import png_bytes


@pytest.fixture
def sample(rng):
    return Sample("a", torch.rand(3, 20, 30, generator=rng), torch.tensor([1.0, 1.0]))


@pytest.fixture
def masks(rng):
    return [torch.randint(0, 3, (20, 30), generator=rng) for _ in range(2)]


def test_stages_in_their_order(sample, masks):
    cam = torch.rand(20, 30)
    error = error_map(*masks)
    figure = show_stages(
        sample, {"map": cam, "refined": cam}, {"mask": masks[0]}, ["cow", "cat"], error=error
    )
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["image", "map", "refined", "mask", "error"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("boundary", "missed", "spilled", "confused")
    ]
    assert len(png_bytes(figure)) > 1000
    with pytest.raises(ValueError, match="a mask holds 2, not 0 to 1"):
        show_stages(sample, {}, {"mask": masks[0]}, ["cow"])
    with pytest.raises(ValueError, match=r"a mask has shape \(2, 2\), expected \(20, 30\)"):
        show_stages(sample, {}, {"mask": torch.zeros(2, 2).long()}, ["cow"])


def test_words_by_probability(sample):
    claims = torch.tensor([[0, 0, 1], [2, 2, 2]])
    probs, words = torch.tensor([0.2, 0.7, 0.1]), ["cow", "grass", "sky"]
    figure = show_words(sample, torch.rand(20, 30), claims, probs, words)
    bars = figure.axes[2]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["grass", "cow", "sky"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([70, 20, 10], rel=1e-5)
    assert "cow 33 %, grass 17 %, sky 50 %" in alt_text(figure)
    with pytest.raises(ValueError, match="there are 2 words, 3 probabilities and claims up to 2"):
        show_words(sample, torch.rand(20, 30), claims, probs, words[:2])


def test_errors_as_bars_and_images(sample, masks):
    predicted, target = {"a": masks[0]}, {"a": masks[1]}
    protocol = Protocol("one image", "val")
    report = evaluate(predicted, target, classes=("cow", "cat"), protocol=protocol, boundary=0)
    figure = show_errors([sample], predicted, target, report)
    bars, image = figure.axes
    lengths = np.array([bar.get_width() for bar in bars.patches]).reshape(4, 3)
    assert lengths.T == pytest.approx(100 * report.error_shares)
    assert image.get_title() == f"a: {100 * report.image_iou['a']:.0f}"
    with pytest.raises(ValueError, match="'predicted' has no mask for 'a'"):
        show_errors([sample], {}, target, report)
