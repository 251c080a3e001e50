"""Choosing the background rule: the one number between maps and masks, and never on the test set.

A rule is either a constant (``threshold``: a pixel is background where no map exceeds it) or a
power (``power``: the background score is ``(1 - max) ** power``).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import NamedTuple

import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_samples, check_shape, checked
from wsss_kit.classes import Sample
from wsss_kit.evaluation.confusion import ConfusionMatrix, check_complete
from wsss_kit.masks import BackgroundRule, MapsOf, Refine
from wsss_kit.pipeline import Pipeline
from wsss_kit.processes import progress

CONSTANTS = tuple(BackgroundRule(threshold=round(0.05 * k, 2)) for k in range(1, 17))
POWERS = tuple(BackgroundRule(power=p) for p in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 10))
CRF_RULES = (
    *(BackgroundRule(threshold=round(0.05 * k, 2)) for k in range(3, 11)),
    *(BackgroundRule(power=p) for p in (1, 2, 3, 4)),
)
"""Fewer rules for scores that go through a CRF, once an image and rule."""


def _batches(
    pipeline: Pipeline, samples: Sequence[Sample], *, batch_size: int, what: str, shown: bool
) -> Iterator[tuple[list[str], Tensor, Tensor, Tensor]]:
    """Compute maps of all samples in order, up to ``batch_size`` images of equal size together.

    Yields:
        B names, images (B, 3, H, W), labels (B, C) and maps (B, C, H, W).
    """
    check_count("batch_size", batch_size)
    check_samples(samples)
    read = progress(samples, what=what, shown=shown, total=len(samples))
    for _, alike in groupby(read, key=lambda sample: sample.image.shape):
        while batch := list(islice(alike, batch_size)):
            images = torch.stack([sample.image for sample in batch])
            labels = torch.stack([sample.labels for sample in batch])
            maps = pipeline.maps(images, labels)
            expected = f"({len(labels)}, {labels.shape[1]}, H, W), as recipes.cam_maps makes"
            check_shape(maps.shape[:2] == labels.shape, "maps_of(...)", maps, expected)
            yield [sample.name for sample in batch], images, labels, maps


def _as_pipeline(maps_of: Pipeline | MapsOf, refine: Refine | None) -> Pipeline:
    if not isinstance(maps_of, Pipeline):
        return Pipeline(maps_of, crf=refine or False)
    return maps_of if refine is None else replace(maps_of, crf=refine)


def predict_masks(
    maps_of: Pipeline | MapsOf,
    samples: Sequence[Sample],
    rule: BackgroundRule,
    *,
    refine: Refine | None = None,
    batch_size: int = 16,
    shown: bool = True,
    what: str = "masks",
) -> dict[str, Tensor]:
    """Compute masks of all samples by their names.

    Args:
        maps_of: a `Pipeline`, whose maps and CRF count, or a function of images and labels that
            returns maps.
        samples: the images.
        rule: puts a background before the maps.
        refine: what happens to the scores then, such as `crf.crf_of_present`; None for nothing.
        batch_size: images of equal size that go through together.
        shown: whether to show a progress bar.
        what: its name.

    Returns:
        name -> (H, W) int64.

    Raises:
        ValueError: if there is no image, two of them share a name, the maps are not of the
            images' size and classes, or an argument is not what it should be.
    """
    _check_rules([rule])
    pipeline = _as_pipeline(maps_of, refine)
    predicted: dict[str, Tensor] = {}
    batches = _batches(pipeline, samples, batch_size=batch_size, what=what, shown=shown)
    for names, images, labels, maps in batches:
        masks = pipeline.masks_of(rule.scores(maps), images, labels)
        for name, mask in zip(names, masks, strict=True):
            if name in predicted:
                raise ValueError(f"two images are called {name!r}, expected different names")
            predicted[name] = mask
    return predicted


def sweep_background(
    maps_of: Pipeline | MapsOf,
    samples: Sequence[Sample],
    target: Mapping[str, Tensor],
    *,
    rules: Sequence[BackgroundRule] = CONSTANTS + POWERS,
    refine: Refine | None = None,
    batch_size: int = 16,
    shown: bool = True,
    what: str = "background rule",
) -> dict[BackgroundRule, float]:
    """Score every rule against ground truth: tuning, so use a validation split.

    Args:
        maps_of: a `Pipeline`, whose maps and CRF count, or a function of images and labels that
            returns maps.
        samples: images of the validation split.
        target: name -> (H, W) int64 ground truth.
        rules: what to try.
        refine: what happens to the scores after the rule, see `predict_masks`. All rules of one
            image go through it as one batch; ``CRF_RULES`` are few enough for a CRF.
        batch_size: images of equal size that go through together.
        shown: whether to show a progress bar.
        what: its name.

    Returns:
        Rule -> mIoU in [0, 1], in the order of ``rules``.

    Raises:
        ValueError: if there is no image, or one without ground truth where names are known
            without decoding, or an argument is not what it should be; nothing is computed then.
            Also if the maps are not of the images' size and classes.
    """
    _check_rules(rules)
    listed = samples if isinstance(samples, (list, tuple)) else []  # others are not decoded
    names = getattr(samples, "names", None) or [sample.name for sample in listed]
    check_complete("target", target, names)
    pipeline = _as_pipeline(maps_of, refine)
    matrices: list[ConfusionMatrix] = []
    batches = _batches(pipeline, samples, batch_size=batch_size, what=what, shown=shown)
    for names, images, labels, maps in batches:
        truth = torch.stack([target[name] for name in names])  # (B, H, W)
        masks = []  # of each image, (R, H, W): a CRF sees the scores of all rules at once
        for image, present, of_image in zip(images, labels, maps, strict=True):
            with checked():  # the maps were checked when they were computed
                scores = torch.cat([rule.scores(of_image[None]) for rule in rules])
            same = (each.expand(len(rules), *each.shape) for each in (image, present))
            masks.append(pipeline.masks_of(scores, *same))
        matrices = matrices or [ConfusionMatrix(1 + labels.shape[1]) for _ in rules]
        for matrix, of_rule in zip(matrices, torch.stack(masks, 1), strict=True):
            matrix.update(of_rule, truth)
    return {rule: each.mean_iou() for rule, each in zip(rules, matrices, strict=True)}


def _check_rules(rules: Sequence[BackgroundRule]) -> None:
    """Raise an error for what are no rules, and for none at all."""
    if not rules or not all(isinstance(rule, BackgroundRule) for rule in rules):
        raise ValueError(f"rules is {rules}, expected such as [BackgroundRule(threshold=0.3)]")


def best_rule(swept: Mapping[BackgroundRule, float]) -> BackgroundRule:
    """Return the rule with the highest mIoU; the first of equals.

    Raises:
        ValueError: if there is none whose mIoU is a number.
    """
    scored = {rule: score for rule, score in swept.items() if not math.isnan(score)}
    if not scored:
        raise ValueError(f"none of {len(swept)} rules has an mIoU; give what sweep_background made")
    return max(scored, key=lambda rule: scored[rule])


class Chosen(NamedTuple):
    """A background rule, and the masks of other images by it.

    Args:
        rule: the best one.
        swept: every rule that was tried -> its mIoU in [0, 1] where it was chosen.
        masks: name -> (H, W) int64.
        text: the rule in the words of a protocol.
    """

    rule: BackgroundRule
    swept: Mapping[BackgroundRule, float]
    masks: dict[str, Tensor]
    text: str


def choose_rule(
    maps_of: Pipeline | MapsOf,
    val: Sequence[Sample],
    val_masks: Mapping[str, Tensor],
    test: Sequence[Sample],
    *,
    rules: Sequence[BackgroundRule] | None = None,
    refine: Refine | None = None,
    what: str = "",
    shown: bool = True,
) -> Chosen:
    """Choose the background rule on one split and make the masks of another by it.

    Args:
        maps_of: as for `sweep_background`.
        val: chooses the rule.
        val_masks: its ground truth, name to (H, W) int64.
        test: is predicted.
        rules: what to try; None for all rules, or those few that a refinement has time for.
        refine: what happens to the scores after the rule, see `predict_masks`.
        what: name of the method on the progress bars.
        shown: whether to show them.
    """
    if rules is None:
        rules = CONSTANTS + POWERS if refine is None else CRF_RULES
    options, name = {"refine": refine, "shown": shown}, f"{what}: " if what else ""
    bar = f"{name}rule on val"
    swept = sweep_background(maps_of, val, val_masks, rules=rules, what=bar, **options)
    rule = best_rule(swept)
    masks = predict_masks(maps_of, test, rule, what=f"{name}masks on test", **options)
    return Chosen(rule, swept, masks, f"{rule}, chosen on {len(val)} val images")
