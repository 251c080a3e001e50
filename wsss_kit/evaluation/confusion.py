"""The confusion matrix, and intersection over union (IoU) from it.

Pixels are summed over all images first and divided once, as PASCAL VOC does. The mean of each
image's own IoU is another number.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.classes import IGNORE_INDEX

ERROR_KINDS = ("boundary", "missed", "spilled", "confused")
"""The kinds in the order they are asked; value k + 1 of an error map is ``ERROR_KINDS[k]``."""

N_NAMED = 5  # images that an error message names


class ConfusionMatrix:
    """Counts of pixels by target and predicted class, summed over images.

    A target of ``ignore_index`` never counts. A prediction of ``ignore_index`` counts as
    background: a method may be unsure, but it is scored on every pixel, and the released
    evaluation codes do the same.

    Args:
        n_classes: number of mask values, background included (PASCAL VOC: 21).
        ignore_index: the value that means "do not count"; not one of 0 to ``n_classes - 1``.

    Attributes:
        matrix: (K, K) int64 on the CPU; rows are targets, columns predictions.

    Raises:
        ValueError: if ``n_classes`` is below 1, or ``ignore_index`` is one of the classes.

    Example:
        Class 2 is in neither mask, so it has no IoU and the mean leaves it out. The last pixel
        is predicted 255, which counts as background:

        >>> predicted = torch.tensor([[0, 1, 1, 255]])
        >>> target = torch.tensor([[0, 0, 1, 1]])
        >>> confusion = ConfusionMatrix(3).update(predicted, target)
        >>> [round(value, 3) for value in confusion.iou().tolist()]
        [0.333, 0.333, nan]
        >>> round(confusion.mean_iou(), 3)
        0.333
    """

    def __init__(self, n_classes: int = 21, *, ignore_index: int = IGNORE_INDEX) -> None:
        check_count("n_classes", n_classes)
        if 0 <= ignore_index < n_classes:
            raise ValueError(f"ignore_index is {ignore_index}, a class; choose another value")
        self.n_classes, self.ignore_index = n_classes, ignore_index
        self.matrix = torch.zeros(n_classes, n_classes, dtype=torch.int64)

    def update(
        self, predicted: Tensor | np.ndarray, target: Tensor | np.ndarray
    ) -> ConfusionMatrix:
        """Count the pixels of one image or of a batch.

        Args:
            predicted: (H, W) or (B, H, W) integers, 0 to K - 1; ``ignore_index`` counts as 0.
            target: the same shape, 0 to K - 1 or ``ignore_index``.

        Returns:
            This matrix, so that calls can be chained.

        Raises:
            ValueError: if the shapes differ, a mask holds no integers, or a value is outside the
                classes. Nothing is counted then.

        Example:
            >>> ConfusionMatrix(2).update(torch.ones(2, 2).long(), torch.ones(2, 2).long()).matrix
            tensor([[0, 0],
                    [0, 4]])
        """
        predicted, target = as_mask(predicted, "predicted"), as_mask(target, "target")
        counts = count_pairs(predicted, target, self.n_classes, ignore_index=self.ignore_index)
        self.matrix += counts[0]
        return self

    def iou(self) -> Tensor:
        """Compute intersection over union of each class: hits / (targets + predictions - hits).

        Returns:
            (K,) float64 in [0, 1]; NaN for a class in neither targets nor predictions, 0 for one
            that was predicted but is nowhere in the targets.

        Example:
            >>> ConfusionMatrix(2).iou().tolist()
            [nan, nan]
        """
        hits, unions = self.matrix.diagonal(), unions_of(self.matrix.numpy())
        return hits.double() / torch.from_numpy(unions)  # 0 / 0 is NaN

    def mean_iou(self) -> float:
        """Compute the mean IoU over the classes that have one, in [0, 1]; NaN if none has.

        Example:
            >>> ConfusionMatrix(2).mean_iou()
            nan
        """
        return self.iou().nanmean().item()

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of another matrix to this one, for images counted elsewhere.

        Args:
            other: a matrix over the same classes; it stays as it is.

        Returns:
            This matrix.

        Raises:
            ValueError: if the two have different classes or ignore values.

        Example:
            >>> one = torch.ones(1, 3).long()
            >>> ConfusionMatrix(2).merge(ConfusionMatrix(2).update(one, one)).matrix.sum().item()
            3
        """
        mine, theirs = ((each.n_classes, each.ignore_index) for each in (self, other))
        if mine != theirs:
            raise ValueError(f"classes and ignored value are {mine} here, there {theirs}")
        self.matrix += other.matrix
        return self

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return a new matrix with the counts of both."""
        empty = ConfusionMatrix(self.n_classes, ignore_index=self.ignore_index)
        return empty.merge(self).merge(other)

    def __repr__(self) -> str:
        return f"ConfusionMatrix({self.n_classes} classes, {self.matrix.sum()} pixels counted)"


def count_pairs(
    predicted: Tensor,
    target: Tensor,
    n_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    band: Tensor | None = None,
) -> Tensor:
    """Count pixels by their target and predicted values.

    Args:
        predicted: (H, W) or (B, H, W) int64, 0 to K - 1; ``ignore_index`` counts as 0.
        target: the same shape, 0 to K - 1; ``ignore_index`` does not count.
        n_classes: K.
        ignore_index: of both.
        band: the same shape, bool: pixels that are counted apart; None for none.

    Returns:
        (2, K, K) int64 on the CPU, the pixels outside of the band first; (1, K, K) without one.
        Rows are targets.

    Raises:
        ValueError: if the shapes differ, or a value is outside the classes.
    """
    shape, other = tuple(predicted.shape), tuple(target.shape)
    if shape != other or len(shape) not in (2, 3):
        expected = "(H, W) or (B, H, W) for both; resize predictions, never the target"
        raise ValueError(f"predicted has shape {shape} and target {other}, expected {expected}")
    check_values(predicted, "predicted", n_classes, ignore_index)
    check_values(target, "target", n_classes, ignore_index)
    predicted = predicted.to(target.device)
    predicted = predicted.masked_fill(predicted == ignore_index, 0)
    rows = target if band is None else target + n_classes * band
    pairs = rows * n_classes + predicted  # row and column in one number
    pairs = pairs[target != ignore_index]  # (counted pixels,)
    parts = 1 if band is None else 2
    counts = torch.bincount(pairs, minlength=parts * n_classes**2)
    return counts.view(parts, n_classes, n_classes).cpu()


def check_complete(what: str, masks: Mapping | None, names: Collection[object]) -> None:
    """Raise an error unless there are masks by image name, and all those of ``names``.

    Example:
        >>> check_complete("target", {"a": 1}, ["a", "b", "c"])
        Traceback (most recent call last):
        ValueError: 2 of 3 images have no target mask: b, c; give them too, or \
leave these images out
    """
    if not isinstance(masks, Mapping):
        raise ValueError(f"{what} is {type(masks).__name__}, expected masks by image name")
    missing = [str(name) for name in names if name not in masks]
    if missing:
        listed = ", ".join(missing[:N_NAMED]) + (", ..." if len(missing) > N_NAMED else "")
        problem = f"{len(missing)} of {len(names)} images have no {what} mask: {listed}"
        verb = "predict" if what == "predicted" else "give"
        raise ValueError(f"{problem}; {verb} them too, or leave these images out")
    if not len(masks):
        raise ValueError(f"{what} holds no images, expected at least one mask")


def check_values(mask: Tensor, name: str, n_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
    """Raise if a mask holds a value that is neither a class nor ``ignore_index``."""
    outside = ((mask < 0) | (mask >= n_classes)) & (mask != ignore_index)
    if outside.any():
        place = outside.nonzero()[0].tolist()
        problem = f"{name} holds {mask[tuple(place)].item()} at {place} of {tuple(mask.shape)}"
        expected = f"0 to {n_classes - 1} or {ignore_index}; check the class list"
        raise ValueError(f"{problem}, expected {expected}, and read masks as indices, not colours")


def as_mask(mask: Tensor | np.ndarray, name: str) -> Tensor:
    """Convert a mask of any integers to an int64 tensor.

    Args:
        mask: any shape, integers or bool.
        name: its name in an error message.

    Returns:
        The same shape, int64, detached.

    Raises:
        ValueError: if it is no tensor or array, or holds no integers.

    Example:
        >>> as_mask(np.array([[0, 255]], np.uint8), "target")
        tensor([[  0, 255]])
    """
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "biu":
        mask = torch.from_numpy(mask.astype(np.int64))
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        dtype = getattr(mask, "dtype", type(mask).__name__)
        raise ValueError(f"{name} is {dtype}, expected integers; make masks by scores_to_masks")
    return mask.detach().long()


def bootstrap_mean_iou(
    intersections: np.ndarray, unions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
) -> np.ndarray:
    """Compute the mean IoU of resampled data sets: as many images, drawn with replacement.

    The mean IoU of a data set is made of sums over its images, so a resample is a row of weights
    times these sums. Resample r draws ``rng.integers(N, size=N)``, one after the other, from
    ``numpy.random.default_rng(seed)``.

    Args:
        intersections: (N, S) pixel counts of each image and class.
        unions: (N, S) the same, never below the intersections.
        n_bootstrap: number of resamples R.
        seed: of the resampling.

    Returns:
        (R,) float64 in [0, 1]; NaN for a resample without a counted pixel.

    Example:
        With one image every resample is the data set itself:

        >>> bootstrap_mean_iou(np.array([[1, 3]]), np.array([[2, 4]]), n_bootstrap=2)
        array([0.625, 0.625])
    """
    totals = resampled(np.hstack([intersections, unions]), n_bootstrap=n_bootstrap, seed=seed)
    return mean_of(divide(*np.split(totals, 2, axis=1)))


def resampled(counts: np.ndarray, *, n_bootstrap: int, seed: int) -> np.ndarray:
    """Sum counts over the images of resampled data sets.

    Args:
        counts: (N, M) of each image.
        n_bootstrap: number of resamples R.
        seed: of the resampling; the draws depend on N and on it alone.

    Returns:
        (R, M) float64.
    """
    rng = np.random.default_rng(seed)
    N, M = counts.shape
    totals = np.zeros((n_bootstrap, M))
    for portion in np.split(totals, range(100, n_bootstrap, 100)):  # so that weights stay small
        draws = [np.bincount(rng.integers(N, size=N), minlength=N) for _ in portion]
        portion[:] = np.array(draws, dtype=float).reshape(-1, N) @ counts.astype(float)
    return totals


def interval_of(means: np.ndarray) -> tuple[float, float]:
    """Return the percentile bounds that hold 95 % of the resampled means; NaN if there are none."""
    means = means[np.isfinite(means)]
    return tuple(np.percentile(means, [2.5, 97.5]).tolist()) if len(means) else (np.nan, np.nan)


def unions_of(matrix: np.ndarray) -> np.ndarray:
    """Return the pixels in target or prediction of each class: (..., K, K) -> (..., K)."""
    return matrix.sum(-1) + matrix.sum(-2) - matrix.diagonal(axis1=-2, axis2=-1)


def warn_of_no_object(matrix: np.ndarray, ignored: int) -> None:
    """Warn of targets without a pixel of a class, but with 255: were the objects drawn as 255?

    Args:
        matrix: (K, K) pixel counts, rows targets.
        ignored: how many pixels of the targets are 255.
    """
    if ignored and not matrix[1:].any():
        problem = "no target has a pixel of a class, only background and 255, which is ignored"
        warnings.warn(f"{problem}; draw class c as c + 1, objects are not 255", stacklevel=4)


def check_use_of_255(share: float, *, finds_objects: bool, finds_background: bool) -> None:
    """Raise an error if 255 seems to stand for objects or the background in predictions.

    Args:
        share: of the pixels that are predicted 255, in [0, 1].
        finds_objects: whether any pixel is predicted as a class.
        finds_background: whether any pixel is predicted as background.

    Example:
        >>> check_use_of_255(0.3, finds_objects=False, finds_background=True)
        Traceback (most recent call last):
        ValueError: all objects are 255, and 255 means that a pixel is in doubt; draw class c as \
c + 1
    """
    meaning = "255 means that a pixel is in doubt"
    if share and not finds_objects:
        raise ValueError(f"all objects are 255, and {meaning}; draw class c as c + 1")
    if share > 0.5 and not finds_background:
        problem = f"{100 * share:.0f} % of the pixels are 255 and none is 0, and {meaning}"
        raise ValueError(f"{problem}; draw the background as 0")


def divide(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Compute IoU from counts; NaN for a class in neither."""
    with np.errstate(invalid="ignore"):
        return np.asarray(intersections, float) / unions


def mean_of(iou: np.ndarray) -> np.ndarray:
    """Compute the mean over the last axis of the values that are not NaN; NaN if all are."""
    defined = np.isfinite(iou)
    with np.errstate(invalid="ignore"):
        return np.where(defined, iou, 0).sum(-1) / defined.sum(-1)
