"""Reports as bars of IoU, as a table, and as an HTML page that needs no other file."""

from __future__ import annotations

import base64
import dataclasses
import math
import platform
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.data.datasets import Dataset
from wsss_kit.evaluation import Comparison, Report
from wsss_kit.evaluation.report import percent
from wsss_kit.files import write_whole
from wsss_kit.plot import canvas
from wsss_kit.plot.charts import show_confusion, show_spills
from wsss_kit.plot.figures import show_errors, show_masks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGE = {"edgecolor": "black", "linewidth": 0.6}  # of a bar
BEFORE_MEAN = {"color": "grey", "linewidth": 0.8, "linestyle": ":"}  # the line before the mean
_UNSTATED = {"n_images": None, "stride": 1, "predicted_255": 0.0}  # numbers that vary
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
    first_name, first = next(iter(reports.items()))
    ticks, table, alt = [*first.classes, "mean"], {}, "Bars of IoU in percent by class."
    for name, report in reports.items():
        if report.classes != first.classes:
            problem = f"{first_name!r} scores {first.classes} but {name!r} {report.classes}"
            raise ValueError(f"{problem}; evaluate both with the same classes")
        of_classes = [(iou, math.nan, math.nan) for iou in report.iou]
        label = f"{name}: {report.headline}"
        table[label] = [*of_classes, (report.mean_iou, *report.interval)]
        listed = ", ".join(f"{name} {iou}" for name, iou, *_ in report.rows()[:-1])
        alt += f" {label} ({listed})."
    caption = "; ".join(f"{name}: {r.protocol}" for name, r in reports.items())
    if len({str(report.protocol) for report in reports.values()}) == 1 or len(reports) > 2:
        caption = _in_common(list(reports.values()))
    width = max(7.0, 1.5 + len(ticks) * (0.3 + 0.15 * len(table)))
    ax, middles, values = _draw_bars(table, ticks, width, caption, alt)
    for k, i in np.argwhere(np.isnan(values[..., 0])):
        style = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": canvas.NOTE_SIZE}
        ax.text(middles[k, i], 1, "absent", **style)
    ax.axvline(len(ticks) - 1.5, **BEFORE_MEAN)
    ax.set_ylabel("IoU in percent")
    return ax.figure


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
    table, alt = {}, "Bars of mIoU in percent by step."
    for name, reports in series.items():
        if list(reports) != steps:
            raise ValueError(f"{name!r} has the steps {[*reports]}, expected {steps}, as the first")
        table[name] = [(r.mean_iou, *r.interval) for r in reports.values()]
        listed = ", ".join(f"{step} {percent(r.mean_iou)}" for step, r in reports.items())
        alt += f" {name}: {listed}."
    caption = _in_common([r for reports in series.values() for r in reports.values()])
    width = max(6.0, 1.0 + len(steps) * (0.5 + 0.45 * len(series)))
    ax, middles, values = _draw_bars(table, steps, width, caption, alt)
    tops = np.fmax(values[..., 0], values[..., 2])
    for middle, top, mean in zip(middles.flat, tops.flat, values[..., 0].flat, strict=True):
        ax.text(middle, top + 1, f"{mean:.1f}", ha="center", fontsize=canvas.NOTE_SIZE)
    ax.set_ylabel("mIoU in percent")
    return ax.figure


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
    figure = canvas.new_figure(max(7.0, 1.5 + 0.5 * len(names)), 3.8, alt=alt)
    ax = figure.subplots()
    look: dict[str, Any] = {"color": np.where(sure, "#3b6a8f", "white")[known]}
    look["hatch"] = np.where(sure, "", "//")[known]
    ax.bar(known, values[known], 0.7, **look, **EDGE)
    _draw_intervals(ax, np.arange(len(names)), low, high)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.axvline(len(names) - 1.5, **BEFORE_MEAN)
    ax.set(ylabel=f"points of IoU,\n{second} minus {first}")
    _name_groups(ax, names, "whiskers: 95 % intervals over images; hatched: the interval holds 0")
    return figure


def rows_of(reports: Mapping[str, Report]) -> list[list[str]]:
    """Tabulate IoU in percent: a heading row, then one row for each method.

    Args:
        reports: method -> report; all of the same classes.

    Returns:
        Rows of texts; the last column is the mIoU with its 95 % interval.
    """
    rows = [["method", *next(iter(reports.values())).classes, "mIoU [95 %]"]]
    for name, report in reports.items():
        mean, low, high = map(percent, (report.mean_iou, *report.interval))
        rows.append([name, *map(percent, report.iou), f"{mean} [{low}, {high}]"])
    return rows


def table_text(reports: Mapping[str, Report]) -> str:
    """Format the table for a terminal, with one line of protocol for each method below it."""
    import pandas as pd

    heading, *rows = rows_of(reports)
    frame = pd.DataFrame(rows, columns=heading).set_index("method")
    table = frame.rename_axis(index=None, columns="method").to_string()
    return "\n".join([table, "", *(f"{name}: {r.protocol}" for name, r in reports.items())])


def write_report(
    path: str | Path,
    *,
    title: str,
    reports: Mapping[str, Report],
    figures: Mapping[str, Figure],
    notes: Sequence[str] = (),
    tables: Mapping[str, Sequence[Sequence[str]]] | None = None,
    beside: str | None = None,
) -> Path:
    """Write one HTML file that shows a report and needs no other file.

    The first figure leads the page, so give the one that says most, such as the masks. Then come
    the table of IoU, the protocols (folded), the other figures, the notes and the other tables.

    Args:
        path: the HTML file.
        title: its heading.
        reports: method -> report; may be empty.
        figures: caption -> figure, in the order of the page.
        notes: paragraphs.
        tables: caption -> rows of texts; the first row is the heading.
        beside: prefix of PNG files of the figures, ``PREFIX-1.png`` and so on, which are written
            into the same folder; None for no such files.

    Returns:
        The path.
    """
    from jinja2 import Template

    path, shown = Path(path), []
    for number, (caption, figure) in enumerate(figures.items(), 1):
        png = canvas.png_bytes(figure)
        data = base64.b64encode(png).decode()
        shown.append({"caption": caption, "alt": canvas.alt_text(figure), "data": data})
        if beside is not None:
            write_whole(path.with_name(f"{beside}-{number}.png"), png)
    methods: dict[str, list[str]] = {}  # each protocol once, with the methods that it belongs to
    for name, report in reports.items():
        methods.setdefault(str(report.protocol), []).append(name)
    text = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    page = Template(text, autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        title=title,
        figures=shown,
        scores=_table(rows_of(reports)) if reports else "",
        protocols=methods,
        notes=notes,
        tables={caption: _table(rows) for caption, rows in (tables or {}).items()},
        versions=f"Python {platform.python_version()}, torch {torch.__version__}",
    )
    return write_whole(path, page)


def report_figures(
    report: Report,
    samples: Dataset,
    predicted: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
) -> dict[str, Figure]:
    """Draw the first images, the worst with their errors, and confusions, by their captions."""
    first = samples_named(samples, [name for name in samples.names if name in target][:4])
    worst = samples_named(samples, [name for name, _ in report.worst[:6]])
    columns = {"masks": predicted, "ground truth": target}
    figures = {
        "The first images, not a choice.": show_masks(first, columns, report.values[1:]),
        "Kinds of errors, and the worst images.": show_errors(worst, predicted, target, report),
        "What each class is taken for.": show_confusion(report),
    }
    if report.stuff is not None:
        figures["What each class spills onto."] = show_spills(report)
    return figures


def samples_named(samples: Dataset, names: Sequence[str]) -> list[Sample]:
    """Read the samples of these names, in this order."""
    places = {name: i for i, name in enumerate(samples.names)}
    return [samples[places[name]] for name in names]


def _draw_bars(
    table: Mapping[str, Sequence[tuple[float, float, float]]],
    groups: Sequence[str],
    width: float,
    caption: str,
    alt: str,
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Draw groups of bars with their intervals, a legend above them and a caption below.

    Args:
        table: label of a series -> value, lower and upper bound of each group, in [0, 1] or NaN.
        groups: G names.
        width: of the figure in inches.
        caption: a small text.
        alt: the figure's alt text.

    Returns:
        The axes, the middles of the bars (K, G), and the table in percent (K, G, 3).
    """
    from matplotlib import colormaps

    values = 100 * np.array([*table.values()], float)
    (K, G, _), thickness = values.shape, 0.8 / len(table)
    middles = np.arange(G) + thickness * (np.arange(K)[:, None] - (K - 1) / 2)
    columns = max(1, int(min(width, canvas.MAX_WIDTH) / (0.5 + 0.06 * max(map(len, table)))))
    figure = canvas.new_figure(width, 3.8 + 0.2 * math.ceil(K / columns), alt=alt)
    ax, drawn = figure.add_subplot(xlim=(-0.5, G - 0.5), ylim=(0, 100)), {}
    shades = colormaps["cividis"](np.linspace(0.95, 0.35, K))
    for k, label in enumerate(table):
        heights, low, high = values[k].T
        look = {"color": shades[k], "hatch": HATCHES[k % len(HATCHES)], **EDGE}
        drawn[label] = ax.bar(middles[k], np.nan_to_num(heights), thickness, **look)
        _draw_intervals(ax, middles[k], low, high)
    _name_groups(ax, groups, caption)
    canvas.draw_legend(figure, drawn, columns)
    return ax, middles, values


def _draw_intervals(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Draw intervals as whiskers, none for NaN; a value may lie outside of its interval."""
    ax.errorbar(x, (low + high) / 2, (high - low) / 2, color="black", capsize=3, fmt="none")


def _name_groups(ax: Any, names: Sequence[str], caption: str) -> None:
    """Name groups of bars, and write a small text below them."""
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(names) > 9 else {}
    lines = [textwrap.fill(name, 16) for name in names]
    if slanted:
        lines = [textwrap.shorten(name, 24, placeholder="…") for name in names]
    ax.set_xticks(range(len(names)), lines, **slanted)
    canvas.bare_axis(ax)
    wrapped = textwrap.fill(caption, int(ax.figure.get_figwidth() * 16))
    ax.figure.supxlabel(wrapped, fontsize=canvas.NOTE_SIZE, x=0.01, ha="left")


def _in_common(reports: Sequence[Report]) -> str:
    """State what all protocols have in common; the rest "varies"."""
    protocols = [vars(report.protocol) for report in reports]
    names = [k for k, v in protocols[0].items() if any(p[k] != v for p in protocols)]
    varied: dict[str, Any] = {name: _UNSTATED.get(name, "varies") for name in names}
    return str(dataclasses.replace(reports[0].protocol, **varied))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Write an HTML table with escaped texts; columns of words are aligned to the left."""
    import pandas as pd

    heading, *body = rows
    number = re.compile(r"[-+]?[0-9.]*([0-9]|-)(\s|$)")
    words = any(not number.match(text) for row in body for text in row[1:])
    with pd.option_context("display.max_colwidth", None):  # the default cuts texts
        frame = pd.DataFrame(body, columns=list(heading))
        return frame.to_html(index=False, border=0, classes="words" if words else None)
