"""``python -m wsss_kit masks``: a data set and a method to a folder of pseudo masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from wsss_kit.checks import check_count, check_positive, check_probability, check_word
from wsss_kit.classes import COCO_CLASSES, VOC_CLASSES, Sample
from wsss_kit.clip import load_clip
from wsss_kit.commands.datasets import SPLITS, open_samples
from wsss_kit.commands.generate import MasksOf, Soft, Written, write_masks
from wsss_kit.commands.runs import run_folder
from wsss_kit.crf import crf_of_present
from wsss_kit.evaluation import BackgroundRule
from wsss_kit.files import load_model, weights_path
from wsss_kit.masks import scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps, clip_es_crf, clip_es_maps

_KINDS = {"CAM": CAM, "SC-CAM": SCCAM, "CLIMS": CLIMS}
_THRESHOLD = 0.15  # of a trained method's maps, in the papers' evaluations


def run_masks(
    method: str | Path,
    out: str | Path,
    *,
    data: str = "voc",
    root: str | Path | None = None,
    split: str | None = None,
    clip: str | None = None,
    clip_weights: str | Path | None = None,
    threshold: float | None = None,
    power: float | None = None,
    crf: bool = False,
    min_confidence: float | None = None,
    maps: bool = False,
    batch_size: int = 1,
    workers: int = 2,
    limit: int | None = None,
    device: str = "auto",
) -> Written:
    """Pseudo masks of a data set; a second call goes on where the first was stopped.

    Under ``torchrun`` the processes share the batches, each on its own GPU where there are some:
    ``torchrun --nproc-per-node 8 -m wsss_kit masks ...`` writes the same files as one process.

    Args:
        method: ``"clip-es"``, or the path of a CAM, SC-CAM or CLIMS that was saved.
        out: folder to write into, see `generate.write_masks`.
        data: see `datasets.open_samples`.
        root: see `datasets.open_samples`.
        split: see `datasets.open_samples`.
        clip: of CLIP-ES: open_clip's name; None for ViT-B/16, or the tiny one with ``"paper"``.
        clip_weights: of CLIP-ES: a file, or None for OpenAI's.
        threshold: constant background; None for the published one of the method, as ``power``.
        power: of the background (1 - max)^power, instead of ``threshold``.
        crf: whether the dense CRF of the method follows.
        min_confidence: below it pixels become 255; masks that are scored keep every pixel.
        maps: whether soft maps are kept too.
        batch_size: pictures of equal size that go through together.
        workers: threads that decode.
        limit: only the first so many pictures.
        device: where to work.

    Returns:
        The masks, and the pictures that have none with the reason.

    Raises:
        ValueError: if a number is out of its range, both rules are given, or the folder holds
            masks that were made otherwise.
        FileNotFoundError: if the data or the method is not there.
    """
    rule = _rule(method, threshold, power)
    if min_confidence is not None:
        check_probability("min_confidence", min_confidence)
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        check_count(name, value)
    samples = open_samples(data, root, split, limit)
    rank, world, device = _place(device)
    fitted, title = _open(method, data, samples, clip, clip_weights, device)
    boxes = 0.7 if data == "coco" else 0.4  # of CLIP-ES, as published
    options = {"boxes": boxes, "crf": crf, "min_confidence": min_confidence, "maps": maps}
    recipe = _recipe(fitted, rule, **options)
    made_by = {
        **{"data": data, "split": split or SPLITS.get(data, "all"), "pictures": len(samples)},
        **{"method": title, "preset": fitted.preset, "background": str(rule)},
        **{"refinement": "dense CRF" if crf else "none", "min_confidence": min_confidence},
    }
    write = partial(
        write_masks,
        *(samples, recipe),
        made_by=made_by,
        batch_size=batch_size,
        workers=workers,
        rank=rank,
        world=world,
    )
    if rank:  # the first holds the folder
        return write(out)
    with run_folder(out) as folder:
        return write(folder)


def _rule(method: str | Path, threshold: float | None, power: float | None) -> BackgroundRule:
    if threshold is not None and power is not None:
        raise ValueError(f"threshold is {threshold} and power {power}, expected one of the two")
    if threshold is not None:
        check_probability("threshold", threshold)
        return BackgroundRule(threshold=threshold)
    if power is not None:
        check_positive("power", power)
        return BackgroundRule(power=power)
    return BackgroundRule(power=1) if method == "clip-es" else BackgroundRule(threshold=_THRESHOLD)


def _place(device: str) -> tuple[int, int, str]:
    """This process's number, how many there are, and its device, as torchrun says."""
    rank, world = (
        int(os.environ.get(name, usual)) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1))
    )
    if device == "auto" and world > 1:
        import torch

        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", 0))
            device = f"cuda:{local % torch.cuda.device_count()}"
    return rank, world, device


def _open(
    method: str | Path,
    data: str,
    samples: Sequence[Sample],
    clip: str | None,
    clip_weights: str | Path | None,
    device: str,
) -> tuple[CAMMethod, str]:
    """The method ready to use, and what the protocol calls it."""
    if method == "clip-es":
        name = clip or ("paper" if data == "paper" else "ViT-B-16-quickgelu")
        weights = clip_weights or (None if name == "paper" else "openai")
        loaded = load_clip(name, weights=weights, device=device)
        title = f"CLIP-ES, {name}, {Path(str(weights)).name}"
        return CLIPES(loaded, prompts=_prompts(data, samples.classes)).fit(), title
    _, card = load_model(method)
    check_word("the method of the file", str(card.get("method")), _KINDS)
    fitted = _KINDS[card["method"]].load(method, device=device)
    if tuple(fitted.classes_) != tuple(samples.classes):
        raise ValueError(
            f"{method} knows {', '.join(fitted.classes_[:3])}, … and {data} has "
            f"{', '.join(samples.classes[:3])}, …; expected the same classes"
        )
    return fitted, f"{card['method']}, {weights_path(method).name}"


def _prompts(data: str, classes: Sequence[str]) -> Prompts:
    if data == "paper":
        return Prompts.paper(method="clip_es")
    known = {VOC_CLASSES: Prompts.voc, COCO_CLASSES: Prompts.coco}.get(tuple(classes))
    return known(method="clip_es") if known else Prompts.for_classes(classes, method="clip_es")


def _recipe(
    method: CAMMethod,
    rule: BackgroundRule,
    *,
    boxes: float,
    crf: bool,
    min_confidence: float | None,
    maps: bool,
) -> MasksOf | Callable[[Tensor, Tensor], Soft]:
    """Pictures and labels to masks, and to the maps that they came from if these are kept."""
    walks = isinstance(method, CLIPES)
    maps_of = partial(cam_maps, method=method)
    if walks:
        maps_of = partial(clip_es_maps, method=method, box_threshold=boxes)
    refine = partial(clip_es_crf, method=method) if walks else crf_of_present

    def recipe(images: Tensor, labels: Tensor) -> Tensor | Soft:
        found = maps_of(images, labels)
        scores = rule.scores(found)
        if crf:
            scores = refine(scores, images, labels)
        masks = scores_to_masks(scores, labels, min_confidence=min_confidence)
        return Soft(masks, found) if maps else masks

    return recipe


def said(written: Written, out: str | Path) -> str:
    """What a run has done, in words; pictures that failed with their reasons."""
    lines = [f"{out} holds {len(written.masks)} masks (masks/, manifest.json)."]
    failed: Mapping[str, str] = written.failed
    if failed:
        lines.append(f"{len(failed)} pictures have none:")
        lines += [f"  {name}: {reason}" for name, reason in list(failed.items())[:10]]
        lines += [f"  and {len(failed) - 10} more"] * (len(failed) > 10)
    return "\n".join(lines)
