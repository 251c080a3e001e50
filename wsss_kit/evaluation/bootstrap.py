"""How sure a number is: data sets of as many pictures, drawn again with replacement."""

from __future__ import annotations

import numpy as np

from wsss_kit.checks import check_count


def bootstrap_mean_iou(
    intersections: np.ndarray, unions: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
) -> np.ndarray:
    """Mean IoU of resampled data sets: as many pictures, drawn with replacement.

    The mean IoU of a data set is made of sums over its pictures, so a resample is a row of
    weights times these sums. Resample r draws ``rng.integers(N, size=N)``, one after the other,
    from ``numpy.random.default_rng(seed)``.

    Args:
        intersections: (N, S) pixel counts of each picture and class.
        unions: (N, S) the same.
        n_bootstrap: number of resamples R.
        seed: of the resampling.

    Returns:
        (R,) float64 in [0, 1]; NaN for a resample without a counted pixel.

    Raises:
        ValueError: if the counts differ in shape, hold no picture, or intersect more than they
            unite, or a number is out of its range.

    Example:
        With one picture every resample is the data set itself:

        >>> bootstrap_mean_iou(np.array([[1, 3]]), np.array([[2, 4]]), n_bootstrap=2)
        array([0.625, 0.625])
    """
    check_count("n_bootstrap", n_bootstrap, least=0)
    check_count("seed", seed, least=0)
    shapes = np.shape(intersections), np.shape(unions)
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not shapes[0][0]:
        raise ValueError(
            f"intersections have shape {shapes[0]} and unions {shapes[1]}, expected (N, S) for "
            "both, with at least one picture"
        )
    if not np.all((np.asarray(intersections) >= 0) & (np.asarray(intersections) <= unions)):
        raise ValueError(
            "there are intersections below 0 or above their union; expected pixel counts"
        )
    totals = resampled(np.hstack([intersections, unions]), n_bootstrap=n_bootstrap, seed=seed)
    S = shapes[0][1]
    return mean_of(divide(totals[:, :S], totals[:, S:]))


def resampled(counts: np.ndarray, *, n_bootstrap: int, seed: int) -> np.ndarray:
    """Sums over the pictures of resampled data sets.

    Args:
        counts: (N, M) of each picture.
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
    """Percentile bounds that hold 95 % of the resampled means; NaN if there are none."""
    means = means[np.isfinite(means)]
    if not len(means):
        return float("nan"), float("nan")
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def divide(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """IoU from counts, NaN for a class in neither."""
    with np.errstate(invalid="ignore"):
        return np.asarray(intersections, float) / unions


def mean_of(iou: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the values that are not NaN; NaN if all are."""
    defined = np.isfinite(iou)
    with np.errstate(invalid="ignore"):
        return np.where(defined, iou, 0).sum(-1) / defined.sum(-1)
