"""A published row measured on photographs: the method, its masks, its segmenter, by its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.classes import Sample
from wsss_kit.commands.batches import MasksOf
from wsss_kit.commands.clip_at_hand import clip_at_hand, file_or
from wsss_kit.commands.generate import made_masks
from wsss_kit.commands.plans import (
    affinity_of,
    clims_preset,
    learns,
    segmenter_preset,
    start_file,
)
from wsss_kit.commands.train_method import CROPS
from wsss_kit.data import LazySamples, load_coco, load_coco_masks, load_voc, load_voc_masks
from wsss_kit.data.pictures import read_image
from wsss_kit.evaluation import (
    BackgroundRule,
    Protocol,
    Published,
    Report,
    best_rule,
    evaluate,
    sweep_background,
)
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.plot.run_page import Run
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import (
    cam_maps,
    cam_masks,
    clims_masks,
    clip_es_maps,
    clip_es_masks,
    sc_cam_masks,
)
from wsss_kit.segmentation import Segmenter, train_segmenter

_RULES = {
    "the best of the powers 1 to 10": [BackgroundRule(power=p) for p in range(1, 11)],
    "the better of the powers 1 and 2": [BackgroundRule(power=p) for p in (1, 2)],
    "constant 0.15": [BackgroundRule(threshold=0.15)],
    "constant 0.2": [BackgroundRule(threshold=0.2)],
    "not stated": [BackgroundRule(threshold=0.15)],  # of COCO: what CLIMS' README says
}
"""What a published row of maps says of its background."""
_CLIMS_COCO = {"otm": 2.0, "btm": 14.0, "cbs": 1.25, "reg": 0.2, "cbs_threshold": 0.285}
_CLIMS_COCO_FIT = {"epochs": 8, "batch_size": 32, "learning_rate": 5e-4}
"""Of CLIMS' released script for COCO, two GPUs of 16 pictures taken together."""
_PSA_CROP = {"crop": 448, "long_side": (448, 768)}


def run_photographs(
    row: Published,
    folder: Path,
    root: Path,
    weights: Path,
    *,
    seed: int,
    limit: int | None,
    iterations: int | None,
    device: str,
) -> Run:
    """Measure a row of VOC or COCO; what is done already in the folder is not done again.

    Args:
        row: with a recipe, see `plans.plan_of`.
        folder: of masks, checkpoints and weights.
        root: the data set's folder.
        weights: folder of files of weights.
        seed: of what is trained.
        limit: only the first so many pictures of each split.
        iterations: steps of the segmenter, instead of the recipe's.
        device: where to work.
    """
    samples, target, train = _open(row, root, limit)
    made_by = {"row": row.name, "seed": seed, "limit": limit, "iterations": iterations}
    method = _method(row, train, folder, weights, seed=seed, device=device)
    if row.what == "maps":
        return _score_maps(row, method, samples, target, folder, made_by)
    affinity = affinity_of(row)
    net = AffinityNet.load(weights / affinity) if affinity else None
    if row.what == "masks":
        recipe = _masks_of(row, method, net, teaches=False)
        masks = made_masks(samples, recipe, folder / "masks", made_by=made_by)
        stated = {"background": row.background, "preset": method.preset}
        reports = {"masks": _report(row, masks, samples, target, **stated)}
        return Run(reports, {"masks": masks}, samples, target)
    recipe = _masks_of(row, method, net, teaches=True)
    taught = made_masks(train, recipe, folder / "pseudo-masks", made_by=made_by)
    net = train_segmenter(
        train,
        taught,
        network="deeplab_v2",
        weights=file_or(weights / start_file(row), "imagenet"),
        preset=segmenter_preset(row),
        taught_by=f"pseudo masks of {row.method}",
        iterations=iterations,
        seed=seed,
        device=device,
        checkpoint=folder / "segmenter-training",
    )
    net.save(folder / "segmenter")
    return _predicted(row, net, samples, target, folder, made_by)


def _open(row: Published, root: Path, limit: int | None) -> tuple[LazySamples, Any, Any]:
    """The scored pictures, their ground truth, and what is learned from, or None."""
    if row.data == "COCO 2014":
        train = load_coco(root, "train", limit=limit) if learns(row) else None
        samples = load_coco(root, row.split, limit=limit)
        return samples, load_coco_masks(root, row.split), train
    train = load_voc(root, "train_aug", limit=limit) if learns(row) else None
    samples = load_voc(root, row.split, limit=limit)
    if row.split == "test":  # VOC keeps its labels too, and a segmenter asks for none
        return _without_labels(samples, root), {}, train
    return samples, load_voc_masks(root, row.split), train


def _without_labels(samples: LazySamples, root: Path) -> LazySamples:
    return LazySamples(
        samples.names,
        image=lambda name: read_image(root / "JPEGImages" / f"{name}.jpg"),
        labels=lambda name: torch.zeros(len(samples.classes)),
        classes=samples.classes,
        split=samples.split,
    )


def _predicted(
    row: Published,
    net: Segmenter,
    samples: Sequence[Sample],
    target: Any,
    folder: Path,
    made_by: dict[str, Any],
) -> Run:
    """Masks of a segmenter at DeepLab's three sizes, through its CRF."""

    def predict(images: Tensor, labels: Tensor) -> Tensor:
        return net.predict(images, scales=(1.0, 0.75, 0.5), fuse="max", crf=True)

    masks = made_masks(samples, predict, folder / "predicted", made_by=made_by)
    if row.split == "test":
        where = folder / "predicted" / "masks"
        said = f"{where} holds the masks of test, to be handed in to VOC's server"
        return Run({}, {}, samples, target, net.losses_, [said])
    stated = {"background": "learned", "preset": segmenter_preset(row)}
    reports = {"segmenter": _report(row, masks, samples, target, **stated)}
    return Run(reports, {"segmenter": masks}, samples, target, net.losses_)


def _score_maps(
    row: Published,
    method: CAMMethod,
    samples: Sequence[Sample],
    target: Any,
    folder: Path,
    made_by: dict[str, Any],
) -> Run:
    """Maps by the published background: where it is the best of several, on the scored pictures."""
    walks = row.refinement == "attention affinity"
    maps_of = partial(clip_es_maps if walks else cam_maps, method=method)
    rules, notes = _RULES[row.background], []
    rule = rules[0]
    if len(rules) > 1:
        rule = best_rule(sweep_background(maps_of, samples, target, rules=rules))
        notes.append(
            f"{rule} was chosen on the scored pictures themselves, as the published number's was."
        )

    def by_rule(images: Tensor, labels: Tensor) -> Tensor:
        return rule.masks(maps_of(images, labels), labels)

    masks = made_masks(samples, by_rule, folder / "masks", made_by=made_by)
    said = row.background if len(rules) == 1 else f"{row.background}: {rule}"
    stated = {"background": said, "preset": method.preset}
    reports = {"maps": _report(row, masks, samples, target, **stated)}
    return Run(reports, {"maps": masks}, samples, target, notes=notes)


def _report(
    row: Published, masks: Any, samples: Sequence[Sample], target: Any, **stated: str
) -> Report:
    """The report under the row's refinement; ``stated`` are background and preset."""
    return evaluate(
        masks,
        {name: target[name] for name in samples.names},
        classes=samples.classes,
        protocol=Protocol(row.data, row.split, refinement=row.refinement, **stated),
    )


def _masks_of(
    row: Published, method: CAMMethod, net: AffinityNet | None, *, teaches: bool
) -> MasksOf:
    """The recipe that makes a row's masks; CLIP-ES teaches only where it is sure."""
    if row.method == "CLIP-ES":
        boxes = 0.7 if row.data == "COCO 2014" else 0.4
        options = {"box_threshold": boxes, "min_confidence": 0.95 if teaches else None}
        return partial(clip_es_masks, method=method, **options)
    recipes = {"CLIMS": clims_masks, "SC-CAM": sc_cam_masks, "CAM": cam_masks}
    return partial(recipes[row.method], method=method, affinity_net=net)


def _method(
    row: Published,
    train: Sequence[Sample] | None,
    folder: Path,
    weights: Path,
    *,
    seed: int,
    device: str,
) -> CAMMethod:
    """The fitted method: trained on ``train``, resumed where it was stopped."""
    if row.method == "CLIP-ES":
        clip = clip_at_hand("ViT-B-16", weights, device)
        prompts = Prompts.coco if row.data == "COCO 2014" else Prompts.voc
        return CLIPES(clip, prompts=prompts(method="clip_es")).fit()
    resume = {"seed": seed, "checkpoint": folder / "method-training"}
    if row.method == "SC-CAM":
        sc_cam = SCCAM("resnet38", weights=weights / "resnet38.pth", device=device)
        return sc_cam.fit(train, **CROPS["sc-cam"], **resume)
    if row.name.startswith("psa/"):
        cam = CAM("resnet38", weights=weights / "resnet38.pth", device=device)
        return cam.fit(train, **_PSA_CROP, **resume)
    cam = CAM("resnet50", weights=file_or(weights / "resnet50.pth", "imagenet"), device=device)
    if row.method == "CAM":
        return cam.fit(train, **CROPS["cam"], **resume)
    cam.fit(train, seed=seed, checkpoint=folder / "cam-training", **CROPS["cam"])
    clip, prompts = clip_at_hand("ViT-B-32", weights, device), Prompts.voc(method="clims")
    losses, training = {}, {}
    if row.data == "COCO 2014":
        prompts, losses, training = Prompts.coco(method="clims"), _CLIMS_COCO, _CLIMS_COCO_FIT
    preset = clims_preset(row)
    clims = CLIMS(clip, cam, prompts=prompts, preset=preset, device=device, **losses)
    return clims.fit(train, **CROPS["clims"], **training, **resume)
