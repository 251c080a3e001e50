"""IoU as bars: methods beside each other, class by class, with intervals and protocol."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
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
    ax.set(xlim=(-0.6, len(ticks) - 0.4), ylim=(0, 100), ylabel="IoU in percent")
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(ticks)), ticks, **(slanted if len(ticks) > 9 else {}))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.set_axisbelow(True)
    figure.legend(loc="outside upper left", fontsize=9, frameon=False)
    caption = _protocol_caption(reports, int(figure.get_figwidth() * 16))
    figure.supxlabel(caption, fontsize=NOTE_SIZE, x=0.01, ha="left")
    return figure


def _draw_bars(ax: Axes, reports: Mapping[str, Report]) -> None:
    """One group of bars for each class and one for the mean, which also gets its interval."""
    from matplotlib import colormaps

    shades = colormaps["cividis"](np.linspace(0.95, 0.35, len(reports)))
    bar = 0.8 / len(reports)
    for index, (name, report) in enumerate(reports.items()):
        heights = 100 * np.array([*report.iou, report.mean_iou])
        left = np.arange(len(heights)) + (index - (len(reports) - 1) / 2) * bar
        style = {"color": shades[index], "hatch": HATCHES[index % len(HATCHES)]}
        style |= {"edgecolor": "black", "linewidth": 0.6}
        ax.bar(left, np.nan_to_num(heights), bar, label=f"{name}: {report.headline}", **style)
        for x in left[np.isnan(heights)]:
            ax.text(x, 1, "absent", rotation=90, ha="center", va="bottom", fontsize=NOTE_SIZE)
        spread = np.abs(100 * np.array(report.interval) - heights[-1])[:, None]  # (2, 1)
        if np.isfinite(spread).all():
            ax.errorbar(left[-1:], heights[-1:], spread, color="black", capsize=3, fmt="none")


def _protocol_caption(reports: Mapping[str, Report], wrap: int) -> str:
    """The protocol of all reports, or one line for each where they differ."""
    lines = [f"{name}: {report.protocol}" for name, report in reports.items()]
    if len({report.protocol for report in reports.values()}) == 1:
        lines = [str(report.protocol) for report in reports.values()][:1]
    return "\n".join(textwrap.fill(line, wrap) for line in lines)


def _listing(report: Report) -> str:
    """The IoU of each class in words, for the alt text."""
    return ", ".join(f"{name} {iou}" for name, iou, *_ in report.rows()[:-1])
