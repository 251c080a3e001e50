"""Which class is taken for which, and where one method is better than another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.evaluation import Comparison, Report
from wsss_kit.plot.canvas import NOTE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 12  # values whose cells are wide enough for a number


def show_confusion(report: Report, *, classes: tuple[str, ...] | None = None) -> Figure:
    """Heat map of what each class is taken for: each row is one class of the ground truth.

    Args:
        report: from `evaluate`.
        classes: names without background of all values of the masks; needed where the report
            scored only some of them.

    Returns:
        The figure: cells in percent of the row's pixels, the diagonal is the recall.

    Raises:
        ValueError: if ``classes`` are needed and not given, or of another number.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> masks = [{"a": torch.tensor([[0, 0, 1, 1]])}, {"a": torch.tensor([[0, 0, 0, 1]])}]
        >>> report = evaluate(*masks, classes=("cow",), protocol=Protocol("one picture", "val"))
        >>> show_confusion(report).get_label()
        'Heat map of what each class is taken for, percent of its pixels. background: 67 \
background, 33 cow; cow: 100 cow.'
    """
    import seaborn as sns

    K = len(report.matrix)
    names = report.classes if classes is None else ("background", *classes)
    if len(names) != K:
        raise ValueError(
            f"there are {len(names)} names for {K} values of the masks; give classes, all of them "
            "without background"
        )
    totals = report.matrix.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        share = 100 * report.matrix / totals  # (K, K)
    size = 2.5 + 0.45 * K
    figure = new_figure(size + 1.0, size, alt=_confusion_words(share, names))
    ax = figure.subplots()
    named = K <= _MOST_NAMED
    sns.heatmap(
        share,
        ax=ax,
        cmap="cividis",
        vmin=0,
        vmax=100,
        annot=named,
        fmt=".0f",
        annot_kws={"size": NOTE_SIZE},
        xticklabels=names,
        yticklabels=names,
        cbar_kws={"label": "percent of the row"},
        mask=np.isnan(share),
    )
    ax.set(xlabel="predicted", ylabel="ground truth")
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


def _confusion_words(share: np.ndarray, names: tuple[str, ...]) -> str:
    """The heat map in words: of each row what is at least five percent, largest first."""
    rows = []
    for name, row in zip(names, share, strict=True):
        order = [j for j in np.argsort(-np.nan_to_num(row)) if row[j] >= 5]
        if order:
            parts = ", ".join(f"{row[j]:.0f} {names[j]}" for j in order)
            rows.append(f"{name}: {parts}")
    text = "; ".join(rows)
    return f"Heat map of what each class is taken for, percent of its pixels. {text}."
