"""``python -m wsss_kit evaluate``: masks on disk against ground truth, as a table and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsss_kit.commands.datasets import masks_in, open_masks, open_samples
from wsss_kit.evaluation import Protocol, Report, evaluate, published
from wsss_kit.paperworld import STUFF
from wsss_kit.plot.run_page import Run, write_run

TITLES = {"voc": "VOC 2012", "coco": "COCO 2014", "pets": "Oxford-IIIT Pet", "paper": "PaperWorld"}


def run_evaluate(
    folder: str | Path,
    *,
    data: str = "voc",
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    scored: Sequence[str] | None = None,
    row: str | None = None,
    out: str | Path | None = None,
) -> Report:
    """Score a folder of masks, print the table and write ``report.html``.

    Args:
        folder: that ``masks`` wrote, or any folder of ``NAME.png``.
        data: see `datasets.open_samples`.
        root: see `datasets.open_samples`.
        split: see `datasets.open_samples`; published masks are scored on VOC's ``train``.
        limit: only the first so many pictures.
        scored: classes that count, with background; None for all. Pixels of others do not.
        row: a published number to stand beside ours.
        out: of the page; None for ``report.html`` in ``folder``.

    Returns:
        The report.

    Raises:
        ValueError: if there is no ground truth, or masks and pictures do not fit.
        FileNotFoundError: if the data or the masks are not there.
    """
    beside = published(row) if row is not None else None
    samples = open_samples(data, root, split, limit)
    target = open_masks(data, root, samples)
    if target is None:
        raise ValueError(
            f"{data} {samples.split} has no ground truth here, expected masks to score against"
        )
    predicted, made = masks_in(Path(folder), list(samples.names))
    stated = {
        name: str(made[name]) for name in ("background", "refinement", "preset") if name in made
    }
    protocol = Protocol(TITLES.get(data, "own folder"), str(samples.split or "all"), **stated)
    kinds = {"stuff": samples.stuff, "stuff_names": STUFF} if data == "paper" else {}
    report = evaluate(
        predicted,
        {name: target[name] for name in samples.names if name in target},
        classes=samples.classes,
        protocol=protocol,
        scored=scored,
        **kinds,
    )
    page = Path(folder) / "report.html" if out is None else Path(out)
    title = f"{made.get('method', 'Masks')} on {protocol.data} {protocol.split}"
    run = Run({"masks": report}, {"masks": predicted}, samples, target)
    write_run(page, run, title=title, row=beside)
    print(f"{report}\n{page} has the tables and figures.")
    return report
