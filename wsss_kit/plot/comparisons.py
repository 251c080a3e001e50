"""Which class is taken for which or spills onto what, and where one method beats another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.evaluation import Comparison, Report, spills
from wsss_kit.plot.canvas import NOTE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 12  # values whose cells are wide enough for a number


def show_confusion(report: Report) -> Figure:
    """Heat map of what each class is taken for: each row is one class of the ground truth.

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
    """Heat map of what each class spills onto, away from borders, where background has kinds.

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
    """(R, C) cells with the names of rows and columns; NaN is left white."""
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
        annot=max(map(len, names)) <= _MOST_NAMED + 1,
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


def show_difference(comparison: Comparison, *, first: str, second: str) -> Figure:
    """Class by class, the second report minus the first, with intervals.

    Args:
        comparison: from `compare_reports`.
        first: name of the first method.
        second: of the second.

    Returns:
        The figure: bars in points, whiskers are 95 % intervals; a hatched bar's interval holds 0.
    """
    names = [*comparison.first.classes, "mean"]
    values = 100 * np.array([*comparison.by_class, comparison.difference])
    bounds = 100 * np.array([*comparison.by_class_interval, comparison.interval])  # (S + 1, 2)
    shown = np.isfinite(bounds).all(1)
    sure = shown & ((bounds[:, 0] > 0) | (bounds[:, 1] < 0))
    words = ", ".join(
        f"{name} {value:+.1f}{'' if is_sure else ' (not sure)'}"
        for name, value, is_sure in zip(names, values, sure, strict=True)
        if np.isfinite(value)
    )
    figure = new_figure(
        *(max(7.0, 1.5 + 0.5 * len(names)), 3.8),
        alt=f"Bars of the difference of IoU in points, {second} minus {first}. {words}.",
    )
    ax = figure.subplots()
    for place, (value, is_sure) in enumerate(zip(values, sure, strict=True)):
        if np.isfinite(value):
            style = {"facecolor": "#3b6a8f"} if is_sure else {"facecolor": "white", "hatch": "//"}
            ax.bar(place, value, 0.7, edgecolor="black", linewidth=0.6, **style)
    spread = np.abs(bounds[shown] - values[shown, None]).T
    ax.errorbar(
        np.arange(len(names))[shown], values[shown], spread, color="black", capsize=3, fmt="none"
    )
    ax.axhline(0, color="black", linewidth=0.8)
    ax.axvline(len(names) - 1.5, color="grey", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set(ylabel=f"points of IoU,\n{second} minus {first}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.set_axisbelow(True)
    figure.supxlabel(
        "whiskers: 95 % intervals over pictures; hatched: the interval holds 0",
        fontsize=NOTE_SIZE,
        x=0.01,
        ha="left",
    )
    return figure


def _heat_words(
    cells: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, least: float
) -> str:
    """A heat map in words: of each row what is at least so much, largest first."""
    said = []
    for name, row in zip(rows, cells, strict=True):
        order = [j for j in np.argsort(-np.nan_to_num(row)) if row[j] >= least]
        if order:
            said.append(f"{name}: {', '.join(f'{row[j]:.0f} {columns[j]}' for j in order)}")
    return "; ".join(said)
