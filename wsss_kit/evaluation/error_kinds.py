"""Why a pixel is wrong: each wrong pixel has exactly one kind.

Asked in this order: it lies in the *boundary* band around a border of the target, where even
people disagree; or an object was *missed* (target class, predicted background); or a class
*spilled* over (target background, predicted class); or two classes were *confused*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_not_negative, check_shape
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.evaluation.confusion import ERROR_KINDS, as_mask, divide, unions_of

if TYPE_CHECKING:
    import pandas as pd

    from wsss_kit.evaluation.report import Report


def boundary_band(target: Tensor, width: int | None = None) -> Tensor:
    """Return the pixels within ``width`` pixels of a border between two classes of the target.

    A pixel belongs to the band if the square of ``2 * width + 1`` pixels around it holds two
    classes. Ignored pixels count as the class nearest to them: PASCAL VOC draws an ignored line
    around every object, and the border runs along its middle.

    Args:
        target: (H, W) integers, 255 ignored.
        width: of the band on each side of a border, in pixels; 0 for no band, None for
            1 % of the image's diagonal, at least 2.

    Returns:
        (H, W) bool on the device of ``target``.

    Raises:
        ValueError: if ``width`` is no number of pixels or ``target`` is not (H, W) integers.

    Example:
        The border runs through the middle of the ignored pixels:

        >>> boundary_band(torch.tensor([[0, 0, 255, 255, 3, 3]]), 2).int().tolist()
        [[0, 1, 1, 1, 1, 0]]
    """
    from scipy import ndimage

    target = as_mask(target, "target")
    check_shape(target.ndim == 2 and target.numel() > 0, "target", target, "(H, W)")
    if width is None:
        width = max(2, round(0.01 * math.hypot(*target.shape)))
    check_count("the boundary width", width, least=0)
    classes = target.cpu().numpy()
    ignored = classes == IGNORE_INDEX
    if ignored.all():
        return torch.zeros_like(target, dtype=torch.bool)
    if ignored.any():
        options = {"return_distances": False, "return_indices": True}
        classes = classes[tuple(np.asarray(ndimage.distance_transform_edt(ignored, **options)))]
    size = 2 * width + 1
    band = ndimage.maximum_filter(classes, size) != ndimage.minimum_filter(classes, size)
    return torch.from_numpy(band).to(target.device)


def error_map(predicted: Tensor, target: Tensor, *, boundary: int | None = None) -> Tensor:
    """Compute the kind of error of each pixel, for figures; ``error_shares`` counts the same.

    Args:
        predicted: (H, W) int64; 255 counts as background.
        target: (H, W) int64, 255 ignored.
        boundary: width of the boundary band in pixels, as in ``boundary_band``.

    Returns:
        (H, W) int64: 0 where the prediction is right or the target ignored, else 1 + the index
        in ``ERROR_KINDS``.

    Raises:
        ValueError: if the shapes differ, a mask holds no integers, or ``boundary`` is no width.

    Example:
        >>> target = torch.tensor([[0, 1, 1, 255]])
        >>> error_map(torch.tensor([[2, 2, 255, 0]]), target, boundary=0).tolist()
        [[3, 4, 2, 0]]
    """
    predicted, target = as_mask(predicted, "predicted"), as_mask(target, "target")
    expected = f"{tuple(target.shape)} as target; resize the prediction"
    check_shape(predicted.shape == target.shape, "predicted", predicted, expected)
    predicted = predicted.masked_fill(predicted == IGNORE_INDEX, 0)
    kinds = torch.full_like(target, 1 + ERROR_KINDS.index("confused"))
    kinds[target == 0] = 1 + ERROR_KINDS.index("spilled")
    kinds[predicted == 0] = 1 + ERROR_KINDS.index("missed")
    kinds[boundary_band(target, boundary)] = 1 + ERROR_KINDS.index("boundary")
    kinds[(predicted == target) | (target == IGNORE_INDEX)] = 0
    return kinds


def error_shares(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Compute what each kind of error takes away from the IoU of each class.

    The wrong pixels of a class are its union minus its intersection: target without prediction,
    and prediction without target. Each is divided by the union, so the four shares of a class
    sum to 1 - IoU. (A pixel of a cow taken for a camel is wrong for both classes.)

    Args:
        inside: (K, K) pixel counts within the boundary band; rows targets, columns predictions.
        outside: (K, K) the same for all other pixels.

    Returns:
        (K, 4) float64 in the order of ``ERROR_KINDS``; NaN for a class in neither.

    Raises:
        ValueError: if the two are not square and of one shape.

    Example:
        Background lost one pixel of three to a spill; so did class 1, which has it too many:

        >>> counts = np.array([[2, 1], [0, 1]])
        >>> error_shares(np.zeros((2, 2), int), counts).round(2).tolist()
        [[0.0, 0.0, 0.33, 0.0], [0.0, 0.0, 0.5, 0.0]]
    """
    shapes = np.shape(inside), np.shape(outside)
    if len(shapes[0]) != 2 or len(set(shapes[0])) != 1 or shapes[0] != shapes[1]:
        raise ValueError(f"inside and outside have shapes {shapes}, expected (K, K) for both")
    whole = inside + outside
    boundary = inside.sum(0) + inside.sum(1) - 2 * inside.diagonal()
    missed, spilled = outside[:, 0].copy(), outside[0].copy()  # of each class 1 to K - 1
    missed[0], spilled[0] = outside[1:, 0].sum(), outside[0, 1:].sum()  # background has all
    classes = outside[1:, 1:]
    confused = np.zeros_like(missed)
    confused[1:] = classes.sum(0) + classes.sum(1) - 2 * classes.diagonal()
    counts = np.stack([boundary, missed, spilled, confused], 1)  # (K, 4)
    return divide(counts, unions_of(whole)[:, None])  # 0 / 0 is NaN


OTHER_STUFF = "other"  # background of no kind that has a name


def stuff_counts(
    predicted: Tensor,
    target: Tensor,
    stuff: Tensor | np.ndarray,
    shape: tuple[int, int],
    band: Tensor,
) -> np.ndarray:
    """Count what was predicted on each kind of background outside the boundary band.

    Args:
        predicted: (H, W) int64; 255 counts as background.
        target: (H, W) int64; pixels that are not 0 do not count.
        stuff: (H, W) integers, kind j as j, 255 for no kind.
        shape: (J + 1, K) of J kinds and K values, background included.
        band: (H, W) bool of `boundary_band`.

    Returns:
        (J + 1, K) int64 pixels, the last row without a kind.

    Raises:
        ValueError: if the sizes differ, or a value is no kind.
    """
    stuff = as_mask(stuff, "stuff").to(target.device)
    check_shape(stuff.shape == target.shape, "stuff", stuff, f"{tuple(target.shape)} as target")
    J, K = shape[0] - 1, shape[1]
    wrong = sorted(set(stuff.unique().tolist()) - {*range(J), IGNORE_INDEX})
    if wrong:
        raise ValueError(f"stuff holds {wrong[:5]}, expected 0 to {J - 1}, or 255 for none")
    kinds = stuff.masked_fill(stuff == IGNORE_INDEX, J)
    predicted = predicted.masked_fill(predicted == IGNORE_INDEX, 0).to(target.device)
    cells = (kinds * K + predicted)[(target == 0) & ~band].cpu().numpy()
    return np.bincount(cells, minlength=(J + 1) * K).reshape(shape)


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
        ...     protocol=Protocol("one image", "val"),
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
    rows, unions = [], unions_of(report.matrix)
    for name in report.classes:
        value = report.values.index(name)
        of_class = sorted(_of_class(report, value), key=lambda row: -row[-1])
        rows += [(name, *sides, 100 * n / unions[value]) for *sides, n in of_class if n]
    frame = pd.DataFrame(rows, columns=["class", "kind", "with", "points"])
    frame = frame.astype({"points": float})  # an empty one too
    frame = frame[frame["points"] >= least].reset_index(drop=True)
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
        raise ValueError("the report knows no kinds of background; give evaluate stuff=")
    columns = [report.values.index(name) for name in report.classes]
    counts = report.stuff[:, columns].T.copy()  # (S, J)
    counts[[column == 0 for column in columns]] = 0
    points = divide(100 * counts, unions_of(report.matrix)[columns][:, None])
    return (*report.stuff_names, OTHER_STUFF), points


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
