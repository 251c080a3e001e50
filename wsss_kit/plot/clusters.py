"""Clusters: their pictures in rows, and their features as points on a plane."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.plot.canvas import DISTINCT_COLOURS, NOTE_SIZE, TITLE_SIZE, new_figure
from wsss_kit.plot.curves import MARKERS
from wsss_kit.plot.panels import names_and_pictures, panel_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_clusters(rows: Mapping[str, Sequence[Sample] | Sequence[Tensor]]) -> Figure:
    """One row for each cluster: its name, and pictures of it.

    Args:
        rows: name of a cluster -> its pictures, as many as are to be seen; samples, or (3, H, W)
            in [0, 1].

    Returns:
        The figure.

    Raises:
        ValueError: if there is no cluster, or none with a picture.

    Example:
        >>> show_clusters({"red boat": [torch.zeros(3, 8, 8)]}).get_label()
        'Pictures of clusters, a row each: red boat, 1 picture.'
    """
    columns = max((len(pictures) for pictures in rows.values()), default=0)
    if not columns:
        raise ValueError(f"rows has {len(rows)} clusters and no picture, expected at least one")
    found = {
        name: names_and_pictures(pictures)[1] if len(pictures) else []
        for name, pictures in rows.items()
    }
    filler = next(pictures[0] for pictures in found.values() if pictures)
    every = [
        picture
        for pictures in found.values()
        for picture in [*pictures, *[filler] * (columns - len(pictures))]
    ]
    counts = (f"{n}, {len(p)} picture{'s' * (len(p) != 1)}" for n, p in found.items())
    alt = f"Pictures of clusters, a row each: {'; '.join(counts)}."
    figure, axes, _ = panel_grid(every, columns, alt=alt, per_row=columns, text_lines=0.3)
    for row, (name, pictures) in zip(axes, found.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=False):
            ax.imshow(picture)
        wrapped = textwrap.fill(name, 14)
        row[0].set_ylabel(wrapped, fontsize=TITLE_SIZE, rotation=0, ha="right", va="center")
    return figure


def show_plane(panels: Mapping[str, tuple[Tensor, Sequence[str]]]) -> Figure:
    """Points on a plane, a panel for each view; colour and marker tell the groups apart.

    Args:
        panels: title -> points (N, 2) and N names of groups; up to eight different names can be
            told apart by colour, more repeat with other markers.

    Returns:
        The figure, with one legend.

    Raises:
        ValueError: if there is no panel, or points and names do not fit.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
        >>> show_plane({"features of boats": (points, ["red", "wooden"])}).get_label()
        'Points on a plane. features of boats: 1 red, 1 wooden.'
    """
    if not panels:
        raise ValueError("panels is empty, expected at least one title with its points")
    for title, (points, groups) in panels.items():
        shape = tuple(points.shape)
        if shape != (len(groups), 2) or not len(groups) or not torch.isfinite(points).all():
            raise ValueError(
                f"{title!r} has points of shape {shape} and {len(groups)} names, expected finite "
                "(N, 2) and N"
            )
    names = list(dict.fromkeys(name for _, groups in panels.values() for name in groups))
    said = {
        title: ", ".join(f"{list(groups).count(name)} {name}" for name in names if name in groups)
        for title, (_, groups) in panels.items()
    }
    alt = "Points on a plane. " + " ".join(f"{title}: {text}." for title, text in said.items())
    figure = new_figure(3.4 * len(panels), 3.5, alt=alt)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, (points, groups)) in zip(axes, panels.items(), strict=True):
        points = points.detach().cpu().numpy()
        for index, name in enumerate(names):
            rows = [i for i, group in enumerate(groups) if group == name]
            ax.scatter(
                *points[rows].T,
                s=22,
                label=name,
                color=DISTINCT_COLOURS[index % len(DISTINCT_COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                edgecolors="black",
                linewidths=0.4,
            )
        ax.set_title(title, fontsize=TITLE_SIZE)
        ax.set(xticks=[], yticks=[])
    handles, labels = axes[0].get_legend_handles_labels()
    options = {"ncols": min(6, len(names)), "frameon": False, "fontsize": NOTE_SIZE}
    figure.legend(handles, labels, loc="outside lower center", **options)
    return figure
