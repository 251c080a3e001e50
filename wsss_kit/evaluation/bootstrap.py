"""Bootstrap of a number: data sets of as many images, drawn again with replacement."""

from __future__ import annotations

import numpy as np


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
    for start in range(0, n_bootstrap, 100):  # in portions, so that weights stay small
        n_rows = min(100, n_bootstrap - start)
        draws = [np.bincount(rng.integers(N, size=N), minlength=N) for _ in range(n_rows)]
        totals[start : start + n_rows] = np.array(draws, dtype=float) @ counts.astype(float)
    return totals


def interval_of(means: np.ndarray) -> tuple[float, float]:
    """Return the percentile bounds that hold 95 % of the resampled means; NaN if there are none."""
    means = means[np.isfinite(means)]
    if not len(means):
        return float("nan"), float("nan")
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def divide(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Compute IoU from counts; NaN for a class in neither."""
    with np.errstate(invalid="ignore"):
        return np.asarray(intersections, float) / unions


def mean_of(iou: np.ndarray) -> np.ndarray:
    """Compute the mean over the last axis of the values that are not NaN; NaN if all are."""
    defined = np.isfinite(iou)
    with np.errstate(invalid="ignore"):
        return np.where(defined, iou, 0).sum(-1) / defined.sum(-1)
