"""A published number measured again: laid out, checked for what it needs, run, put beside it."""

from __future__ import annotations

from pathlib import Path

from wsss_kit.checks import check_count
from wsss_kit.commands.paper_chain import run_paper_chain
from wsss_kit.commands.photograph_chain import run_photographs
from wsss_kit.commands.plans import (
    ROOTS,
    Plan,
    plan_of,
    why_not,
)
from wsss_kit.commands.runs import run_folder
from wsss_kit.evaluation import (
    Published,
    Report,
    published,
    published_rows,
)
from wsss_kit.plot.run_page import Run, write_run


def run_reproduce(
    name: str,
    *,
    root: str | Path | None = None,
    weights: str | Path = "data/weights",
    out: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    iterations: int | None = None,
    device: str = "auto",
    plan_only: bool = False,
) -> dict[str, Report]:
    """Print what a row needs and, where all of it is there, run it; a second call goes on.

    Masks and checkpoints stay in the folder, so that a run that was stopped does not begin again.

    Args:
        name: of the row, see `evaluation.published_rows`.
        root: folder of VOC or COCO; None for the one below ``data/``.
        weights: folder of files of weights, under the names that the plan prints.
        out: folder of masks, weights and ``report.html``; None for one named after the row.
        seed: of what is trained.
        limit: only the first so many pictures of each split: a trial, and the protocol's number of
            images says so.
        iterations: steps of the segmenter, instead of the recipe's: a trial too.
        device: where to work.
        plan_only: whether to stop after the plan.

    Returns:
        Step -> report; empty after the plan alone, and for a split whose masks nobody has.

    Raises:
        ValueError: if there is no such row, or none of its kind can be run.
        FileNotFoundError: if something has to be put in its place first; the plan says what.
    """
    row = published(name)
    check_count("seed", seed, least=0)
    for what, value in (("limit", limit), ("iterations", iterations)):
        if value is not None:
            check_count(what, value)
    root = ROOTS.get(row.data, Path()) if root is None else Path(root)
    plan = plan_of(row, root=root, weights=Path(weights))
    print(plan)
    if plan_only:
        return {}
    _refuse(plan)
    if out is None:
        out = Path("data/runs") / name.replace("/", "-")
    options = {"seed": seed, "limit": limit, "iterations": iterations, "device": device}
    with run_folder(out) as folder:
        if row.data == "PaperWorld":
            run = run_paper_chain(row, folder, **options)
        else:
            run = run_photographs(row, folder, root, Path(weights), **options)
        return _finish(row, folder, run, trial=limit is not None or iterations is not None)


def rows_text() -> str:
    """Every row that has a recipe, a line each, and how many have none."""
    rows = published_rows()
    able = [row for row in rows if why_not(row) is None]
    lines = [
        f"{row.name:<28} {row.method:<12} {row.what:<10} {row.value:>5g}  {row.data} {row.split}"
        for row in able
    ]
    lines.append(
        f"{len(rows) - len(able)} more have no recipe; `reproduce ROW --plan` says why, and what "
        "these need."
    )
    return "\n".join(lines)


def _refuse(plan: Plan) -> None:
    if plan.cannot:
        raise ValueError(f"{plan.row.name} cannot be run: {plan.cannot}; expected another row")
    if plan.missing:
        missing = ", ".join(str(need.path) for need in plan.missing)
        raise FileNotFoundError(
            f"{len(plan.missing)} of {len(plan.needs)} things are missing: {missing}; the plan "
            "above says where each comes from"
        )


def _finish(row: Published, folder: Path, run: Run, *, trial: bool) -> dict[str, Report]:
    if not run.reports:
        print("\n".join(run.notes))
        return {}
    if trial:
        said = "A trial on a part of the pictures or with fewer steps, not the row itself."
        run = run._replace(notes=[said, *run.notes])
    title = f"{row.name}: {row.method}, {row.data} {row.split}"
    page = write_run(folder / "report.html", run, title=title, row=row)
    for step, report in run.reports.items():
        print(f"{step}: {report.headline}")
    print(f"published: {row.value:g} ({row.unit}). {page} has the tables and figures.")
    return dict(run.reports)
