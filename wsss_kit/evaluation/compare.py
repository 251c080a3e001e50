"""Two reports on the same images: is one better, and where?"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsss_kit.checks import check_count
from wsss_kit.evaluation.confusion import divide, interval_of, mean_of, resampled
from wsss_kit.evaluation.report import Report

if TYPE_CHECKING:
    import pandas as pd


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
    def headline(self) -> str:
        """The difference in points with its interval, and what it says."""
        low, high = self.interval
        text = f"mIoU {100 * self.difference:+.1f} points"
        if math.isfinite(low):
            sure = "0 is outside" if low > 0 or high < 0 else "0 is inside: no difference was shown"
            text += f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f} ({sure})"
        return text

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each class: ``first``, ``second``, ``difference``, ``low``, ``high``."""
        import pandas as pd

        numbers = (self.first.iou, self.second.iou, self.by_class, *self.by_class_interval.T)
        columns = zip(("first", "second", "difference", "low", "high"), numbers, strict=True)
        frame = pd.DataFrame(dict(columns), index=pd.Index(self.first.classes, name="class"))
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
        ValueError: if the reports are of other images or classes, or a number is out of its
            range.

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
    check_count("seed", seed, least=0)
    if first.classes != second.classes:
        raise ValueError(f"{first.classes} and {second.classes} are scored, not the same classes")
    other = set(first.names) ^ set(second.names)
    if other:
        raise ValueError(f"{len(other)} images are in one report alone, such as {min(other)!r}")
    place = {name: i for i, name in enumerate(second.names)}
    rows = [place[name] for name in first.names]
    counts = [first.intersections, first.unions, second.intersections[rows], second.unions[rows]]
    totals = resampled(np.hstack(counts), n_bootstrap=n_bootstrap, seed=seed)
    hits, unions, other_hits, other_unions = np.split(totals, 4, axis=1)
    before, after = divide(hits, unions), divide(other_hits, other_unions)  # (R, S)
    scored = first.image_iou.keys() & second.image_iou.keys()
    gains = np.array([second.image_iou[name] - first.image_iou[name] for name in scored])
    return Comparison(
        first=first,
        second=second,
        difference=second.mean_iou - first.mean_iou,
        interval=interval_of(mean_of(after) - mean_of(before)),
        by_class=second.iou - first.iou,
        by_class_interval=np.array([interval_of(column) for column in (after - before).T]),
        better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()),
    )
