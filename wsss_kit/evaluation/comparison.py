"""Which of several sets of masks is better: two reports paired, and several ranked with ties."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.checks import check_count, check_seed
from wsss_kit.evaluation import confusion
from wsss_kit.evaluation.report import Protocol, Report

if TYPE_CHECKING:
    import pandas as pd


_DIGITS = 12  # of a difference; what lies behind them is rounding


@dataclass(frozen=True, eq=False)
class Comparison:
    """The second report minus the first, over the same images.

    Differences are of IoU in [-1, 1]. Images that are hard are hard for both, so the interval of a
    difference is narrower than the intervals of the two numbers suggest.

    Args:
        first: a report.
        second: another on the same images.
        difference: of the mean IoU.
        interval: bounds of its 95 % bootstrap interval over images.
        by_class: (S,) differences of each class.
        by_class_interval: (S, 2) their bounds.
        better: number of images whose own mean IoU is higher in the second.
        worse: number of images where it is lower.
    """

    first: Report
    second: Report
    difference: float
    interval: tuple[float, float]
    by_class: np.ndarray
    by_class_interval: np.ndarray
    better: int
    worse: int

    @property
    def sign(self) -> int:
        """1 if the second is better, -1 if the first is, 0 if no difference was shown.

        One image shows none: its interval has no width.
        """
        low, high = self.interval
        return int(len(self.first.names) > 1) * (int(low > 0) - int(high < 0))

    @property
    def headline(self) -> str:
        """The difference in points with its interval, and what it says."""
        low, high = self.interval
        text = f"mIoU {100 * self.difference:+.1f} points"
        if math.isfinite(low):
            inside = "0 is inside" if low <= 0 <= high else "one image"
            sure = "0 is outside" if self.sign else f"{inside}: no difference was shown"
            text += f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f} ({sure})"
        return text

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each class: ``first``, ``second``, ``difference``, ``low``, ``high``."""
        import pandas as pd

        numbers = (self.first.iou, self.second.iou, self.by_class, *self.by_class_interval.T)
        columns = ["first", "second", "difference", "low", "high"]
        index = pd.Index(self.first.classes, name="class")
        frame = pd.DataFrame(np.transpose(numbers), index, columns)
        frame.attrs["headline"] = self.headline
        return frame

    def __str__(self) -> str:
        """Write the headline, the number of images, and both protocols."""
        equal = len(self.first.names) - self.better - self.worse
        counts = f"better on {self.better} images, worse on {self.worse}, equal on {equal}"
        protocols = f"first: {self.first.protocol}\nsecond: {self.second.protocol}"
        return f"{self.headline}\n{counts}\n{protocols}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Write the same above the table of classes, for a notebook."""
        lines = "<br>".join(html.escape(line) for line in str(self).splitlines())
        table = (100 * self.to_frame()).round(1).to_html(border=0)
        return f"<p>{lines}</p>{table}<p><small>percent and points</small></p>"


def compare_reports(
    first: Report, second: Report, *, n_bootstrap: int = 1000, seed: int = 0
) -> Comparison:
    """Compute the difference of two reports with its interval: the same resamples for both.

    Args:
        first: a report.
        second: another, on the same images and classes.
        n_bootstrap: resamples of the images; 0 for no interval.
        seed: of the resampling.

    Returns:
        A `Comparison`; print it, or end a notebook cell with it.

    Raises:
        ValueError: if the reports are of other images or classes, or a number is out of range.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> target = {"a": torch.tensor([[0, 1]]), "b": torch.tensor([[1, 1]])}
        >>> empty = {name: 0 * mask for name, mask in target.items()}
        >>> options = {"classes": ("cow",), "protocol": Protocol("two images", "val")}
        >>> reports = [evaluate(masks, target, **options) for masks in (empty, target)]
        >>> print(compare_reports(*reports).headline)
        mIoU +87.5 points, 95 % interval +75.0 to +100.0 (0 is outside)
    """
    check_count("n_bootstrap", n_bootstrap, least=0)
    check_seed(seed)
    if first.classes != second.classes:
        raise ValueError(f"{first.classes} and {second.classes} are scored, not the same classes")
    other = set(first.names) ^ set(second.names)
    if other:
        raise ValueError(f"{len(other)} images are in one report alone, such as {min(other)!r}")
    place = {name: i for i, name in enumerate(second.names)}
    rows = [place[name] for name in first.names]
    counts = [first.intersections, first.unions, second.intersections[rows], second.unions[rows]]
    totals = confusion.resampled(np.hstack(counts), n_bootstrap=n_bootstrap, seed=seed)
    hits, unions, other_hits, other_unions = np.split(totals, 4, axis=1)
    before = confusion.divide(hits, unions)  # (R, S)
    after = confusion.divide(other_hits, other_unions)
    by_class = [confusion.interval_of(column) for column in (after - before).T]
    means = np.round(confusion.mean_of(after) - confusion.mean_of(before), _DIGITS)
    scored = first.image_iou.keys() & second.image_iou.keys()
    gains = [second.image_iou[name] - first.image_iou[name] for name in scored]
    gains = np.round(gains, _DIGITS)
    return Comparison(
        first=first,
        second=second,
        difference=round(second.mean_iou - first.mean_iou, _DIGITS),
        interval=confusion.interval_of(means),
        by_class=second.iou - first.iou,
        by_class_interval=np.array(by_class),
        better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()),
    )


@dataclass(frozen=True, eq=False)
class Judgement:
    """Several reports over the same images, compared in pairs.

    Each interval holds 95 % by itself. Of many pairs a few leave 0 out by chance.

    Args:
        reports: name of a set of masks -> its report, the highest mIoU first.
        pairs: (first, second) -> the second minus the first, for every two names.
        ranks: name -> 1 + the number of sets that are better and whose interval leaves 0 out. So
            two sets tie unless a difference was shown, or another set parts them.
    """

    reports: dict[str, Report]
    pairs: dict[tuple[str, str], Comparison]
    ranks: dict[str, int]

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each set: ``rank``, ``mean_iou``, ``low`` and ``high``."""
        import pandas as pd

        rows = [(self.ranks[n], r.mean_iou, *r.interval) for n, r in self.reports.items()]
        index = pd.Index([*self.reports], name="masks")
        return pd.DataFrame(rows, index, ["rank", "mean_iou", "low", "high"])

    def pairs_frame(self) -> pd.DataFrame:
        """Return a row for each pair: the difference, its interval, images better and worse."""
        import pandas as pd

        rows = [
            (*names, each.difference, *each.interval, each.better, each.worse)
            for names, each in self.pairs.items()
        ]
        columns = ["first", "second", "difference", "low", "high", "better", "worse"]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        """Write the ranks and the differences, in percent and points, and the protocols."""
        ranks, pairs = self.to_frame(), self.pairs_frame()
        ranks[["mean_iou", "low", "high"]] *= 100
        pairs[["difference", "low", "high"]] *= 100
        protocols = (f"{name}: {report.protocol}" for name, report in self.reports.items())
        tables = [ranks.round(1).to_string(), pairs.round(1).to_string(index=False)]
        return "\n\n".join([*tables, "\n".join(protocols)])

    __repr__ = __str__


def rank_reports(
    reports: Mapping[str, Report], *, n_bootstrap: int = 1000, seed: int = 0
) -> Judgement:
    """Rank sets of masks by paired differences. Sets that do not differ surely share a rank.

    Args:
        reports: name -> report; all over the same images and classes.
        n_bootstrap: resamples of the images, at least 1.
        seed: of the resampling; the intervals are those of `compare_reports`.

    Returns:
        A `Judgement`; print it.

    Raises:
        ValueError: if there are fewer than two reports, they are of other images or classes, or a
            number is out of range.

    Example:
        Both find nothing but background, so neither is better:

        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> target = {"a": torch.tensor([[0, 1]]), "b": torch.tensor([[1, 1]])}
        >>> empty = {name: 0 * mask for name, mask in target.items()}
        >>> options = {"classes": ("cow",), "protocol": Protocol("two images", "val")}
        >>> masks = {"nothing": empty, "all": target, "none": empty}
        >>> reports = {name: evaluate(each, target, **options) for name, each in masks.items()}
        >>> rank_reports(reports).ranks
        {'all': 1, 'nothing': 2, 'none': 2}
    """
    check_count("n_bootstrap", n_bootstrap)
    if len(reports) < 2:
        raise ValueError(f"reports holds {len(reports)}, expected at least two to compare")
    ordered = dict(sorted(reports.items(), key=lambda each: -np.nan_to_num(each[1].mean_iou)))
    options = {"n_bootstrap": n_bootstrap, "seed": seed}
    pairs = {
        (first, second): compare_reports(reports[first], reports[second], **options)
        for first, second in combinations(ordered, 2)
    }
    ranks = dict.fromkeys(ordered, 1)
    for (first, second), each in pairs.items():
        ranks[second] += each.sign < 0
        ranks[first] += each.sign > 0
    return Judgement(ordered, pairs, ranks)


def check_meaning(report: Report) -> None:
    """Raise an error if 255, or the order of the classes, seems to mean something else in masks.

    Values are matched to the classes that they lie on, one to one. The masks are refused where
    that explains most pixels of objects, at least twice as many as their values do, and two or
    more classes are mostly covered by another value. Where the protocol states a background rule,
    as that of this kit's masks does, their order is taken for right.

    Args:
        report: from `evaluate`.

    Raises:
        ValueError: with a value, the class that it lies on and the one that was expected; or if
            255 is used for objects or the background, see `confusion.check_use_of_255`.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> masks = {"a": torch.tensor([[1, 1, 2]])}, {"a": torch.tensor([[2, 2, 1]])}
        >>> protocol = Protocol("one image", "val")
        >>> check_meaning(evaluate(*masks, classes=("cow", "cat"), protocol=protocol))
        Traceback (most recent call last):
        ValueError: the classes stand in another order: value 1 lies on cat, and is cow here; save \
the masks with class c as c + 1
    """
    from scipy.optimize import linear_sum_assignment

    share, of_value = report.protocol.predicted_255, report.matrix.sum(0)
    zeros = of_value[0] - round(share * of_value.sum())  # where 255 counts too
    confusion.check_use_of_255(share, finds_objects=of_value[1:].any(), finds_background=zeros > 0)
    if report.protocol.background != Protocol.background:
        return
    objects = report.matrix[1:, 1:]
    _, matched = linear_sum_assignment(-objects)  # of each class its value
    hits = objects[range(len(objects)), matched]
    moved = np.where(matched == range(len(matched)), 0, hits)
    many = 2 * moved > report.matrix[1:].sum(1)  # of a class's pixels
    least = max(2 * objects.diagonal().sum(), report.matrix[1:].sum() / 2)
    if hits.sum() <= least or many.sum() < 2:
        return
    c = moved.argmax()
    value, lies_on = 1 + matched[c], report.values[1 + c]
    problem = f"value {value} lies on {lies_on}, and is {report.values[value]} here"
    advice = "save the masks with class c as c + 1"
    raise ValueError(f"the classes stand in another order: {problem}; {advice}")
