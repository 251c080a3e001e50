"""The page of a whole run: its steps in one table, what each gained, what is wrong at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.evaluation import (
    ERROR_KINDS,
    Published,
    Report,
    beside_published,
    compare_reports,
    error_sources,
    explain_gap,
)
from wsss_kit.evaluation.bootstrap import mean_of
from wsss_kit.evaluation.report import percent
from wsss_kit.plot import (
    iou_bars,
    show_confusion,
    show_curves,
    show_difference,
    show_errors,
    show_masks,
    show_spills,
)
from wsss_kit.plot.page import write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXAMPLES, _WORST, _SOURCES = 4, 6, 12


class Run(NamedTuple):
    """What a run hands on to its page.

    Args:
        reports: step -> report, in order; the last one is what the page is about.
        masks: step -> picture name to (H, W) int64, of the steps that score ``samples``.
        samples: the pictures that the last report scores.
        target: picture name to (H, W) int64, their ground truth.
        losses: of each pass of the segmenter over its pictures.
        notes: paragraphs.
    """

    reports: Mapping[str, Report]
    masks: Mapping[str, Mapping[str, Tensor]]
    samples: Sequence[Sample]
    target: Mapping[str, Tensor]
    losses: Sequence[float] = ()
    notes: Sequence[str] = ()


def write_run(path: str | Path, run: Run, *, title: str, row: Published | None = None) -> Path:
    """One page for a run from maps to the last step, that needs nothing beside itself.

    Tables: IoU of every class and step; what each step gained, paired; kinds of errors; the largest
    errors of the last step and their other side; ours beside what is published. Figures: masks of
    the first pictures, the worst pictures with their errors, who is taken for whom.

    Args:
        path: of the HTML file.
        run: see `Run`.
        title: its heading.
        row: the published number that was to be reached.

    Returns:
        The path.

    Raises:
        ValueError: if there is no report, or reports are over different classes.
    """
    if not run.reports:
        raise ValueError("reports is empty, expected at least one step with its report")
    last = list(run.reports.values())[-1]
    tables = {
        "What each step gained, the same pictures paired": _gains(run.reports),
        "What each kind of error takes, mean over the classes, in points": _kinds(run.reports),
        f"The {_SOURCES} largest errors of the last step": _sources(last),
    }
    notes = list(run.notes)
    if row is not None and row.percent is not None:
        tables["Ours beside what is published, percent"] = _published(last, row)
        notes.append(str(explain_gap(last, row)))
    tables = {caption: rows for caption, rows in tables.items() if len(rows) > 1}
    figures = _figures(run)
    return write_report(
        path, title=title, reports=run.reports, figures=figures, notes=notes, tables=tables
    )


def _gains(reports: Mapping[str, Report]) -> list[list[str]]:
    rows = [["step", "points", "95 % interval", "pictures better", "worse"]]
    for (before, first), (after, second) in pairwise(reports.items()):
        if set(first.names) != set(second.names):
            continue
        found = compare_reports(first, second)
        low, high = (100 * bound for bound in found.interval)
        rows.append(
            [
                f"{before} to {after}",
                f"{100 * found.difference:+.1f}",
                f"{low:+.1f} to {high:+.1f}",
                *(str(found.better), str(found.worse)),
            ]
        )
    return rows


def _kinds(reports: Mapping[str, Report]) -> list[list[str]]:
    rows = [["step", *ERROR_KINDS, "mIoU"]]
    for step, report in reports.items():
        shares = mean_of(report.error_shares.T)
        rows.append([step, *map(percent, shares), percent(report.mean_iou)])
    return rows


def _sources(report: Report) -> list[list[str]]:
    frame = error_sources(report).nlargest(_SOURCES, "points")
    rows = [["class", "kind", "with", "points of the class's union"]]
    return rows + [[a, kind, b, f"{points:.1f}"] for a, kind, b, points in frame.to_numpy()]


def _published(report: Report, row: Published) -> list[list[str]]:
    rows = [["row", "published", "ours", "difference", "same protocol?"]]
    for found in beside_published(report, method=row.method, what=row.what).itertuples():
        numbers = [f"{found.published:.1f}", f"{found.ours:.1f}", f"{found.difference:+.1f}"]
        rows.append([found.Index, *numbers, found[-1]])
    return rows


def _figures(run: Run) -> dict[str, Figure]:
    reports, samples, masks = run.reports, run.samples, run.masks
    (start, first), (step, last) = (list(reports.items())[i] for i in (0, -1))
    classes = last.values[1:]
    figures = {}
    if step in masks and len(samples):
        shown = [samples[i] for i in range(min(_EXAMPLES, len(samples)))]
        columns = {**masks, "ground truth": run.target}
        figures["The first pictures, not a choice."] = show_masks(shown, columns, classes)
        worst = {name for name, _ in last.worst[:_WORST]}
        names = getattr(samples, "names", None) or [sample.name for sample in samples]
        bad = [samples[i] for i, name in enumerate(names) if name in worst]
        bad.sort(key=lambda sample: last.image_iou[sample.name])
        figures[f"{step}: kinds of errors, and the worst pictures."] = show_errors(
            bad, masks[step], run.target, last
        )
    figures[f"{step}: what each class is taken for."] = show_confusion(last)
    if last.stuff is not None:
        figures[f"{step}: what each class spills onto."] = show_spills(last)
    if first is not last and set(first.names) == set(last.names):
        figures[f"From {start} to {step}, class by class."] = show_difference(
            compare_reports(first, last), first=start, second=step
        )
    figures["IoU of every class."] = iou_bars(reports)
    if len(run.losses) > 1:
        curve = {"segmenter": dict(enumerate(run.losses, 1))}
        figures["The segmenter's loss."] = show_curves({"pass over the pictures": curve}, y="loss")
    return figures
