"""Bars of IoU: class by class, step by step, and the difference of two methods."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.evaluation import Comparison, Report
from wsss_kit.evaluation.report import percent
from wsss_kit.plot.canvas import MAX_WIDTH, NOTE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")


def iou_bars(reports: Mapping[str, Report]) -> Figure:
    """Draw the IoU of each class as bars, one for each report.

    Args:
        reports: method to its report; all over the same classes.

    Returns:
        The figure. The legend holds each mIoU with its 95 % interval; the bars named "mean" show
        the same. Below stands the protocol, or what the protocols of more than two reports share.

    Raises:
        ValueError: if there is no report, or the reports score different classes.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> masks, protocol = {"a": torch.tensor([[0, 1]])}, Protocol("one image", "val")
        >>> report = evaluate(masks, masks, classes=("cow",), protocol=protocol, n_bootstrap=0)
        >>> iou_bars({"CAM": report}).get_label()
        'Bars of IoU in percent by class. CAM: mIoU 100.0 %, mean of 2 values \
(background 100.0, cow 100.0).'
    """
    if not reports:
        raise ValueError("reports is empty, expected at least one method with its report")
    (first_name, first), *others = reports.items()
    for name, report in others:
        if report.classes != first.classes:
            problem = f"{first_name!r} scores {first.classes} but {name!r} {report.classes}"
            raise ValueError(f"{problem}; evaluate both with the same classes")
    ticks, table, alt = [*first.classes, "mean"], {}, "Bars of IoU in percent by class."
    for name, report in reports.items():
        of_classes = [(iou, math.nan, math.nan) for iou in report.iou]
        label = f"{name}: {report.headline}"
        table[label] = [*of_classes, (report.mean_iou, *report.interval)]
        listed = ", ".join(f"{name} {iou}" for name, iou, *_ in report.rows()[:-1])
        alt += f" {label} ({listed})."
    width = min(MAX_WIDTH, max(7.0, 1.5 + len(ticks) * (0.3 + 0.15 * len(table))))
    columns = max(1, int(width / (0.5 + 0.06 * max(map(len, table)))))
    figure = new_figure(width, 3.8 + 0.2 * math.ceil(len(table) / columns), alt=alt)
    ax, middles, values = _draw_bars(figure, table, columns)
    for k, i in np.argwhere(np.isnan(values[..., 0])):
        style = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": NOTE_SIZE}
        ax.text(middles[k, i], 1, "absent", **style)
    ax.set_ylabel("IoU in percent")
    _name_classes(ax, ticks)
    caption = "; ".join(f"{name}: {r.protocol}" for name, r in reports.items())
    if len({str(report.protocol) for report in reports.values()}) == 1 or len(reports) > 2:
        caption = _in_common(list(reports.values()))
    _caption(figure, caption)
    return figure


def step_bars(series: Mapping[str, Mapping[str, Report]]) -> Figure:
    """Draw bars of mIoU: one group for each step of a method, one bar in it for each series.

    Args:
        series: name, such as "with CRF" -> step, such as "softmax" -> its report. Every series has
            the same steps.

    Returns:
        The figure, with the number and its 95 % interval on each bar, and below the axis what all
        protocols have in common.

    Raises:
        ValueError: if there is no report, or the series have different steps.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> masks, protocol = {"a": torch.tensor([[0, 1]])}, Protocol("one image", "val")
        >>> report = evaluate(masks, masks, classes=("cow",), protocol=protocol, n_bootstrap=0)
        >>> step_bars({"no CRF": {"logit": report, "softmax": report}}).get_label()
        'Bars of mIoU in percent by step. no CRF: logit 100.0, softmax 100.0.'
    """
    steps = list(next(iter(series.values()), {}))
    if not steps:
        raise ValueError("series is empty, expected at least one with a step and its report")
    for name, reports in series.items():
        if list(reports) != steps:
            raise ValueError(f"{name!r} has the steps {[*reports]}, expected {steps}, as the first")
    table, alt = {}, "Bars of mIoU in percent by step."
    for name, reports in series.items():
        table[name] = [(r.mean_iou, *r.interval) for r in reports.values()]
        listed = ", ".join(f"{step} {percent(r.mean_iou)}" for step, r in reports.items())
        alt += f" {name}: {listed}."
    figure = new_figure(max(6.0, 1.0 + len(steps) * (0.5 + 0.45 * len(series))), 4.0, alt=alt)
    ax, middles, values = _draw_bars(figure, table, len(series))
    tops = np.fmax(values[..., 0], values[..., 2])
    for middle, top, mean in zip(middles.flat, tops.flat, values[..., 0].flat, strict=True):
        ax.text(middle, top + 1, f"{mean:.1f}", ha="center", fontsize=NOTE_SIZE)
    ax.set_ylabel("mIoU in percent")
    ax.set_xticks(range(len(steps)), [textwrap.fill(step, 16) for step in steps])
    _caption(figure, _in_common([r for reports in series.values() for r in reports.values()]))
    return figure


def show_difference(comparison: Comparison, *, first: str, second: str) -> Figure:
    """Draw the second report minus the first, class by class, with intervals.

    Args:
        comparison: from `compare_reports`.
        first: name of the first method.
        second: of the second.

    Returns:
        The figure: bars in points, whiskers are 95 % intervals; a hatched bar's interval holds 0.
    """
    names = [*comparison.first.classes, "mean"]
    values = 100 * np.array([*comparison.by_class, comparison.difference])
    low, high = 100 * np.array([*comparison.by_class_interval, comparison.interval]).T
    sure = (low > 0) | (high < 0)
    known = np.flatnonzero(np.isfinite(values))
    words = (f"{names[i]} {values[i]:+.1f}{'' if sure[i] else ' (not sure)'}" for i in known)
    alt = f"Bars of the difference of IoU in points, {second} minus {first}. {', '.join(words)}."
    figure = new_figure(max(7.0, 1.5 + 0.5 * len(names)), 3.8, alt=alt)
    ax = figure.subplots()
    look = {"edgecolor": "black", "linewidth": 0.6}
    look["color"] = ["#3b6a8f" if sure[i] else "white" for i in known]
    ax.bar(known, values[known], 0.7, hatch=["" if sure[i] else "//" for i in known], **look)
    _draw_intervals(ax, np.arange(len(names)), low, high)
    ax.axhline(0, color="black", linewidth=0.8)
    _name_classes(ax, names)
    ax.set(ylabel=f"points of IoU,\n{second} minus {first}")
    bare_axis(ax)
    _caption(figure, "whiskers: 95 % intervals over images; hatched: the interval holds 0")
    return figure


def _draw_bars(
    figure: Figure, table: Mapping[str, Sequence[tuple[float, float, float]]], columns: int
) -> tuple[Axes, np.ndarray, np.ndarray]:
    """Draw groups of bars with their intervals and a legend above.

    Args:
        figure: an empty one.
        table: label of a series -> value, lower and upper bound of each group, in [0, 1] or NaN.
        columns: of the legend.

    Returns:
        The axes, the middles of the bars (K, G), and the table in percent (K, G, 3).
    """
    from matplotlib import colormaps

    values = 100 * np.array([*table.values()], float)
    (K, G, _), width = values.shape, 0.8 / len(table)
    middles = np.arange(G) + width * (np.arange(K)[:, None] - (K - 1) / 2)
    shades = colormaps["cividis"](np.linspace(0.95, 0.35, K))
    ax = figure.add_subplot()
    for k, label in enumerate(table):
        heights, low, high = values[k].T
        look = {"color": shades[k], "hatch": HATCHES[k % len(HATCHES)], "edgecolor": "black"}
        ax.bar(middles[k], np.nan_to_num(heights), width, linewidth=0.6, label=label, **look)
        _draw_intervals(ax, middles[k], low, high)
    ax.set(xlim=(-0.5, G - 0.5), ylim=(0, 100))
    bare_axis(ax)
    figure.legend(loc="outside upper left", ncols=columns, fontsize=NOTE_SIZE, frameon=False)
    return ax, middles, values


def _draw_intervals(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Draw intervals as whiskers, none for NaN; a value may lie outside of its interval."""
    ax.errorbar(x, (low + high) / 2, (high - low) / 2, color="black", capsize=3, fmt="none")


def _name_classes(ax: Axes, names: Sequence[str]) -> None:
    """Name the groups of bars; a dotted line stands before the last, the mean."""
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(names) > 9 else {}
    ax.set_xticks(range(len(names)), names, **slanted)
    ax.axvline(len(names) - 1.5, color="grey", linewidth=0.8, linestyle=":")


def bare_axis(ax: Axes) -> None:
    """Remove the frame of a chart but for its axes, and add a light grid behind it."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.set_axisbelow(True)


def _in_common(reports: Sequence[Report]) -> str:
    """State what all protocols have in common; the rest "varies"."""
    first, *others = [report.protocol for report in reports]
    varied = {
        field.name: None if field.name == "n_images" else "varies"
        for field in dataclasses.fields(first)
        if any(getattr(first, field.name) != getattr(other, field.name) for other in others)
    }
    return str(dataclasses.replace(first, **varied))


def _caption(figure: Figure, text: str) -> None:
    """Write a small text below the axes."""
    wrapped = textwrap.fill(text, int(figure.get_figwidth() * 16))
    figure.supxlabel(wrapped, fontsize=NOTE_SIZE, x=0.01, ha="left")
