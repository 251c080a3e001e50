"""Rows of images and points on a plane."""

from __future__ import annotations

import pytest
import torch

from wsss_kit.classes import Sample
from wsss_kit.paperworld import PaperWorld
from wsss_kit.plot import alt_text, show_clusters, show_plane


def test_each_cluster_has_its_row_and_its_images():
    world = list(PaperWorld(3))
    figure = show_clusters({"red boat": world[:2], "boat 2": [world[2].image], "boat 3": []})
    assert len(figure.axes) == 6
    shown = [len(ax.get_images()) for ax in figure.axes]
    assert shown == [1, 1, 1, 0, 0, 0]
    drawn = torch.from_numpy(figure.axes[2].get_images()[0].get_array().data)
    assert torch.equal(drawn, world[2].image.permute(1, 2, 0))
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["red boat", "boat 2", "boat 3"]
    assert "red boat, 2 images; boat 2, 1 image; boat 3, 0 images" in alt_text(figure)


def test_points_stand_where_they_are_with_their_group():
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figure = show_plane({"a": (points, ["x", "y", "x"]), "b": (points[:1], ["y"])})
    left, right = figure.axes
    of_x, of_y = left.collections
    assert of_x.get_offsets().tolist() == [[0, 1], [4, 5]] and of_x.get_label() == "x"
    assert of_y.get_offsets().tolist() == [[2, 3]]
    assert (of_x.get_facecolor() != of_y.get_facecolor()).any()
    assert [len(c.get_offsets()) for c in right.collections] == [0, 1]
    assert alt_text(figure) == "Points on a plane. a: 2 x, 1 y. b: 1 y."


@pytest.mark.parametrize("rows", [{}, {"a": []}])
def test_no_images_no_figure(rows):
    with pytest.raises(ValueError, match="and no image, expected"):
        show_clusters(rows)
    with pytest.raises(ValueError, match="an image ranges from 255"):
        show_clusters({"a": [Sample("b", torch.full((3, 2, 2), 255.0), torch.ones(1))]})


@pytest.mark.parametrize(
    "panels",
    [
        {},
        {"a": (torch.zeros(2, 2), ["x"])},
        {"a": (torch.zeros(1, 3), ["x"])},
        {"a": (torch.full((1, 2), float("nan")), ["x"])},
        {"a": (torch.zeros(0, 2), [])},
    ],
)
def test_points_that_do_not_fit_are_refused(panels):
    with pytest.raises(ValueError, match="expected"):
        show_plane(panels)
