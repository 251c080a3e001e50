"""``python -m wsss_kit evaluate``: masks on disk against ground truth, as a table and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wsss_kit.commands.datasets import open_masks, open_samples
from wsss_kit.commands.generate import PROTOCOL, read_masks
from wsss_kit.data import LazyMasks
from wsss_kit.data.pictures import read_mask
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
    predicted, made = _open(Path(folder), list(samples.names))
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
        **kinds,
    )
    page = Path(folder) / "report.html" if out is None else Path(out)
    title = f"{made.get('method', 'Masks')} on {protocol.data} {protocol.split}"
    run = Run({"masks": report}, {"masks": predicted}, samples, target)
    write_run(page, run, title=title, row=beside)
    print(f"{report}\n{page} has the tables and figures.")
    return report


def _open(folder: Path, names: list[str]) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Masks by picture name, and how they were made as far as the folder says."""
    card = folder / PROTOCOL
    if card.is_file():
        written = read_masks(folder)
        missing = {name: written.failed[name] for name in names if name in written.failed}
        for name, reason in missing.items():
            raise ValueError(
                f"{len(missing)} of {len(names)} pictures have no mask, the first is {name!r}: "
                f"{reason}; mend them, or score a split without them"
            )
        return written.masks, json.loads(card.read_text(encoding="utf-8"))
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, expected one of NAME.png")
    there = [name for name in names if (folder / f"{name}.png").is_file()]
    return LazyMasks(there, read=lambda n: read_mask(folder / f"{n}.png"), folder=folder), {}
