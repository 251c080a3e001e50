"""A table of several reports, as text and as an HTML page that needs no other file."""

from __future__ import annotations

import base64
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wsss_kit.evaluation import Report
from wsss_kit.evaluation.report import percent
from wsss_kit.files import write_whole
from wsss_kit.plot import alt_text
from wsss_kit.plot.canvas import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rows_of(reports: Mapping[str, Report]) -> list[list[str]]:
    """Tabulate IoU in percent: a heading row, then one row for each method.

    Args:
        reports: method -> report; all of the same classes.

    Returns:
        Rows of texts; the last column is the mIoU with its 95 % interval.

    Raises:
        ValueError: if the reports have different classes.
    """
    first = next(iter(reports.values()))
    table = [["method", *first.classes, "mIoU [95 %]"]]
    for name, report in reports.items():
        if report.classes != first.classes:
            raise ValueError(f"{name} is over {report.classes}, the others over {first.classes}")
        mean, low, high = map(percent, (report.mean_iou, *report.interval))
        table.append([name, *map(percent, report.iou), f"{mean} [{low}, {high}]"])
    return table


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
    from jinja2 import Environment

    path, shown = Path(path), []
    for number, (caption, figure) in enumerate(figures.items(), 1):
        png = png_bytes(figure)
        data = base64.b64encode(png).decode()
        shown.append({"caption": caption, "alt": alt_text(figure), "data": data})
        if beside is not None:
            write_whole(path.with_name(f"{beside}-{number}.png"), png)
    methods: dict[str, list[str]] = {}  # each protocol once, with the methods that it belongs to
    for name, report in reports.items():
        methods.setdefault(str(report.protocol), []).append(name)
    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    text = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    template = Environment(**options).from_string(text)
    page = template.render(
        title=title,
        figures=shown,
        scores=_table(rows_of(reports)) if reports else "",
        protocols={", ".join(names): protocol for protocol, names in methods.items()},
        notes=notes,
        tables={caption: _table(rows) for caption, rows in (tables or {}).items()},
        versions=f"Python {platform.python_version()}, torch {torch.__version__}",
    )
    return write_whole(path, page)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Write an HTML table with escaped texts; columns of words are aligned to the left."""
    import pandas as pd

    heading, *body = rows
    number = re.compile(r"[-+]?[0-9.]*([0-9]|-)(\s|$)")
    words = any(not number.match(text) for row in body for text in row[1:])
    with pd.option_context("display.max_colwidth", None):  # the default cuts texts
        frame = pd.DataFrame(body, columns=heading)
        return frame.to_html(index=False, border=0, classes="words" if words else None)
