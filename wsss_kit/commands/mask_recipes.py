"""What ``masks`` does to a batch: maps, background, walk and CRF, in the papers' order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.checks import check_positive, check_probability
from wsss_kit.commands.batches import InCells, Recipe, Soft
from wsss_kit.crf import crf_of_present
from wsss_kit.evaluation import BackgroundRule
from wsss_kit.masks import scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.recipes import cam_maps, clip_es_cells, clip_es_crf, walked
from wsss_kit.segmentation import Segmenter

_THRESHOLD = 0.15  # of a trained method's maps, in the papers' evaluations
_WALKED = {"threshold": 0.2}, {"power": 16}  # of CLIMS' maps after a walk, and of PSA's
_WALK_POWER = 10  # of IRN and CLIMS; PSA's is the usual 8


def check_rule(threshold: float | None, power: float | None, min_confidence: float | None) -> None:
    """Refuse numbers that make no background, or two of them.

    Raises:
        ValueError: saying which.
    """
    if threshold is not None and power is not None:
        raise ValueError(f"threshold is {threshold} and power {power}, expected one of the two")
    for name, value in {"threshold": threshold, "min_confidence": min_confidence}.items():
        if value is not None:
            check_probability(name, value)
    if power is not None:
        check_positive("power", power)


def check_segmenter(given: Mapping[str, Any]) -> None:
    """Refuse what a segmenter would not heed: its masks come from no maps.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"a segmenter's masks come from no maps, so it takes no {name}; leave it out"
            )


def segmenter_recipe(net: Segmenter, **options: Any) -> Recipe:
    """Pictures to masks, labels unknown; ``options`` are those of `Segmenter.predict`."""

    def recipe(images: Tensor, labels: Tensor) -> Tensor:
        return net.predict(images, **options)

    return recipe


def rule_of(
    method: CAMMethod,
    affinity: AffinityNet | None,
    threshold: float | None,
    power: float | None,
) -> BackgroundRule:
    """The background that was asked for, or the published one."""
    if threshold is not None or power is not None:
        return BackgroundRule(threshold=threshold, power=power)
    if isinstance(method, CLIPES):
        return BackgroundRule(power=1)
    if affinity is None:
        return BackgroundRule(threshold=_THRESHOLD)
    return BackgroundRule(**_WALKED[0 if isinstance(method, CLIMS) else 1])


def recipe_of(
    method: CAMMethod,
    rule: BackgroundRule,
    affinity: AffinityNet | None,
    *,
    walks: bool = True,
    boxes: float,
    crf: bool,
    min_confidence: float | None,
    maps: bool,
) -> Recipe:
    """Pictures and labels to masks, and to the maps that they came from if these are kept.

    Args:
        method: fitted.
        rule: of the background. With an affinity a power walks along with the maps, as PSA and
            SC-CAM have it, and a constant joins after the walk, as IRN and CLIMS have it.
        affinity: None for maps as they are, or CLIP-ES's own walk.
        walks: whether CLIP-ES's maps walk with its attention.
        boxes: threshold of CLIP-ES's boxes.
        crf: whether the dense CRF follows.
        min_confidence: below it pixels become 255; None keeps all.
        maps: whether soft maps are kept.
    """
    of_clip = isinstance(method, CLIPES)
    refine = partial(clip_es_crf, method=method) if of_clip else crf_of_present

    def finish(found: Tensor, images: Tensor, labels: Tensor) -> Tensor | Soft:
        found = upsample(found, images.shape[-2:])
        return masks_of(found, rule.scores(found), images, labels)

    def masks_of(found: Tensor, scores: Tensor, images: Tensor, labels: Tensor) -> Tensor | Soft:
        if crf:
            scores = refine(scores, images, labels)
        masks = scores_to_masks(scores, labels, min_confidence=min_confidence)
        return Soft(masks, found) if maps else masks

    def plain(images: Tensor, labels: Tensor) -> Tensor | Soft:
        return finish(cam_maps(images, labels, method=method), images, labels)

    def with_affinity(images: Tensor, labels: Tensor) -> Tensor | Soft:
        cams, _ = method(images, labels)  # (B, C, h, w)
        if rule.power is not None:  # PSA: the background walks with the maps
            scores = walked(rule.scores(cams), images, affinity_net=affinity)
            return masks_of(scores[:, 1:], scores, images, labels)
        cams = walked(cams, images, affinity_net=affinity, power=_WALK_POWER)
        found = normalize_cams(cams, over="image")
        return masks_of(found, rule.scores(found), images, labels)

    if of_clip and walks:
        clip = method.clip
        return InCells(
            clip.patch_size,
            lambda image: clip.fit_to_patches(image[None])[0],
            partial(clip_es_cells, method=method, box_threshold=boxes),
            finish,
        )
    return plain if affinity is None else with_affinity
