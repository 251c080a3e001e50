"""Sources of errors: the classes that are confused, and the background that a class spills onto."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wsss_kit.checks import check_not_negative
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.evaluation.confusion import as_mask

if TYPE_CHECKING:
    import pandas as pd

    from wsss_kit.evaluation.report import Report

OTHER_STUFF = "other"
"""Background of no kind that has a name."""


def stuff_counts(
    predicted: Tensor, target: Tensor, stuff: Tensor | np.ndarray, n_kinds: int, n_values: int
) -> np.ndarray:
    """Count what was predicted on each kind of background.

    Args:
        predicted: (H, W) int64; 255 counts as background.
        target: (H, W) int64; pixels that are not 0 do not count.
        stuff: (H, W) integers, kind j as j, 255 for no kind.
        n_kinds: J.
        n_values: K, background included.

    Returns:
        (J + 1, K) int64 pixels, the last row without a kind.

    Raises:
        ValueError: if the sizes differ, or a value is no kind.
    """
    stuff = as_mask(stuff, "stuff").to(target.device)
    if stuff.shape != target.shape:
        raise ValueError(
            f"stuff has shape {tuple(stuff.shape)} and target {tuple(target.shape)}, expected the "
            "same size"
        )
    wrong = sorted(set(stuff.unique().tolist()) - {*range(n_kinds), IGNORE_INDEX})
    if wrong:
        raise ValueError(f"stuff holds {wrong[:5]}, expected 0 to {n_kinds - 1}, or 255 for none")
    kinds = stuff.masked_fill(stuff == IGNORE_INDEX, n_kinds)
    found = predicted.masked_fill(predicted == IGNORE_INDEX, 0)
    cells = (kinds * n_values + found)[target == 0].cpu().numpy()
    counts = np.bincount(cells, minlength=(n_kinds + 1) * n_values)
    return counts.reshape(n_kinds + 1, n_values)


def error_sources(report: Report, *, least: float = 0.0) -> pd.DataFrame:
    """Tabulate every error of every class, with the class or background on its other side.

    Of a class's union, the wrong pixels by their kind (see `error_kinds`) and their other side:
    what a class was *confused* with, which kind of background it *spilled* onto where the report
    knows kinds, and for the background itself which classes it lost or swallowed. At the
    *boundary* the other side is a class or the background.

    Args:
        report: from `evaluate`; with ``stuff`` it knows kinds of background.
        least: points below which a row is left out.

    Returns:
        Columns ``class``, ``kind``, ``with`` and ``points`` (percent of the class's union), the
        largest of each class first. With ``least=0`` the points of a class sum to 100 - IoU.

    Raises:
        ValueError: if ``least`` is below 0.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> report = evaluate(
        ...     {"a": torch.tensor([[1, 1, 1, 2]])},
        ...     {"a": torch.tensor([[0, 0, 1, 1]])},
        ...     classes=("cow", "camel"),
        ...     protocol=Protocol("one picture", "val"),
        ...     boundary=0,
        ...     stuff={"a": torch.tensor([[0, 1, 255, 255]])},
        ...     stuff_names=("grass", "sand"),
        ... )
        >>> print(error_sources(report).query("`class` == 'cow'").to_string(index=False))
        class     kind  with  points
          cow confused camel    25.0
          cow  spilled grass    25.0
          cow  spilled  sand    25.0
    """
    import pandas as pd

    check_not_negative("least", least)
    rows, unions = [], _unions(report)
    for name in report.classes:
        value = report.values.index(name)
        of_class = [
            (name, kind, other, 100 * float(pixels) / unions[value])
            for kind, other, pixels in _of_class(report, value)
            if pixels
        ]
        large = (row for row in of_class if row[-1] >= least)
        rows += sorted(large, key=lambda row: -row[-1])
    frame = pd.DataFrame(rows, columns=["class", "kind", "with", "points"])
    frame = frame.astype({"points": float})  # an empty one too
    frame.attrs.update(protocol=str(report.protocol), headline=report.headline)
    return frame


def spills(report: Report) -> tuple[tuple[str, ...], np.ndarray]:
    """Compute what each class spilled onto outside the boundary band, in percent of its union.

    Args:
        report: from `evaluate` with ``stuff``.

    Returns:
        Names of J kinds of background, the last ``"other"``; (S, J) float64, NaN for a class in
        neither targets nor predictions; the row of background is 0.

    Raises:
        ValueError: if the report knows no kinds of background.
    """
    if report.stuff is None:
        raise ValueError(
            "the report knows no kinds of background; give evaluate stuff=, such as "
            "PaperWorld(...).stuff, and stuff_names="
        )
    names = (*report.stuff_names, OTHER_STUFF)
    columns = [report.values.index(name) for name in report.classes]
    counts = report.stuff[:, columns].T.astype(float)  # (S, J)
    counts[[column == 0 for column in columns]] = 0
    with np.errstate(invalid="ignore"):
        return names, 100 * counts / _unions(report)[columns][:, None]


def _of_class(report: Report, value: int) -> Iterator[tuple[str, str, int]]:
    """Yield kind, other side and number of the wrong pixels of one class."""
    inside, outside = report.inside, report.matrix - report.inside
    for other, name in enumerate(report.values):
        if other == value:
            continue
        yield "boundary", name, inside[value, other] + inside[other, value]
        if value and other:
            yield "confused", name, outside[value, other] + outside[other, value]
            continue
        one = value or other  # the class; the other of the two is the background
        yield "missed", name, outside[one, 0]
        if value == 0 or report.stuff is None:
            yield "spilled", name, outside[0, one]
    if value and report.stuff is not None:
        names = (*report.stuff_names, OTHER_STUFF)
        for name, pixels in zip(names, report.stuff[:, value], strict=True):
            yield "spilled", name, pixels


def _unions(report: Report) -> np.ndarray:
    """Return (K,) pixels in target or prediction."""
    return report.matrix.sum(0) + report.matrix.sum(1) - report.matrix.diagonal()
