"""Honest numbers: ground-truth masks enter here and nowhere else.

`evaluate` scores predictions, `compare_reports` compares two reports and `judge` ranks several;
`sweep_background` chooses, on a validation split, the one number between maps and masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_seed
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.evaluation import confusion
from wsss_kit.evaluation.agreement import Agreement, agree, disagreement_map
from wsss_kit.evaluation.background import (
    CONSTANTS,
    CRF_RULES,
    POWERS,
    BackgroundRule,
    Chosen,
    best_rule,
    choose_rule,
    predict_masks,
    sweep_background,
)
from wsss_kit.evaluation.comparison import (
    Comparison,
    Judgement,
    check_meaning,
    compare_reports,
    rank_reports,
)
from wsss_kit.evaluation.confusion import ERROR_KINDS, ConfusionMatrix
from wsss_kit.evaluation.error_kinds import (
    boundary_band,
    error_map,
    error_shares,
    error_sources,
    spills,
    stuff_counts,
)
from wsss_kit.evaluation.published_numbers import (
    Published,
    beside_published,
    explain_gap,
    published,
    published_rows,
)
from wsss_kit.evaluation.report import Protocol, Report
from wsss_kit.prompts.checks import checked_words


def evaluate(
    predicted: Mapping[str, Tensor | np.ndarray],
    target: Mapping[str, Tensor | np.ndarray],
    *,
    classes: Sequence[str],
    protocol: Protocol,
    scored: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    boundary: int | None = None,
    stuff: Mapping[str, Tensor | np.ndarray] | None = None,
    stuff_names: Sequence[str] = (),
) -> Report:
    """Compare predicted masks with the ground truth of every image of ``target``.

    Pixels are summed over all images before the division, as PASCAL VOC does. A prediction of
    255 counts as background, a target of 255 not at all. Predictions for images outside
    ``target`` are left alone.

    Args:
        predicted: image name to (H, W) int64 mask.
        target: image name to (H, W) int64 mask; decides which images count.
        classes: C names without background; class c has value c + 1.
        protocol: how the predictions were made; its number of images and scored classes are
            filled in here.
        scored: names among ``classes`` that count beside background, all if None. Target pixels
            of other classes count as 255, and the mean is over background and these.
        n_bootstrap: resamples of the images for the interval; 0 for none.
        seed: of the resampling.
        boundary: width of the boundary band in pixels on each side of a target's border; None for
            1 % of the diagonal, at least 2.
        stuff: image name to (H, W) integers, the kind of background of each pixel, 255 for none;
            where it is known `error_sources` says what a class spilled onto.
        stuff_names: of the J kinds, such as ``paperworld.STUFF``.

    Returns:
        A ``Report``; print it, or end a notebook cell with it.

    Raises:
        ValueError: if predictions are missing, an image's masks differ in size, a value is
            outside the classes, or names are unknown. The message names the image.

    Example:
        The camel is taken for a cow, and two pixels say nothing about a whole data set:

        >>> report = evaluate(
        ...     {"a": torch.tensor([[0, 1]]), "b": torch.tensor([[0, 1]])},
        ...     {"a": torch.tensor([[0, 1]]), "b": torch.tensor([[0, 2]])},
        ...     classes=("cow", "camel"),
        ...     protocol=Protocol("two images", "val"),
        ...     boundary=0,
        ... )
        >>> report.iou.tolist(), report.mean_iou
        ([1.0, 0.5, 0.0], 0.5)
        >>> [round(bound, 3) for bound in report.interval]
        [0.333, 1.0]
        >>> report.worst[0]
        ('b', 0.5)
    """
    keep = _scored_values(classes, scored)
    if not isinstance(protocol, Protocol):
        raise ValueError(f"protocol is {protocol!r}, expected Protocol(data=..., split=...)")
    confusion.check_complete("target", target, ())
    confusion.check_complete("predicted", predicted, target)
    if protocol.n_images not in (None, len(target)):
        counts = f"{protocol.n_images} images but target holds {len(target)}"
        raise ValueError(f"the protocol says {counts}; leave n_images out")
    if stuff is not None or stuff_names:
        checked_words(stuff_names, "stuff_names")
        confusion.check_complete("stuff", stuff, target)
    check_count("n_bootstrap", n_bootstrap, least=0)
    check_seed(seed)
    names = ("background", *classes)
    n_values = len(names)
    counts, image_iou, sizes = [], {}, set()
    unsure = ignored = 0  # pixels predicted 255 where the target says something; targets of 255
    matrix = np.zeros((2, n_values, n_values), np.int64)  # outside and inside the boundary band
    on_stuff = np.zeros((len(stuff_names) + 1, n_values), np.int64)
    for name in target:
        try:  # each mask is read once, for it may lie on a disk
            mask = confusion.as_mask(predicted[name], "predicted")
            truth = confusion.as_mask(target[name], "target")
            (both,) = image_counts([mask], truth, n_values, keep=keep, boundary=boundary)
            if stuff is not None:
                on_stuff += stuff_counts(mask, truth, stuff[name], on_stuff.shape, boundary)
        except ValueError as error:
            raise ValueError(f"image {name!r}: {error}") from error
        matrix += both
        sizes.add(tuple(truth.shape))
        unsure += int(((mask == IGNORE_INDEX) & (truth != IGNORE_INDEX).to(mask.device)).sum())
        ignored += int((truth == IGNORE_INDEX).sum())
        whole = both.sum(0)  # (K, K)
        hits, union = whole.diagonal(), confusion.unions_of(whole)
        counts.append((hits[keep], union[keep]))
        present = whole.sum(1) > 0
        if present.any():
            image_iou[name] = float(np.mean(hits[present] / union[present]))
    intersections, unions = np.array(counts).swapaxes(0, 1)  # (N, S) each
    iou = confusion.divide(intersections.sum(0), unions.sum(0))
    means = confusion.bootstrap_mean_iou(intersections, unions, n_bootstrap=n_bootstrap, seed=seed)
    whole, kept = matrix.sum(0), tuple(names[value] for value in keep)
    share = unsure / max(1, int(whole.sum()))
    confusion.warn_of_no_object(whole, ignored)
    note = "all classes" if kept == names else f"{', '.join(kept)}; other classes ignored"
    return Report(
        protocol=replace(protocol, n_images=len(counts), scored=note, predicted_255=share),
        classes=kept,
        iou=iou,
        mean_iou=float(confusion.mean_of(iou)),
        interval=confusion.interval_of(means),
        error_shares=error_shares(inside=matrix[1], outside=matrix[0])[keep],
        pixels=matrix.sum((0, 2))[keep],
        image_iou=image_iou,
        matrix=whole,
        values=names,
        inside=matrix[1],
        names=tuple(target),
        intersections=intersections,
        unions=unions,
        precision=confusion.divide(whole.diagonal(), whole.sum(0))[keep],
        settings={
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "boundary": boundary,
            "sizes": sorted(sizes)[:20],
        },
        stuff=None if stuff is None else on_stuff,
        stuff_names=tuple(stuff_names),
    )


def image_counts(
    predictions: Sequence[Tensor | np.ndarray],
    target: Tensor | np.ndarray,
    n_values: int,
    *,
    keep: np.ndarray | None = None,
    boundary: int | None = None,
) -> np.ndarray:
    """Count pixels of several predictions of one image, in and out of the band at its borders.

    Args:
        predictions: V masks (H, W) of integers.
        target: (H, W) of integers, 255 ignored.
        n_values: K, background included.
        keep: values whose target pixels count; None for all.
        boundary: width of the band, see `boundary_band`.

    Returns:
        (V, 2, K, K) int64, outside first; rows are targets, columns predictions.
    """
    target = confusion.as_mask(target, "target")
    band = boundary_band(target, boundary)
    counted = target
    if keep is not None:
        kept = torch.isin(target, torch.as_tensor(keep, device=target.device))
        counted = target.masked_fill(~kept, IGNORE_INDEX)
    counts = []
    for predicted in predictions:
        whole, inside = (
            confusion.ConfusionMatrix(n_values).update(predicted, truth).matrix.numpy()
            for truth in (counted, counted.masked_fill(~band, IGNORE_INDEX))
        )
        counts.append(np.stack([whole - inside, inside]))
    confusion.check_values(target, "target", n_values)  # those that do not count as well
    return np.stack(counts)


def _scored_values(classes: Sequence[str], scored: Sequence[str] | None) -> np.ndarray:
    """Return the mask values that count, ascending, background among them."""
    classes = checked_words(classes, "classes")
    scored = classes if scored is None else checked_words(scored, "scored", among=classes)
    if "background" in classes:
        raise ValueError(f"classes is {classes}, expected different names without 'background'")
    return np.array([0, *(c for c, name in enumerate(classes, 1) if name in scored)])


def judge(
    masks: Mapping[str, Mapping[str, Tensor]],
    target: Mapping[str, Tensor],
    *,
    classes: Sequence[str],
    protocol: Protocol | Mapping[str, Protocol],
    n_bootstrap: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Judgement:
    """Score several sets of masks and rank them. Sets that do not differ surely share a rank.

    Args:
        masks: name of a set -> image name -> (H, W) integers, of at least two sets.
        target: image name -> ground truth, as for `evaluate`.
        classes: C names without background.
        protocol: how the masks were made, of all sets or by the name of a set.
        n_bootstrap: resamples of the images for all intervals, at least 1.
        seed: of the resampling.
        **options: others of `evaluate`, such as ``scored``.

    Returns:
        A `Judgement`; print it. ``ErrorAtlas(samples, masks, target, judgement.reports)`` shows the
        errors.

    Raises:
        ValueError: as `evaluate` does, with the name of the set; or if the values of a set seem to
            mean something else, see `check_meaning`.

    Example:
        >>> truth = {"a": torch.tensor([[0, 1]]), "b": torch.tensor([[1, 1]])}
        >>> masks = {"nothing": {name: 0 * mask for name, mask in truth.items()}, "all": truth}
        >>> judge(masks, truth, classes=["cow"], protocol=Protocol("two images", "val")).ranks
        {'all': 1, 'nothing': 2}
    """
    given: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, **options}
    reports = {}
    for name, each in masks.items():
        stated = protocol if isinstance(protocol, Protocol) else protocol[name]
        try:
            reports[name] = evaluate(each, target, classes=classes, protocol=stated, **given)
            check_meaning(reports[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if not reports[name].image_iou:
            raise ValueError("the ground truth is 255 everywhere, so there is nothing to judge by")
    return rank_reports(reports, n_bootstrap=n_bootstrap, seed=seed)
