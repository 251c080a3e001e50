"""Honest numbers: ground-truth masks enter here and nowhere else.

`evaluate` scores predictions, `compare_reports` compares two reports and `judge` ranks several;
`sweep_background` chooses, on a validation split, the one number between maps and masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    given: dict[str, Any] = {"classes": classes, "scored": scored, "boundary": boundary}
    given |= {"n_bootstrap": n_bootstrap, "seed": seed}
    given |= {"stuff": stuff, "stuff_names": stuff_names}
    return _evaluated({"": predicted}, target, {"": protocol}, **given)[""]


def _evaluated(
    sets: Mapping[str, Mapping[str, Tensor | np.ndarray]],
    target: Mapping[str, Tensor | np.ndarray],
    protocols: Mapping[str, Protocol],
    *,
    classes: Sequence[str],
    scored: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    boundary: int | None = None,
    stuff: Mapping[str, Tensor | np.ndarray] | None = None,
    stuff_names: Sequence[str] = (),
) -> dict[str, Report]:
    """Score V sets of masks, by their names: targets are read and their bands computed once."""
    keep, names = _scored_values(classes, scored), ("background", *classes)
    confusion.check_complete("target", target, ())
    for name, predicted in sets.items():
        stated = protocols.get(name)
        with _naming(name):
            if not isinstance(stated, Protocol):
                raise ValueError(f"protocol is {stated!r}, expected Protocol(data=..., split=...)")
            confusion.check_complete("predicted", predicted, target)
            if stated.n_images not in (None, len(target)):
                counts = f"{stated.n_images} images but target holds {len(target)}"
                raise ValueError(f"the protocol says {counts}; leave n_images out")
    if stuff is not None or stuff_names:
        checked_words(stuff_names, "stuff_names")
        confusion.check_complete("stuff", stuff, target)
    check_count("n_bootstrap", n_bootstrap, least=0)
    check_seed(seed)
    (V, K), J, ignored, sizes = (len(sets), len(names)), len(stuff_names), 0, set()
    matrices = np.zeros((V, 2, K, K), np.int64)  # outside and inside the boundary band
    on_stuff = np.zeros((V, J + 1, K), np.int64)
    unsure = np.zeros(V, np.int64)  # pixels predicted 255 where the target counts
    counts, image_iou = [], [{} for _ in sets]
    for image in target:  # each mask is read once, for it may lie on a disk
        with _naming(f"image {image!r}"):
            truth = confusion.as_mask(target[image], "target")
            band, counted = boundary_band(truth, boundary), only_counted(truth, keep, K)
            kinds = None if stuff is None else stuff[image]
        sizes.add(tuple(truth.shape))
        ignored += int((truth == IGNORE_INDEX).sum())
        both = np.zeros_like(matrices)  # of this image
        for v, (name, predicted) in enumerate(sets.items()):
            with _naming(name), _naming(f"image {image!r}"):
                mask = confusion.as_mask(predicted[image], "predicted")
                (both[v],) = image_counts([mask], counted, K, band=band)
                if kinds is not None:
                    on_stuff[v] += stuff_counts(mask, truth, kinds, (J + 1, K), band)
            doubt = (mask == IGNORE_INDEX) & (counted != IGNORE_INDEX).to(mask.device)
            unsure[v] += int(doubt.sum())
        matrices += both
        whole = both.sum(1)  # (V, K, K)
        hits, union = whole.diagonal(axis1=1, axis2=2), confusion.unions_of(whole)
        counts.append((hits[:, keep], union[:, keep]))
        present = whole[0].sum(1) > 0  # in the target
        for v in range(V if present.any() else 0):
            image_iou[v][image] = float(np.mean(hits[v, present] / union[v, present]))
    wholes = matrices.sum(1)  # (V, K, K)
    confusion.warn_of_no_object(wholes[0], ignored)
    kept = tuple(names[value] for value in keep)
    note = "all classes" if kept == names else f"{', '.join(kept)}; other classes ignored"
    resampling = {"n_bootstrap": n_bootstrap, "seed": seed}
    tallied, reports = np.array(counts).transpose(1, 2, 0, 3), {}  # (2, V, N, S)
    for v, name in enumerate(sets):
        intersections, unions = tallied[:, v]
        iou = confusion.divide(intersections.sum(0), unions.sum(0))
        means = confusion.bootstrap_mean_iou(intersections, unions, **resampling)
        whole, (outside, inside) = wholes[v], matrices[v]
        share = int(unsure[v]) / max(1, int(whole.sum()))
        facts = {"n_images": len(counts), "scored": note, "predicted_255": share}
        reports[name] = Report(
            protocol=replace(protocols[name], **facts),
            classes=kept,
            iou=iou,
            mean_iou=float(confusion.mean_of(iou)),
            interval=confusion.interval_of(means),
            error_shares=error_shares(inside=inside, outside=outside)[keep],
            pixels=whole.sum(1)[keep],
            image_iou=image_iou[v],
            matrix=whole,
            values=names,
            inside=inside,
            names=tuple(target),
            intersections=intersections,
            unions=unions,
            precision=confusion.divide(whole.diagonal(), whole.sum(0))[keep],
            settings={**resampling, "boundary": boundary, "sizes": sorted(sizes)[:20]},
            stuff=None if stuff is None else on_stuff[v],
            stuff_names=tuple(stuff_names),
        )
    return reports


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Let errors begin with the name of what is wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}" if what else str(error)) from error


def only_counted(target: Tensor, keep: np.ndarray, n_values: int) -> Tensor:
    """Set the pixels of a target whose values do not count to 255.

    Args:
        target: (H, W) int64.
        keep: the values that count.
        n_values: K, background included.

    Raises:
        ValueError: if there is a value that is neither one of K nor 255.
    """
    confusion.check_values(target, "target", n_values)
    kept = torch.isin(target, torch.as_tensor(keep, device=target.device))
    return target.masked_fill(~kept, IGNORE_INDEX)


def image_counts(
    predictions: Sequence[Tensor | np.ndarray],
    target: Tensor | np.ndarray,
    n_values: int,
    *,
    band: Tensor | None = None,
) -> np.ndarray:
    """Count pixels of several predictions of one image, in and out of the band at its borders.

    Args:
        predictions: V masks (H, W) of integers.
        target: (H, W) of integers, 255 ignored.
        n_values: K, background included.
        band: (H, W) bool, the band; None for the usual `boundary_band`.

    Returns:
        (V, 2, K, K) int64, outside first; rows are targets, columns predictions.
    """
    target = confusion.as_mask(target, "target")
    band = boundary_band(target) if band is None else band
    masks = (confusion.as_mask(predicted, "predicted") for predicted in predictions)
    counts = [confusion.count_pairs(mask, target, n_values, band=band) for mask in masks]
    return torch.stack(counts).numpy()


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
    stated = protocol if isinstance(protocol, Mapping) else dict.fromkeys(masks, protocol)
    resampling = {"n_bootstrap": n_bootstrap, "seed": seed}
    reports = _evaluated(masks, target, stated, classes=classes, **resampling, **options)
    for name, report in reports.items():
        with _naming(name):
            check_meaning(report)
        if not report.image_iou:
            raise ValueError("the ground truth is 255 everywhere, so there is nothing to judge by")
    return rank_reports(reports, **resampling)
