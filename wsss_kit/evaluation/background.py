"""Choosing the background rule: the one number between maps and masks, and never on the test set.

A rule is either a constant (``threshold``: a pixel is background where no map exceeds it) or a
power (``power``: the background score is ``(1 - max) ** power``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wsss_kit.checks import (
    check_count,
    check_counts,
    check_positive,
    check_probability,
    check_samples,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.evaluation.confusion import ConfusionMatrix
from wsss_kit.masks import MapsOf, Refine, add_background, scores_to_masks
from wsss_kit.training import progress


@dataclass(frozen=True)
class BackgroundRule:
    """One background rule; exactly one of the two numbers is given.

    Args:
        threshold: the constant background, in [0, 1].
        power: the exponent, above 0.

    Raises:
        ValueError: if both or none are given, or one is out of its range.

    Example:
        >>> str(BackgroundRule(threshold=0.25)), str(BackgroundRule(power=2))
        ('constant 0.25', '(1 - max)^2')
    """

    threshold: float | None = None
    power: float | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.power is None):
            raise ValueError(
                f"threshold is {self.threshold} and power {self.power}, expected exactly one of "
                "the two"
            )
        if self.threshold is not None:
            check_probability("threshold", self.threshold)
        else:
            check_positive("power", self.power)

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"constant {self.threshold:g}"
        return f"(1 - max)^{self.power:g}"

    def scores(self, maps: Tensor) -> Tensor:
        """Maps with their background: (B, C, H, W) -> (B, 1 + C, H, W)."""
        return add_background(maps, threshold=self.threshold, power=self.power)

    def masks(self, maps: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B, C) -> (B, H, W) int64."""
        return scores_to_masks(self.scores(maps), labels)


CONSTANTS = tuple(BackgroundRule(threshold=round(0.05 * k, 2)) for k in range(1, 17))
POWERS = tuple(BackgroundRule(power=p) for p in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 10))
CRF_RULES = (
    *(BackgroundRule(threshold=round(0.05 * k, 2)) for k in range(3, 11)),
    *(BackgroundRule(power=p) for p in (1, 2, 3, 4)),
)
"""Fewer rules for scores that go through a CRF, once a picture and rule."""


class MapBatch(NamedTuple):
    """Pictures of equal size with their maps.

    Args:
        names: B names.
        images: (B, 3, H, W).
        maps: (B, C, H, W) in [0, 1].
        labels: (B, C).
    """

    names: list[str]
    images: Tensor
    maps: Tensor
    labels: Tensor

    def masks(self, rule: BackgroundRule, refine: Refine | None = None) -> Tensor:
        """(B, H, W) int64 by a background rule, its scores refined or as they are."""
        if refine is None:
            return rule.masks(self.maps, self.labels)
        refined = refine(rule.scores(self.maps), self.images, self.labels)
        return scores_to_masks(refined, self.labels)


def map_batches(
    maps_of: MapsOf, samples: Sequence[Sample], *, batch_size: int, what: str, shown: bool
) -> Iterator[MapBatch]:
    """Maps of all samples in order, up to ``batch_size`` pictures of equal size together.

    Raises:
        ValueError: if there is no picture, or ``batch_size`` is no count.
    """
    check_count("batch_size", batch_size)
    check_samples(samples)
    batch: list[Sample] = []
    count = len(samples)
    for i, sample in enumerate(progress(samples, what=what, shown=shown, total=count)):
        if batch and sample.image.shape != batch[0].image.shape:
            yield _maps_of_batch(maps_of, batch)
            batch = []
        batch.append(sample)
        if len(batch) == batch_size or i == count - 1:
            yield _maps_of_batch(maps_of, batch)
            batch = []


def _maps_of_batch(maps_of: MapsOf, batch: Sequence[Sample]) -> MapBatch:
    images = torch.stack([sample.image for sample in batch])
    labels = torch.stack([sample.labels for sample in batch])
    maps = maps_of(images, labels)
    expected = (*labels.shape, *images.shape[-2:])
    if maps.shape != expected:
        raise ValueError(
            f"the maps have shape {tuple(maps.shape)}, expected {expected}: one map a class at the "
            "size of the picture; recipes.cam_maps makes such maps, and cam.upsample resizes"
        )
    return MapBatch([sample.name for sample in batch], images, maps, labels)


def predict_masks(
    maps_of: MapsOf,
    samples: Sequence[Sample],
    rule: BackgroundRule,
    *,
    refine: Refine | None = None,
    batch_size: int = 16,
    shown: bool = True,
    what: str = "masks",
) -> dict[str, Tensor]:
    """Masks of all samples by their names.

    Args:
        maps_of: pictures and labels to maps.
        samples: the pictures.
        rule: puts a background before the maps.
        refine: what happens to the scores then, such as `crf.crf_of_present`; None for nothing.
        batch_size: pictures of equal size that go through together.
        shown: whether to show a progress bar.
        what: its name.

    Returns:
        name -> (H, W) int64.

    Raises:
        ValueError: if there is no picture, two of them share a name, the maps are not of the
            pictures' size and classes, or an argument is not what it should be.
    """
    _check_rules([rule])
    predicted: dict[str, Tensor] = {}
    for batch in map_batches(maps_of, samples, batch_size=batch_size, what=what, shown=shown):
        for name, mask in zip(batch.names, batch.masks(rule, refine), strict=True):
            if name in predicted:
                raise ValueError(f"two pictures are called {name!r}, expected different names")
            predicted[name] = mask
    return predicted


def sweep_background(
    maps_of: MapsOf,
    samples: Sequence[Sample],
    target: Mapping[str, Tensor],
    *,
    rules: Sequence[BackgroundRule] = CONSTANTS + POWERS,
    refine: Refine | None = None,
    scored: Sequence[int] | None = None,
    batch_size: int = 16,
    shown: bool = True,
    what: str = "background rule",
) -> dict[BackgroundRule, float]:
    """Score every rule against ground truth: tuning, so use a validation split.

    Args:
        maps_of: pictures and labels to maps.
        samples: pictures of the validation split.
        target: name -> (H, W) int64 ground truth.
        rules: what to try.
        refine: what happens to the scores after the rule, see `predict_masks`. All rules of one
            picture go through it as one batch; ``CRF_RULES`` are few enough for a CRF.
        scored: mask values beside 0 that count; None for all classes.
        batch_size: pictures of equal size that go through together.
        shown: whether to show a progress bar.
        what: its name.

    Returns:
        Rule -> mIoU in [0, 1], in the order of ``rules``.

    Raises:
        ValueError: if there is no picture, or one without ground truth where names are known
            without decoding, or an argument is not what it should be; nothing is computed then.
            Also if the maps are not of the pictures' size and classes.
    """
    _check_rules(rules)
    if scored is not None:
        check_counts("scored", scored, "mask values")
    _check_targets(samples, target)
    matrices: list[ConfusionMatrix] = []
    for batch in map_batches(maps_of, samples, batch_size=batch_size, what=what, shown=shown):
        truth = torch.stack([target[name] for name in batch.names])
        if scored is not None:
            counted = torch.isin(truth, torch.tensor([0, *scored]))
            truth = truth.masked_fill(~counted, IGNORE_INDEX)
        if not matrices:
            C = batch.labels.shape[1]
            if scored is not None and max(scored, default=1) > C:
                raise ValueError(f"scored holds {max(scored)}, expected mask values from 1 to {C}")
            matrices = [ConfusionMatrix(1 + batch.labels.shape[1]) for _ in rules]
        if refine is None:
            for matrix, rule in zip(matrices, rules, strict=True):
                matrix.update(batch.masks(rule), truth)
            continue
        for b in range(len(batch.names)):
            masks = _masks_by_all_rules(batch, b, rules, refine)
            for matrix, mask in zip(matrices, masks, strict=True):
                matrix.update(mask, truth[b])
    values = slice(None) if scored is None else [0, *scored]
    means = [float(matrix.iou()[values].nanmean()) for matrix in matrices]
    return dict(zip(rules, means, strict=True))


def _check_rules(rules: Sequence[BackgroundRule]) -> None:
    """Refuse what are no rules, and none at all."""
    if not rules:
        raise ValueError("rules is empty, expected at least one BackgroundRule")
    for rule in rules:
        if not isinstance(rule, BackgroundRule):
            raise ValueError(f"a rule is {rule!r}, expected BackgroundRule(threshold=...)")


def _check_targets(samples: Sequence[Sample], target: Mapping[str, Tensor]) -> None:
    """Refuse pictures without ground truth before any map is made."""
    names = getattr(samples, "names", None)
    if names is None:
        names = [s.name for s in samples] if isinstance(samples, (list, tuple)) else []
    missing = [name for name in names if name not in target]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} pictures have no ground truth, the first is "
            f"{missing[0]!r}; score those that have one: "
            "samples.pick(name for name in samples.names if name in target)"
        )


def _masks_by_all_rules(
    batch: MapBatch, b: int, rules: Sequence[BackgroundRule], refine: Refine
) -> Tensor:
    """Refined masks of one picture, (rules, H, W): a CRF sees all its scores at once."""
    scores = torch.cat([rule.scores(batch.maps[b][None]) for rule in rules])  # (R, 1 + C, H, W)
    images, labels = (
        values[b].expand(len(rules), *values.shape[1:]) for values in (batch.images, batch.labels)
    )
    return scores_to_masks(refine(scores, images, labels), labels)


def best_rule(swept: Mapping[BackgroundRule, float]) -> BackgroundRule:
    """The rule with the highest mIoU; the first of equals.

    Raises:
        ValueError: if there is none whose mIoU is a number.
    """
    scored = {rule: score for rule, score in swept.items() if not math.isnan(score)}
    if not scored:
        raise ValueError(
            f"none of {len(swept)} rules has an mIoU that is a number, expected what "
            "sweep_background returns for pictures with ground truth"
        )
    return max(scored, key=lambda rule: scored[rule])
