"""Bars of IoU: class by class, step by step, and the difference of two methods."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.evaluation import Comparison, Report
from wsss_kit.plot.canvas import MAX_WIDTH, NOTE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

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
        >>> masks, protocol = {"a": torch.tensor([[0, 1]])}, Protocol("one picture", "val")
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
            raise ValueError(
                f"{first_name!r} scores {first.classes} but {name!r} {report.classes}; "
                "evaluate both with the same classes"
            )
    ticks = [*first.classes, "mean"]
    alt = " ".join(f"{name}: {r.headline} ({_listing(r)})." for name, r in reports.items())
    width = min(MAX_WIDTH, max(7.0, 1.5 + len(ticks) * (0.3 + 0.15 * len(reports))))
    longest = max(len(f"{name}: {report.headline}") for name, report in reports.items())
    columns = max(1, int(width / (0.5 + 0.06 * longest)))
    height = 3.8 + 0.2 * math.ceil(len(reports) / columns)
    figure = new_figure(width, height, alt=f"Bars of IoU in percent by class. {alt}")
    ax = figure.add_subplot()
    heights = {
        f"{name}: {report.headline}": 100 * np.array([*report.iou, report.mean_iou])
        for name, report in reports.items()
    }
    for bars, report in zip(_draw_bars(ax, ticks, heights), reports.values(), strict=True):
        for bar, iou in zip(bars, report.iou, strict=False):
            if np.isnan(iou):
                style = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": NOTE_SIZE}
                ax.text(_middle(bar), 1, "absent", **style)
        _whisker(ax, _middle(bars[-1]), report)
    ax.set_ylabel("IoU in percent")
    ax.axvline(len(ticks) - 1.5, color="grey", linewidth=0.8, linestyle=":")
    if len(ticks) > 9:
        ax.set_xticks(range(len(ticks)), ticks, rotation=45, ha="right", rotation_mode="anchor")
    figure.legend(loc="outside upper left", ncols=columns, fontsize=NOTE_SIZE, frameon=False)
    protocols = dict.fromkeys(str(report.protocol) for report in reports.values())
    if len(protocols) == 1 or len(reports) > 2:
        _caption(figure, _in_common(list(reports.values())))
    else:
        _caption(figure, "; ".join(f"{name}: {r.protocol}" for name, r in reports.items()))
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
        >>> masks, protocol = {"a": torch.tensor([[0, 1]])}, Protocol("one picture", "val")
        >>> report = evaluate(masks, masks, classes=("cow",), protocol=protocol, n_bootstrap=0)
        >>> step_bars({"no CRF": {"logit": report, "softmax": report}}).get_label()
        'Bars of mIoU in percent by step. no CRF: logit 100.0, softmax 100.0.'
    """
    steps = list(next(iter(series.values()), {}))
    if not steps:
        raise ValueError("series is empty, expected at least one with a step and its report")
    for name, reports in series.items():
        if list(reports) != steps:
            raise ValueError(
                f"{name!r} has the steps {', '.join(reports)}, expected {', '.join(steps)}, "
                "as the first series"
            )
    alt = " ".join(
        f"{name}: {', '.join(f'{step} {100 * r.mean_iou:.1f}' for step, r in reports.items())}."
        for name, reports in series.items()
    )
    width = max(6.0, 1.0 + len(steps) * (0.5 + 0.45 * len(series)))
    figure = new_figure(width, 4.0, alt=f"Bars of mIoU in percent by step. {alt}")
    ax = figure.add_subplot()
    heights = {
        name: 100 * np.array([report.mean_iou for report in reports.values()])
        for name, reports in series.items()
    }
    ticks = [textwrap.fill(step, 16) for step in steps]
    for bars, reports in zip(_draw_bars(ax, ticks, heights), series.values(), strict=True):
        for bar, report in zip(bars, reports.values(), strict=True):
            top = _whisker(ax, _middle(bar), report)
            number = f"{100 * report.mean_iou:.1f}"
            ax.text(_middle(bar), top + 1, number, ha="center", fontsize=NOTE_SIZE)
    ax.set_ylabel("mIoU in percent")
    figure.legend(loc="outside upper left", ncols=len(series), fontsize=9, frameon=False)
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
    bare_axis(ax)
    _caption(figure, "whiskers: 95 % intervals over images; hatched: the interval holds 0")
    return figure


def _draw_bars(
    ax: Axes, ticks: Sequence[str], heights: Mapping[str, np.ndarray]
) -> list[BarContainer]:
    """Draw one group of bars for each tick: one bar for each label, with its shade and hatch."""
    import seaborn as sns
    from matplotlib import colormaps

    sns.barplot(
        x=np.tile(np.arange(len(ticks)), len(heights)),
        y=np.nan_to_num(np.concatenate(list(heights.values()))),
        hue=np.repeat(list(heights), len(ticks)),
        palette=[*colormaps["cividis"](np.linspace(0.95, 0.35, len(heights)))],
        saturation=1,
        errorbar=None,
        legend=False,
        edgecolor="black",
        linewidth=0.6,
        ax=ax,
    )
    containers = list(ax.containers)
    for index, (bars, label) in enumerate(zip(containers, heights, strict=True)):
        bars.set_label(label)
        for bar in bars:
            bar.set_hatch(HATCHES[index % len(HATCHES)])
    ax.set_xticks(range(len(ticks)), ticks)
    ax.set(ylim=(0, 100))
    bare_axis(ax)
    return containers


def bare_axis(ax: Axes) -> None:
    """Remove the frame of a chart but for its axes, and add a light grid behind it."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.set_axisbelow(True)


def _middle(bar: Rectangle) -> float:
    return bar.get_x() + bar.get_width() / 2


def _whisker(ax: Axes, x: float, report: Report) -> float:
    """Draw the interval of a report's mIoU if there is one, and return its upper end."""
    height = 100 * report.mean_iou
    spread = np.abs(100 * np.array(report.interval) - height)[:, None]  # (2, 1)
    if not np.isfinite(spread).all():
        return height
    ax.errorbar([x], [height], spread, color="black", capsize=3, fmt="none")
    return height + spread[1, 0]


def _in_common(reports: Sequence[Report]) -> str:
    """State what all protocols have in common; the rest "varies"."""
    first, *others = [report.protocol for report in reports]
    varied = {
        field.name: None if field.name == "n_images" else "varies"
        for field in dataclasses.fields(first)
        if any(getattr(first, field.name) != getattr(other, field.name) for other in others)
    }
    return str(dataclasses.replace(first, **varied))


def _listing(report: Report) -> str:
    """List the IoU of each class in words, for the alt text."""
    return ", ".join(f"{name} {iou}" for name, iou, *_ in report.rows()[:-1])


def _caption(figure: Figure, text: str) -> None:
    """Write a small text below the axes."""
    wrapped = textwrap.fill(text, int(figure.get_figwidth() * 16))
    figure.supxlabel(wrapped, fontsize=NOTE_SIZE, x=0.01, ha="left")
