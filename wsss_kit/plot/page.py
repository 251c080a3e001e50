"""One table over several reports, as text and as a self-contained HTML page."""

from __future__ import annotations

import base64
import platform
import re
from collections.abc import Mapping, Sequence
from html import escape
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

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1.5rem 0;
  display: block; overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child, td:first-child, td.words { text-align: left; }
figure { margin: 2rem 0; } img { max-width: 100%; }
p { white-space: pre-line; }
.protocol { color: #444; font-size: .9rem; } pre { background: #f4f4f4; padding: .8rem; }
"""
_NUMBER = re.compile(r"[-+]?[0-9.]*([0-9]|-)(\s|$)")


def rows_of(reports: Mapping[str, Report]) -> list[list[str]]:
    """Methods by classes: a heading row, then one row a method, IoU and mIoU in percent.

    Args:
        reports: name of the method -> its report; all over the same classes.

    Returns:
        Texts; the last column is the mIoU with its 95 % interval.

    Raises:
        ValueError: if the reports are over different classes.
    """
    first = next(iter(reports.values()))
    table = [["method", *first.classes, "mIoU [95 %]"]]
    for name, report in reports.items():
        if report.classes != first.classes:
            raise ValueError(f"{name} is over {report.classes}, the others over {first.classes}")
        low, high = report.interval
        mean = f"{100 * report.mean_iou:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        table.append([name, *map(percent, report.iou), mean])
    return table


def table_text(reports: Mapping[str, Report]) -> str:
    """The table for a terminal, with one line of protocol a method below it."""
    table = rows_of(reports)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    lines.insert(1, "-" * len(lines[0]))
    protocols = [f"{name}: {report.protocol}" for name, report in reports.items()]
    return "\n".join([*lines, "", *protocols])


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
    """A page that needs nothing beside itself: table, protocols, notes, figures with alt text.

    Args:
        path: of the HTML file.
        title: its heading.
        reports: method -> report; none for a page without scores.
        figures: caption -> figure.
        notes: paragraphs under the table.
        tables: caption -> rows of texts, the first of them the heading; they follow the notes.
        beside: what the figures are called that are written beside the page too, as PNG with a
            number; None for none.

    Returns:
        The path.
    """
    path = Path(path)
    parts = [f"<h1>{escape(title)}</h1>", *(_table(rows_of(reports)) if reports else ())]
    parts += [
        f'<p class="protocol">{escape(name)}: {escape(str(report.protocol))}</p>'
        for name, report in reports.items()
    ]
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    for caption, rows in (tables or {}).items():
        parts += _table(rows, caption)
    for number, (caption, figure) in enumerate(figures.items(), 1):
        png = png_bytes(figure)
        parts.append(_figure(caption, alt_text(figure), png))
        if beside is not None:
            write_whole(path.with_name(f"{beside}-{number}.png"), png)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    parts.append(f'<p class="protocol">{escape(versions)}</p>')
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    return write_whole(path, page)


def _table(rows: Sequence[Sequence[str]], caption: str = "") -> list[str]:
    heading, *body = rows
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    parts = [f"<table>{said}<thead>", _row(heading, "th"), "</thead><tbody>"]
    return [*parts, *(_row(row, "td") for row in body), "</tbody></table>"]


def _row(texts: Sequence[str], cell: str) -> str:
    """Cells of a row; those that hold words and no number are set from the left."""
    kinds = ["" if cell == "th" or _NUMBER.match(text) else ' class="words"' for text in texts]
    cells = (f"<{cell}{k}>{escape(t)}</{cell}>" for k, t in zip(kinds, texts, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _figure(caption: str, alt: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
