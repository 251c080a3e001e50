"""Curves: how a number moves when one parameter does, a panel for each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.checks import check_count
from wsss_kit.plot.canvas import NOTE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")

Curve = Mapping[float, float]
"""From the parameter to the number, in any order."""


def show_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    y: str,
    marked: Mapping[str, float] | None = None,
    log: bool = False,
    columns: int = 3,
) -> Figure:
    """Panels of curves over one y axis; line, marker and shade tell the curves apart.

    Args:
        panels: label of a panel's x axis -> curve's name -> its points.
        y: label of the y axis.
        marked: label of an x axis -> value at which a dotted line stands, such as the one in use.
        log: whether x axes are logarithmic; all values must then be positive.
        columns: panels in a row.

    Returns:
        The figure, with one legend where there are several curves.

    Raises:
        ValueError: if there is no panel, a curve has no point, ``columns`` is no count, or an x
            is not above 0 on a logarithmic axis.

    Example:
        >>> figure = show_curves({"threshold": {"CAM": {0.1: 40.0, 0.3: 61.5}}}, y="mIoU, percent")
        >>> figure.get_label()
        'mIoU, percent against threshold. CAM: 40 at 0.1, highest 61.5 at 0.3, 61.5 at 0.3.'
    """
    check_count("columns", columns)
    if not panels or not all(curves and all(curves.values()) for curves in panels.values()):
        raise ValueError(f"panels is {panels}, expected curves with at least one point in each")
    every = [x for curves in panels.values() for curve in curves.values() for x in curve]
    if log and min(every) <= 0:
        raise ValueError(
            f"log is True and an x is {min(every)}, expected x above 0 on such an axis"
        )
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    several = len(names) > 1
    width = 5.5 if columns == 1 else 3.6 * columns
    figure = new_figure(
        width,
        (3.0 if columns == 1 else 2.5) * rows + 0.3 * several,
        alt=" ".join(f"{y} against {x}. {_in_words(curves)}" for x, curves in panels.items()),
    )
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (x, curves) in zip(axes.flat, panels.items(), strict=False):
        _draw_curves(ax, curves, names)
        if log:
            _log_axis(ax, curves)
        if marked is not None and x in marked:
            ax.axvline(marked[x], linestyle=":", color="grey", linewidth=1)
        ax.set_xlabel(x)
    for ax in axes[:, 0]:
        ax.set_ylabel(y)
    if several:
        handles = {
            label: handle
            for ax in axes.flat
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper left",
            ncols=min(4, len(names)),
            frameon=False,
            fontsize=9,
        )
    return figure


def _draw_curves(ax: Axes, curves: Mapping[str, Curve], names: list[str]) -> None:
    from matplotlib import colormaps

    shades = colormaps["cividis"](np.linspace(0.1, 0.75, len(names)))
    for name, curve in curves.items():
        index, points = names.index(name), sorted(curve.items())
        ax.plot(
            *zip(*points, strict=True),
            label=name,
            color=shades[index],
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
        )
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.tick_params(labelsize=NOTE_SIZE)


def _log_axis(ax: Axes, curves: Mapping[str, Curve]) -> None:
    """A logarithmic x axis whose ticks are the values themselves."""
    values = sorted({x for curve in curves.values() for x in curve})
    ax.set_xscale("log")
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()


def _in_words(curves: Mapping[str, Curve]) -> str:
    parts = []
    for name, curve in curves.items():
        first, last = min(curve), max(curve)
        best = max(curve, key=lambda x: curve[x])
        parts.append(
            f"{name}: {curve[first]:.3g} at {first:.3g}, highest {curve[best]:.3g} at {best:.3g}, "
            f"{curve[last]:.3g} at {last:.3g}."
        )
    return " ".join(parts)
