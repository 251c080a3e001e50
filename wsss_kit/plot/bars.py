"""IoU as bars: methods class by class, or step by step, with intervals and protocol."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.evaluation import Report
from wsss_kit.plot.canvas import NOTE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")


def iou_bars(reports: Mapping[str, Report]) -> Figure:
    """IoU of each class as bars, one for each report, with their protocol below.

    Args:
        reports: method to its report; all over the same classes.

    Returns:
        The figure. The legend holds each mIoU with its 95 % interval; the bars named "mean" show
        the same.

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
    width = max(7.0, 1.5 + len(ticks) * (0.3 + 0.15 * len(reports)))
    height = 3.6 + 0.2 * len(reports)
    figure = new_figure(width, height, alt=f"Bars of IoU in percent by class. {alt}")
    ax = figure.add_subplot()
    _draw_bars(ax, reports)
    ax.axvline(len(ticks) - 1.5, color="grey", linewidth=0.8, linestyle=":")
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    _finish_axis(ax, ticks, "IoU in percent", **(slanted if len(ticks) > 9 else {}))
    figure.legend(loc="outside upper left", fontsize=9, frameon=False)
    caption = _protocol_caption(reports, int(figure.get_figwidth() * 16))
    figure.supxlabel(caption, fontsize=NOTE_SIZE, x=0.01, ha="left")
    return figure


def step_bars(series: Mapping[str, Mapping[str, Report]]) -> Figure:
    """Bars of mIoU, one group for each step of a method, one bar in it for each series.

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
    words = {
        name: ", ".join(f"{step} {100 * r.mean_iou:.1f}" for step, r in reports.items())
        for name, reports in series.items()
    }
    alt = " ".join(f"{name}: {listing}." for name, listing in words.items())
    width = max(6.0, 1.0 + len(steps) * (0.5 + 0.45 * len(series)))
    figure = new_figure(width, 4.0, alt=f"Bars of mIoU in percent by step. {alt}")
    ax = figure.add_subplot()
    for index, (name, reports) in enumerate(series.items()):
        left, bar, style = _place_and_style(len(steps), index, len(series))
        heights = 100 * np.array([report.mean_iou for report in reports.values()])
        ax.bar(left, heights, bar, label=name, **style)
        for x, report in zip(left, reports.values(), strict=True):
            top = _whisker(ax, x, report)
            ax.text(x, top + 1, f"{100 * report.mean_iou:.1f}", ha="center", fontsize=NOTE_SIZE)
    _finish_axis(ax, [textwrap.fill(step, 16) for step in steps], "mIoU in percent")
    figure.legend(loc="outside upper left", ncols=len(series), fontsize=9, frameon=False)
    every = [report for reports in series.values() for report in reports.values()]
    caption = textwrap.fill(_in_common(every), int(width * 16))
    figure.supxlabel(caption, fontsize=NOTE_SIZE, x=0.01, ha="left")
    return figure


def _place_and_style(n_groups: int, index: int, n_bars: int) -> tuple[np.ndarray, float, dict]:
    """Middles of the bars of one series, their width, and how they are drawn."""
    from matplotlib import colormaps

    shade = colormaps["cividis"](np.linspace(0.95, 0.35, n_bars))[index]
    bar = 0.8 / n_bars
    middles = np.arange(n_groups) + (index - (n_bars - 1) / 2) * bar
    style = {"color": shade, "hatch": HATCHES[index % len(HATCHES)]}
    return middles, bar, style | {"edgecolor": "black", "linewidth": 0.6}


def _whisker(ax: Axes, x: float, report: Report) -> float:
    """Draw the interval of a report's mIoU where there is one; returns the top of it all."""
    height = 100 * report.mean_iou
    spread = np.abs(100 * np.array(report.interval) - height)[:, None]  # (2, 1)
    if not np.isfinite(spread).all():
        return height
    ax.errorbar([x], [height], spread, color="black", capsize=3, fmt="none")
    return height + spread[1, 0]


def _finish_axis(ax: Axes, ticks: list[str], y: str, **slanted: object) -> None:
    ax.set(xlim=(-0.6, len(ticks) - 0.4), ylim=(0, 100), ylabel=y)
    ax.set_xticks(range(len(ticks)), ticks, **slanted)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.set_axisbelow(True)


def _in_common(reports: Sequence[Report]) -> str:
    """What the protocols of all reports agree on; the rest varies from bar to bar."""
    first, *others = [report.protocol for report in reports]
    varied = {
        field.name: "varies"
        for field in dataclasses.fields(first)
        if any(getattr(first, field.name) != getattr(other, field.name) for other in others)
    }
    return str(dataclasses.replace(first, **varied))


def _draw_bars(ax: Axes, reports: Mapping[str, Report]) -> None:
    """One group of bars for each class and one for the mean, which also gets its interval."""
    for index, (name, report) in enumerate(reports.items()):
        heights = 100 * np.array([*report.iou, report.mean_iou])
        left, bar, style = _place_and_style(len(heights), index, len(reports))
        ax.bar(left, np.nan_to_num(heights), bar, label=f"{name}: {report.headline}", **style)
        for x in left[np.isnan(heights)]:
            ax.text(x, 1, "absent", rotation=90, ha="center", va="bottom", fontsize=NOTE_SIZE)
        _whisker(ax, left[-1], report)


def _protocol_caption(reports: Mapping[str, Report], wrap: int) -> str:
    """The protocol of all reports, or one line for each where they differ."""
    lines = [f"{name}: {report.protocol}" for name, report in reports.items()]
    if len({report.protocol for report in reports.values()}) == 1:
        lines = [str(report.protocol) for report in reports.values()][:1]
    return "\n".join(textwrap.fill(line, wrap) for line in lines)


def _listing(report: Report) -> str:
    """The IoU of each class in words, for the alt text."""
    return ", ".join(f"{name} {iou}" for name, iou, *_ in report.rows()[:-1])
