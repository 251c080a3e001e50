"""Charts of analysis: heat maps of errors, curves over a parameter, points on a plane."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.evaluation import Report, spills
from wsss_kit.plot.bars import bare_axis
from wsss_kit.plot.canvas import DISTINCT_COLOURS, NOTE_SIZE, TITLE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")

Curve = Mapping[float, float]
"""From the parameter to the number, in any order."""
_MAX_NAMED = 12  # classes whose cells are wide enough for a number


def show_confusion(report: Report) -> Figure:
    """Draw a heat map of predictions: each row is one class of the ground truth.

    Args:
        report: from `evaluate`.

    Returns:
        The figure: cells in percent of the row's pixels, the diagonal is the recall. Classes that
        are neither there nor predicted are left out.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> masks = [{"a": torch.tensor([[0, 0, 1, 1]])}, {"a": torch.tensor([[0, 0, 0, 1]])}]
        >>> report = evaluate(*masks, classes=("cow",), protocol=Protocol("one picture", "val"))
        >>> show_confusion(report).get_label()
        'Heat map of what each class is taken for, percent of its pixels. background: 67 \
background, 33 cow; cow: 100 cow.'
    """
    seen = np.flatnonzero(report.matrix.sum(0) + report.matrix.sum(1))  # the others say nothing
    names, matrix = [report.values[value] for value in seen], report.matrix[np.ix_(seen, seen)]
    with np.errstate(invalid="ignore"):
        share = 100 * matrix / matrix.sum(1, keepdims=True)
    words = _heat_words(share, names, names, least=5)
    figure = _heat_map(
        share,
        (names, names),
        alt=f"Heat map of what each class is taken for, percent of its pixels. {words}.",
        label="percent of the row",
        most=100,
    )
    figure.axes[0].set(xlabel="predicted", ylabel="ground truth")
    return figure


def show_spills(report: Report) -> Figure:
    """Draw a heat map of the kinds of background that each class spills onto.

    Args:
        report: from `evaluate` with ``stuff``.

    Returns:
        The figure: cells in points of the row's union, so that they read as lost IoU.

    Raises:
        ValueError: if the report knows no kinds of background.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> report = evaluate(
        ...     {"a": torch.tensor([[1, 0, 1, 1]])},
        ...     {"a": torch.tensor([[0, 0, 1, 1]])},
        ...     classes=("cow",),
        ...     protocol=Protocol("one picture", "val"),
        ...     boundary=0,
        ...     stuff={"a": torch.tensor([[0, 0, 255, 255]])},
        ...     stuff_names=("grass",),
        ... )
        >>> show_spills(report).get_label()
        'Heat map of what each class spills onto, in points of its union. cow: 33 grass.'
    """
    kinds, points = spills(report)
    words = _heat_words(points[1:], report.classes[1:], kinds, least=1)
    said = words or "nothing of a point or more"
    figure = _heat_map(
        points[1:],
        (report.classes[1:], kinds),
        alt=f"Heat map of what each class spills onto, in points of its union. {said}.",
        label="points of the class's union",
        most=max(1.0, float(np.nan_to_num(points).max())),
    )
    figure.axes[0].set(xlabel="kind of background", ylabel="class that spilled")
    return figure


def _heat_map(
    cells: np.ndarray,
    names: tuple[Sequence[str], Sequence[str]],
    *,
    alt: str,
    label: str,
    most: float,
) -> Figure:
    """Draw (R, C) cells with the names of rows and columns; NaN stays white."""
    import seaborn as sns

    height, width = (2.5 + 0.45 * len(side) for side in names)
    figure = new_figure(width + 1.0, height, alt=alt)
    ax = figure.subplots()
    sns.heatmap(
        cells,
        ax=ax,
        cmap="cividis",
        vmin=0,
        vmax=most,
        annot=max(map(len, names)) <= _MAX_NAMED + 1,
        fmt=".0f",
        annot_kws={"size": NOTE_SIZE},
        xticklabels=names[1],
        yticklabels=names[0],
        cbar_kws={"label": label},
        mask=np.isnan(cells),
    )
    ax.tick_params(axis="x", rotation=60)
    ax.tick_params(axis="y", rotation=0)
    return figure


def _heat_words(
    cells: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, least: float
) -> str:
    """Describe a heat map in words: the cells of each row of at least ``least``, largest first."""
    said = []
    for name, row in zip(rows, cells, strict=True):
        order = [j for j in np.argsort(-np.nan_to_num(row)) if row[j] >= least]
        if order:
            said.append(f"{name}: {', '.join(f'{row[j]:.0f} {columns[j]}' for j in order)}")
    return "; ".join(said)


def show_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    y: str,
    marked: Mapping[str, float] | None = None,
    log: bool = False,
    columns: int = 3,
) -> Figure:
    """Draw panels of curves over one y axis; line, marker and shade tell the curves apart.

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
            values = sorted({value for curve in curves.values() for value in curve})
            ax.set_xscale("log")
            ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.minorticks_off()
        if marked is not None and x in marked:
            ax.axvline(marked[x], linestyle=":", color="grey", linewidth=1)
        ax.set(xlabel=x, ylabel=y if ax in axes[:, 0] else None)
    if several:
        _legend(figure, axes.flat, "upper left", min(4, len(names)))
    return figure


def _draw_curves(ax: Axes, curves: Mapping[str, Curve], names: list[str]) -> None:
    """Draw each curve in the shade, line and marker of its place among all names."""
    from matplotlib import colormaps

    shades = colormaps["cividis"](np.linspace(0.1, 0.75, len(names)))
    for name, curve in curves.items():
        index = names.index(name)
        ax.plot(
            *zip(*sorted(curve.items()), strict=True),
            label=name,
            color=shades[index],
            linestyle=LINES[index % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
        )
    bare_axis(ax)
    ax.tick_params(labelsize=NOTE_SIZE)


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


def show_plane(panels: Mapping[str, tuple[Tensor, Sequence[str]]]) -> Figure:
    """Draw points on a plane, one panel for each title; colour and marker tell groups apart.

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
    _legend(figure, axes[:1], "lower center", min(6, len(names)))
    return figure


def _legend(figure: Figure, axes: Iterable[Axes], place: str, columns: int) -> None:
    """Add one legend of all labels on the axes, each label once."""
    handles = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    options = {"ncols": columns, "frameon": False, "fontsize": NOTE_SIZE}
    figure.legend(handles.values(), handles.keys(), loc=f"outside {place}", **options)
