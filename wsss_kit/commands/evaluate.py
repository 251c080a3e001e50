"""``python -m wsss_kit evaluate``: masks on disk against ground truth, as a table and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.commands.generate import masks_in, read_maps
from wsss_kit.data import LazyMasks, open_dataset
from wsss_kit.data.datasets import TITLES
from wsss_kit.evaluation import (
    ERROR_KINDS,
    BackgroundRule,
    ConfusionMatrix,
    Protocol,
    Report,
    beside_published,
    best_rule,
    evaluate,
    explain_gap,
    published,
)
from wsss_kit.paperworld import STUFF
from wsss_kit.plot import show_confusion, show_errors, show_masks, show_spills
from wsss_kit.plot.reports import write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_evaluate(
    folder: str | Path,
    /,
    *,
    data: str = "voc",
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    scored: Sequence[str] | None = None,
    power: Sequence[float] | None = None,
    row: str | None = None,
    out: str | Path | None = None,
) -> Report:
    """Score a folder of masks, print the table and write ``report.html``.

    Args:
        folder: that ``masks`` wrote, or any folder of ``NAME.png``.
        data: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` or ``"paper"`` (the embedded world).
        root: folder of the data set; None for the one that `download` writes.
        split: None for ``train_aug`` of VOC, ``train`` or ``trainval``; published masks are scored
            on VOC's ``train``.
        limit: only the first so many images.
        scored: classes that count, with background; None for all. Pixels of others do not.
        power: exponents of backgrounds (1 - max)^power for the soft maps of the folder. The masks
            by the best of them are scored: chosen on the scored images, as papers do with maps.
        row: a published number to stand beside ours, as ``reproduce`` lists them.
        out: of the page; None for ``report.html`` in ``folder``.

    Returns:
        The report.

    Raises:
        ValueError: if there is no ground truth, or masks and images do not fit.
        FileNotFoundError: if the data, the masks or the soft maps are not there.
    """
    beside = published(row) if row is not None else None
    samples = open_dataset(data, root, split, limit=limit)
    target = samples.open_masks()
    predicted, settings = masks_in(Path(folder), list(samples.names))
    target = {name: target[name] for name in samples.names if name in target}
    if power is not None:
        rule, predicted = _best_power(power, Path(folder), predicted, target, len(samples.classes))
        span = f"{min(power):g} to {max(power):g}"
        settings = {**settings, "background": f"the best of the powers {span}, chosen here: {rule}"}
    stated = {k: str(settings[k]) for k in ("background", "refinement", "preset") if k in settings}
    protocol = Protocol(TITLES.get(data, "own folder"), str(samples.split or "all"), **stated)
    options = {"classes": samples.classes, "protocol": protocol, "scored": scored}
    if data == "paper":
        options |= {"stuff": samples.stuff, "stuff_names": STUFF}
    report = evaluate(predicted, target, **options)
    errors = [["class", "IoU", *ERROR_KINDS], *report.rows()]
    tables = {"IoU and what each kind of error takes from it, in percent": errors}
    notes = []
    if beside is not None and beside.percent is not None:
        frame = beside_published(report, method=beside.method, what=beside.what).round(1)
        frame = frame.reset_index()
        cells = frame.astype(str).to_numpy().tolist()
        tables["Ours beside what is published, percent"] = [list(frame.columns), *cells]
        notes.append(str(explain_gap(report, beside)))
    page = write_report(
        Path(folder) / "report.html" if out is None else out,
        title=f"{settings.get('method', 'Masks')} on {protocol.data} {protocol.split}",
        reports={"masks": report},
        figures=_figures(report, samples, predicted, target),
        notes=notes,
        tables=tables,
    )
    print(f"{report}\n{page} has the tables and figures.")
    if beside is not None:
        print(f"published: {beside.value:g} ({beside.unit}).")
    return report


def _best_power(
    powers: Sequence[float],
    folder: Path,
    masks: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    n_classes: int,
) -> tuple[BackgroundRule, LazyMasks]:
    """Return the power with the highest mIoU, and the masks that it makes of the soft maps."""

    def soft_maps(name: str) -> tuple[Tensor, Tensor]:
        """Read the maps (1, C, H, W) of one image, zero for absent classes, and its labels."""
        maps, labels = torch.zeros(1, n_classes, *masks[name].shape), torch.zeros(1, n_classes)
        for c, each in read_maps(folder, name).items():
            maps[0, c], labels[0, c] = each, 1
        return maps, labels

    matrices = {BackgroundRule(power=each): ConfusionMatrix(1 + n_classes) for each in powers}
    for name, truth in target.items():
        maps = soft_maps(name)  # read once for all rules
        for rule, matrix in matrices.items():
            matrix.update(rule.masks(*maps)[0], truth)
    best = best_rule({rule: float(each.iou().nanmean()) for rule, each in matrices.items()})
    return best, LazyMasks(
        list(masks), read=lambda name: best.masks(*soft_maps(name))[0], folder=folder
    )


def _figures(
    report: Report,
    samples: Sequence[Sample],
    predicted: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
) -> dict[str, Figure]:
    """Draw the first images, the worst images with their errors, and the confusion of classes."""
    first = [samples[i] for i in range(min(4, len(samples)))]
    worst = [samples[list(samples.names).index(name)] for name, _ in report.worst[:6]]
    columns = {"masks": predicted, "ground truth": target}
    figures = {
        "The first images, not a choice.": show_masks(first, columns, report.values[1:]),
        "Kinds of errors, and the worst images.": show_errors(worst, predicted, target, report),
        "What each class is taken for.": show_confusion(report),
    }
    if report.stuff is not None:
        figures["What each class spills onto."] = show_spills(report)
    return figures
