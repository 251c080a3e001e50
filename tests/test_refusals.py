"""Every public function refuses numbers, images, maps and labels that it cannot mean.

A door is one line of ``DOORS``: a call that works, and the kind of each argument that has one. All
wrong values of a kind are tried on all arguments of it, so a new door gets its siblings' tests.
"""

from __future__ import annotations

import functools
import inspect
import re
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import wsss_kit
from wsss_kit import affinity, crf, evaluation, plot
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.classes import PAPER_CLASSES, Sample
from wsss_kit.clip import load_clip
from wsss_kit.commands.demo import run_demo
from wsss_kit.commands.evaluate import run_reproduce
from wsss_kit.commands.photographs import run_baseline
from wsss_kit.commands.train import train_paper_backbone, train_paper_clip
from wsss_kit.evaluation import BackgroundRule, ConfusionMatrix, Protocol
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS, propose_backgrounds
from wsss_kit.methods.clip_es import CLIPES, refined_maps
from wsss_kit.methods.sc_cam import (
    SCCAM,
    agreement,
    exemplars,
    kmeans,
    name_subcategories,
    plane,
    subcategory_labels,
)
from wsss_kit.notebook_data import open_data
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.widgets import CAMExplorer

NAN, INF = float("nan"), float("inf")
MAPS = torch.linspace(0, 1, 32).view(1, 2, 4, 4)
SCORES = torch.cat([torch.full((1, 1, 4, 4), 0.5), MAPS], 1)
IMAGES = torch.linspace(0, 1, 48).view(1, 3, 4, 4)
LABELS = torch.tensor([[1.0, 1.0]])
CELLS = torch.full((1, 16, 16), 0.1) + torch.eye(16)
MASK = torch.tensor([[0, 1], [2, 255]])
MASKS = {"a": MASK}


def odd(good: torch.Tensor, value: float) -> torch.Tensor:
    """A tensor in which one value is another."""
    bad = good.clone()
    bad.view(-1)[-1] = value
    return bad


def wrong_maps(good: torch.Tensor) -> list[Any]:
    range_left = [odd(good, value) for value in (NAN, INF, -0.5, 1.5)]
    return [*range_left, 255 * good, (255 * good).byte(), good[0], good.numpy(), good.tolist()]


def wrong_labels(good: torch.Tensor) -> list[Any]:
    values = [odd(good, value) for value in (NAN, -1, 2, 0.5, 255)]
    return [*values, good[:, :1], good.repeat(2, 1), good.numpy()]


def wrong_mask(good: torch.Tensor) -> list[Any]:
    return [good.float(), good.tolist(), None, odd(good, -1), good[:1]]


def wrong_masks(good: dict[str, torch.Tensor]) -> list[Any]:
    (name, mask), *_ = good.items()
    return [{}, [mask], mask, None, *({name: wrong} for wrong in wrong_mask(mask))]


NO_NUMBERS = ["3", True, None, [3], NAN]
WRONG: dict[str, Callable[[Any], list[Any]]] = {
    "count": lambda good: [*NO_NUMBERS, 0, -1, 1.5, INF],
    "count from 0": lambda good: [*NO_NUMBERS, -1, 1.5, INF],
    "positive": lambda good: [*NO_NUMBERS, 0, -1, INF, -INF],
    "not negative": lambda good: [*NO_NUMBERS, -1, INF, -INF],
    "probability": lambda good: [*NO_NUMBERS, -0.01, 1.01, INF, 40],
    "counts": lambda good: ["12", 3, None, (), (0, 1), (1.5,), ("2",), (True,), (NAN,)],
    "count or counts": lambda good: ["3", True, None, NAN, 0, 1.5, (), (0, 1), (1.5,), ("2",)],
    "factors": lambda good: ["12", 3.0, None, (), (0.0, 1), ("2",), (True,), (NAN,), (INF,)],
    "range": lambda good: ["ab", 4, (), (4,), (0, 4), (8, 4), (4, 4.5), (4, 4, 4)],
    "size": lambda good: ["44", 4, None, (), (4,), (0, 4), (4, -1), (4, 4.0), (4, 4, 4)],
    "word of a list": lambda good: ["other", "", None, 3],
    "unit maps": wrong_maps,
    "maps": lambda good: [good[0], (255 * good).byte(), good.numpy(), good.tolist(), None],
    "labels": wrong_labels,
    "masks": wrong_masks,
    "names": lambda good: ["cow", 3, None, (), ("cow", "cow")],
    "words": lambda good: ["", "  ", None, 3],
    "device": lambda good: ["gpu", "cudaa", "meta", "", None, 3, "mps:x"],
    "samples": lambda good: [None, [], iter(good), good[0], [good[0].image], [("a", 1)]],
    "rules": lambda good: [(), (0.3,), ("power",), (None,)],
    "matrix": lambda good: [good[:1], good[0], good[None]],
}
"""Kind -> from a good value to the wrong ones; ``" or None"`` after a kind lets None in."""


class Door(NamedTuple):
    """One public callable: what it is called with, and the kinds of its arguments."""

    call: Callable[..., Any]
    good: dict[str, Any]
    kinds: dict[str, str]


def door(call: Callable[..., Any], **arguments: tuple[Any, str | None]) -> Door:
    """A door; each argument is a good value and its kind, None for one that is not varied."""
    kinds = {name: kind for name, (_, kind) in arguments.items() if kind is not None}
    return Door(call, {name: value for name, (value, _) in arguments.items()}, kinds)


@functools.cache
def small_world() -> PaperWorld:
    return PaperWorld(2)


@functools.cache
def small_cam() -> CAM:
    cam = CAM("paper", scales=(1.0,), flip=False, device="cpu", weights="web")
    return cam.fit(small_world(), train_backbone=False, epochs=1, progress=False)


@functools.cache
def small_segmenter() -> wsss_kit.Segmenter:
    world = small_world()
    options = {"epochs": 1, "device": "cpu", "progress": False}
    return wsss_kit.train_segmenter(world, world.masks, **options)


@functools.cache
def small_net() -> AffinityNet:
    return AffinityNet(device="cpu", channels=4)


@functools.cache
def clip() -> wsss_kit.FrozenCLIP:
    return load_clip("paper", device="cpu")


@functools.cache
def small_clip_es() -> CLIPES:
    return CLIPES(clip(), prompts=Prompts.paper()).fit()


def all_maps(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return labels[:, :, None, None].expand(*labels.shape, *images.shape[-2:]).float()


def batch() -> dict[str, Any]:
    samples = list(small_world())
    return {
        "images": (torch.stack([sample.image for sample in samples]), "unit maps"),
        "labels": (torch.stack([sample.labels for sample in samples]), "labels"),
    }


def report() -> evaluation.Report:
    return evaluation.evaluate(
        MASKS, MASKS, classes=("a", "b"), protocol=Protocol("d", "val"), n_bootstrap=2
    )


COUNT, FROM_0, POSITIVE, WORD = "count", "count from 0", "positive", "word of a list"
UNIT, SHARE, NOT_NEGATIVE, FACTORS = "unit maps", "probability", "not negative", "factors"


def optional(kind: str) -> str:
    return f"{kind} or None"


CRF = {
    **dict.fromkeys(("spatial_weight", "bilateral_weight"), (1, NOT_NEGATIVE)),
    **dict.fromkeys(("spatial_std", "bilateral_xy_std", "bilateral_rgb_std"), (1, POSITIVE)),
    **{"iterations": (1, FROM_0), "unary": ("soft", WORD)},
}
PAMR = {"iterations": (1, FROM_0), "dilations": ((1,), "counts")}
SCORED = {"scores": (SCORES, UNIT), "images": (IMAGES, UNIT)}
SURE = {"min_confidence": (0.9, optional(SHARE))}
WALK = {"walk_power": (8.0, optional(POSITIVE)), "squarings": (1, FROM_0)}
NETWORK = {
    **{"stride": (8, optional(COUNT)), "scales": ((1.0,), optional(FACTORS))},
    **{"preset": ("clean", WORD), "device": ("cpu", "device")},
}
FIT = {
    **{"epochs": (1, optional(COUNT)), "batch_size": (2, optional(COUNT))},
    **{"learning_rate": (1e-4, optional(POSITIVE)), "seed": (0, FROM_0)},
    **{"crop": (32, optional(COUNT)), "progress": (False, None)},
}
LONG_SIDE = {"long_side": ((32, 48), optional("range"))}


def fit(method: Any, **arguments: Any) -> Door:
    return door(
        method.fit, **{"samples": (small_world(), "samples"), **FIT, **LONG_SIDE, **arguments}
    )


DOORS: dict[str, Callable[[], Door]] = {
    # maps
    "class_activation_maps": lambda: door(
        wsss_kit.class_activation_maps, features=(MAPS, "maps"), weight=(torch.ones(3, 2), None)
    ),
    "normalize_cams": lambda: door(
        wsss_kit.normalize_cams, cams=(MAPS, "maps"), eps=(1e-5, POSITIVE), over=("map", WORD)
    ),
    "upsample": lambda: door(wsss_kit.upsample, maps=(MAPS, "maps"), size=((8, 8), "size")),
    "multi_scale": lambda: door(
        functools.partial(wsss_kit.multi_scale, lambda view: view, IMAGES, flip=True),
        **{"scales": ((1.0,), FACTORS), "stride": (4, optional(COUNT)), "round_to": (1, COUNT)},
    ),
    # affinity
    "transition_matrix": lambda: door(
        functools.partial(affinity.transition_matrix, CELLS),
        **{"power": (1, POSITIVE), "sinkhorn": (1, FROM_0), "squarings": (1, FROM_0)},
    ),
    "random_walk": lambda: door(
        affinity.random_walk, scores=(MAPS, "maps"), transition=(CELLS, None)
    ),
    "balanced_walk": lambda: door(
        functools.partial(affinity.balanced_walk, affinity=CELLS),
        **{"scores": (MAPS, "maps"), "sinkhorn": (3, COUNT), "squarings": (1, FROM_0)},
    ),
    "BalancedWalk": lambda: door(
        functools.partial(affinity.BalancedWalk, CELLS), sinkhorn=(3, COUNT)
    ),
    "BalancedWalk.__call__": lambda: door(
        affinity.BalancedWalk(CELLS), scores=(MAPS, "maps"), squarings=(1, FROM_0)
    ),
    "box_masks": lambda: door(affinity.box_masks, cams=(MAPS, UNIT), threshold=(0.4, SHARE)),
    # masks
    "add_background, constant": lambda: door(
        wsss_kit.add_background, cams=(MAPS, UNIT), threshold=(0.3, SHARE)
    ),
    "add_background, power": lambda: door(
        wsss_kit.add_background, cams=(MAPS, UNIT), power=(2, POSITIVE)
    ),
    "scores_to_masks": lambda: door(
        wsss_kit.scores_to_masks, scores=(SCORES, UNIT), labels=(LABELS, "labels"), **SURE
    ),
    "BackgroundRule, constant": lambda: door(BackgroundRule, threshold=(0.3, SHARE)),
    "BackgroundRule, power": lambda: door(BackgroundRule, power=(2, POSITIVE)),
    # refinement
    "dense_crf": lambda: door(wsss_kit.dense_crf, **SCORED, **CRF),
    "crf_of_present": lambda: door(
        wsss_kit.crf_of_present, **SCORED, labels=(LABELS, "labels"), **CRF
    ),
    "pamr": lambda: door(wsss_kit.pamr, **SCORED, **PAMR),
    "crf_of_present, pamr": lambda: door(
        functools.partial(wsss_kit.crf_of_present, refine=wsss_kit.pamr),
        **SCORED,
        labels=(LABELS, "labels"),
        **PAMR,
    ),
    "reference_crf_images": lambda: door(crf.reference_crf_images, images=(IMAGES, UNIT)),
    # methods and recipes
    "CAM": lambda: door(functools.partial(CAM, "paper"), **NETWORK),
    "CAM.fit": lambda: fit(CAM("paper", preset="clean", device="cpu")),
    "CAM.__call__": lambda: door(small_cam(), **batch()),
    "CAM.predict": lambda: door(small_cam().predict, images=batch()["images"]),
    "CLIMS": lambda: door(
        functools.partial(CLIMS, None, "paper", prompts=Prompts.paper(method="clims")),
        **dict.fromkeys(("otm", "btm", "cbs", "reg"), (1.0, optional(NOT_NEGATIVE))),
        cbs_threshold=(0.2, optional(SHARE)),
        **NETWORK,
    ),
    "CLIMS.fit": lambda: fit(
        CLIMS(clip(), small_cam(), prompts=Prompts.paper(method="clims"), preset="clean"),
        accumulate=(1, optional(COUNT)),
    ),
    "SCCAM": lambda: door(
        functools.partial(SCCAM, "paper"),
        **{"n_subcategories": (2, optional(COUNT)), "rounds": (1, optional(COUNT))},
        **{"subcategory_weight": (1.0, optional(NOT_NEGATIVE))},
        **{"features": ("picture", optional(WORD)), "read_out": ("parent", optional(WORD))},
        **NETWORK,
    ),
    "SCCAM.fit": lambda: fit(
        SCCAM(small_cam(), preset="clean", n_subcategories=2, rounds=1), epochs=(1, None)
    ),
    "Pipeline": lambda: door(
        functools.partial(Pipeline, small_cam()),
        **{"background": (0.3, optional(SHARE)), "box_threshold": (0.4, SHARE), **SURE, **WALK},
    ),
    "sc_cam_masks": lambda: door(
        functools.partial(wsss_kit.sc_cam_masks, method=small_cam()),
        **{**batch(), "threshold": (0.3, SHARE), **SURE},
    ),
    "sc_cam_masks, walked": lambda: door(
        functools.partial(wsss_kit.sc_cam_masks, method=small_cam(), affinity_net=small_net()),
        **{**batch(), **SURE, **WALK, "background_power": (4.0, POSITIVE)},
    ),
    "kmeans": lambda: door(
        functools.partial(kmeans, torch.rand(6, 2)),
        **{"k": (2, COUNT), "restarts": (1, COUNT), "iterations": (3, COUNT)},
        **{"tolerance": (0.1, POSITIVE), "seed": (0, FROM_0)},
    ),
    "subcategory_labels": lambda: door(  # features of a class, so that labels have a number
        functools.partial(subcategory_labels, torch.rand(1, 2, 3)),
        **{"labels": (LABELS, "labels"), "k": (1, COUNT), "seed": (0, FROM_0)},
        engine=("torch", WORD),
    ),
    "agreement": lambda: door(
        functools.partial(agreement, second=LABELS), first=(LABELS, "labels"), n_classes=(2, COUNT)
    ),
    "exemplars": lambda: door(
        functools.partial(exemplars, torch.rand(1, 2, 3)),
        **{"subcategories": (LABELS, "labels"), "n_classes": (2, COUNT), "n": (1, COUNT)},
    ),
    "plane": lambda: door(
        functools.partial(plane, torch.rand(4, 3)), how=("pca", WORD), seed=(0, FROM_0)
    ),
    "name_subcategories": lambda: door(
        functools.partial(name_subcategories, clip(), small_cam(), shown=False),
        samples=(small_world(), "samples"),
        subcategories=batch()["labels"],
        words=(("red", "wooden"), "words"),
        **{"template": ("a {}", WORD), "threshold": (0.3, SHARE)},
    ),
    "load_clip": lambda: door(
        wsss_kit.load_clip,
        **{"name": ("paper", WORD), "device": ("cpu", "device"), "dtype": ("float32", WORD)},
        autocast=("bfloat16", optional(WORD)),
    ),
    "FrozenCLIP": lambda: door(
        functools.partial(wsss_kit.FrozenCLIP, clip().model), max_cells=(64, COUNT)
    ),
    "propose_backgrounds": lambda: door(
        functools.partial(propose_backgrounds, clip(), prompts=Prompts.paper(), shown=False),
        **{"samples": (small_world(), "samples"), "most": (2, COUNT), "least": (0.1, SHARE)},
        template=("a {}", optional(WORD)),
    ),
    "clims_masks": lambda: door(
        functools.partial(wsss_kit.clims_masks, method=small_cam()),
        **{**batch(), "threshold": (0.3, optional(SHARE)), **SURE},
    ),
    "clims_masks, walked": lambda: door(
        functools.partial(wsss_kit.clims_masks, method=small_cam(), affinity_net=small_net()),
        **{**batch(), "threshold": (0.3, optional(SHARE)), **SURE, **WALK},
    ),
    "CLIPES": lambda: door(
        functools.partial(CLIPES, clip(), prompts=Prompts.paper()),
        **{"n_layers": (1, optional(COUNT)), "squarings": (0, optional(FROM_0))},
        **{"preset": ("clean", WORD), "target": ("softmax", WORD)},
        **{"scales": ((1.0,), optional(FACTORS)), "similarity": ("values", optional(WORD))},
    ),
    "refined_maps": lambda: door(
        functools.partial(refined_maps, clip(), IMAGES[0], torch.eye(128)[:1], torch.eye(128)[1:3]),
        **{"preset": ("clean", WORD), "box_threshold": (0.4, SHARE)},
    ),
    "CLIPES.__call__": lambda: door(small_clip_es(), **batch()),
    "cam_maps": lambda: door(functools.partial(wsss_kit.cam_maps, method=small_cam()), **batch()),
    "cam_masks": lambda: door(
        functools.partial(wsss_kit.cam_masks, method=small_cam()),
        **{**batch(), "threshold": (0.3, SHARE)},
    ),
    "cam_masks, walked": lambda: door(
        functools.partial(wsss_kit.cam_masks, method=small_cam(), affinity_net=small_net()),
        **{**batch(), **WALK, "background_power": (4.0, POSITIVE)},
    ),
    "clims_masks, crf": lambda: door(
        functools.partial(wsss_kit.clims_masks, method=small_cam(), crf=True),
        **{**batch(), "threshold": (0.3, optional(SHARE)), **SURE},
    ),
    "clip_es_maps": lambda: door(
        functools.partial(wsss_kit.clip_es_maps, method=small_clip_es()),
        **{**batch(), "box_threshold": (0.4, SHARE)},
    ),
    "clip_es_maps, walked": lambda: door(
        functools.partial(wsss_kit.clip_es_maps, method=small_clip_es(), affinity_net=small_net()),
        **{**batch(), **WALK},
    ),
    "clip_es_masks, walked": lambda: door(
        functools.partial(wsss_kit.clip_es_masks, method=small_clip_es(), affinity_net=small_net()),
        **{**batch(), **WALK},
    ),
    "clip_es_masks": lambda: door(
        functools.partial(wsss_kit.clip_es_masks, method=small_clip_es()),
        **{**batch(), "box_threshold": (0.4, SHARE), "power": (1, POSITIVE), **SURE},
    ),
    # evaluation
    "ConfusionMatrix": lambda: door(ConfusionMatrix, n_classes=(3, COUNT)),
    "compare_reports": lambda: door(
        functools.partial(wsss_kit.compare_reports, report(), report()),
        **{"n_bootstrap": (5, FROM_0), "seed": (0, FROM_0)},
    ),
    "error_sources": lambda: door(
        functools.partial(evaluation.error_sources, report()), least=(0.5, NOT_NEGATIVE)
    ),
    "evaluate": lambda: door(
        functools.partial(wsss_kit.evaluate, protocol=Protocol("d", "val")),
        **{"predicted": (MASKS, "masks"), "target": ({"a": MASK}, "masks")},
        **{"classes": (("a", "b"), "names"), "scored": (("a",), optional("names"))},
        **{"n_bootstrap": (2, FROM_0), "seed": (0, FROM_0), "boundary": (1, optional(FROM_0))},
    ),
    "boundary_band": lambda: door(
        functools.partial(evaluation.boundary_band, MASK), width=(1, optional(FROM_0))
    ),
    "error_map": lambda: door(
        functools.partial(evaluation.error_map, MASK, MASK), boundary=(1, optional(FROM_0))
    ),
    "error_shares": lambda: door(
        evaluation.error_shares,
        inside=(np.ones((3, 3), int), "matrix"),
        outside=(np.ones((3, 3), int), "matrix"),
    ),
    "Protocol": lambda: door(
        Protocol,
        **{"data": ("d", "words"), "split": ("val", "words"), "background": ("x", "words")},
        **{"n_images": (3, optional(COUNT)), "stride": (2, COUNT)},
    ),
    "predict_masks": lambda: door(
        functools.partial(
            wsss_kit.predict_masks, all_maps, rule=BackgroundRule(power=1), shown=False
        ),
        **{"samples": (small_world(), "samples"), "batch_size": (2, COUNT)},
    ),
    "sweep_background": lambda: door(
        functools.partial(
            wsss_kit.sweep_background, all_maps, small_world(), small_world().masks, shown=False
        ),
        **{"rules": ((BackgroundRule(power=1),), "rules"), "batch_size": (2, COUNT)},
    ),
    # doors of data and the commands behind them
    "PaperWorld": lambda: door(
        PaperWorld,
        **{"n": (1, COUNT), "size": (64, COUNT), "seed": (0, FROM_0), "split": ("val", WORD)},
        **{"cooccurrence": (0.5, optional(SHARE)), "torn": (0.5, optional(SHARE))},
    ),
    "open_data": lambda: door(
        open_data,
        name=("paper", WORD),
        **dict.fromkeys(("n_train", "n_val", "n_test"), (1, COUNT)),
    ),
    # figures
    "class_colours": lambda: door(plot.class_colours, n_classes=(3, FROM_0)),
    "overlay": lambda: door(
        functools.partial(plot.overlay, IMAGES[0], MAPS[0, 0]),
        **{"alpha": (0.5, SHARE), "cmap": ("viridis", WORD)},
    ),
    "show_samples": lambda: door(
        functools.partial(plot.show_samples, [Sample("a", IMAGES[0], LABELS[0])], ("a", "b")),
        columns=(1, COUNT),
    ),
    "show_cams": lambda: door(
        functools.partial(plot.show_cams, IMAGES, MAPS, ("a", "b")),
        **{"labels": (LABELS, "labels"), "alpha": (0.5, SHARE), "cmap": ("viridis", WORD)},
    ),
    "show_masks": lambda: door(
        functools.partial(
            plot.show_masks,
            IMAGES[..., :2, :2],
            {"truth": [MASK]},
            ("a", "b"),
            colours=np.zeros((3, 3)),
        ),
        alpha=(0.5, SHARE),
    ),
    "show_curves": lambda: door(
        functools.partial(plot.show_curves, panels={"x": {"a": {0.5: 1.0}}}, y="y"),
        columns=(1, COUNT),
    ),
    "new_figure": lambda: door(
        plot.new_figure,
        **{"width": (1.0, POSITIVE), "height": (1.0, POSITIVE), "alt": ("Nothing.", "words")},
    ),
    "AffinityNet": lambda: door(
        functools.partial(AffinityNet, device="cpu"),
        **{"radius": (2, COUNT), "channels": ((4, 8), "count or counts"), "seed": (0, FROM_0)},
        **{"kind": ("boundary", WORD), "stride": (8, optional(COUNT)), "levels": (2, COUNT)},
        pad_to=(96, optional(COUNT)),
    ),
    "AffinityNet.fit": lambda: door(
        functools.partial(small_net().fit, small_world(), small_world().masks),
        **{**FIT, "weight_decay": (0.0, optional(NOT_NEGATIVE))},
    ),
    "train_segmenter": lambda: door(
        functools.partial(wsss_kit.train_segmenter, masks=small_world().masks),
        samples=(small_world(), "samples"),
        **{**FIT, "crop": (48, COUNT), "weight_decay": (0.0, optional(NOT_NEGATIVE))},
        **{"accumulate": (1, optional(COUNT)), "scales": ((0.5, 1.0), optional(FACTORS))},
        **{"loss": ("plain", optional(WORD)), "preset": ("small", optional(WORD))},
        **{"network": ("small", WORD), "device": ("cpu", "device")},
    ),
    "train_segmenter, steps": lambda: door(
        functools.partial(
            wsss_kit.train_segmenter, small_world(), small_world().masks, progress=False
        ),
        **{"iterations": (1, optional(COUNT)), "batch_size": (2, None)},
    ),
    "Segmenter.predict": lambda: door(
        small_segmenter().predict,
        **{**batch(), "scales": ((1.0, 0.5), FACTORS), "fuse": ("max", WORD)},
    ),
    "Segmenter.probs": lambda: door(
        small_segmenter().probs,
        images=batch()["images"],
        **{"scales": ((1.0, 0.5), FACTORS), "fuse": ("max", WORD)},
    ),
    "show_errors": lambda: door(
        functools.partial(plot.show_errors, IMAGES[..., :2, :2], [MASK], [MASK], report()),
        columns=(1, COUNT),
    ),
    "CAMExplorer": lambda: door(
        functools.partial(
            CAMExplorer, {"CLIP-ES": small_clip_es()}, small_world(), classes=PAPER_CLASSES
        ),
        threshold=(0.3, SHARE),
    ),
}

COMMANDS: dict[str, Callable[[Any], Door]] = {
    "run_demo": lambda out: door(
        functools.partial(run_demo, out),
        **{"seed": (0, FROM_0), "n_train": (4, COUNT), "n_val": (2, COUNT), "n_test": (2, COUNT)},
    ),
    "run_baseline": lambda out: door(
        functools.partial(run_baseline, "paper", seeds=(0,), out=out),
        **{"threshold": (0.3, SHARE), "limit": (2, optional(COUNT))},
    ),
    "run_reproduce": lambda out: door(
        functools.partial(run_reproduce, "paper/clip-es", out=out / "row"),
        **{"seed": (0, FROM_0), "limit": (2, optional(COUNT)), "iterations": (2, optional(COUNT))},
    ),
    "train_paper_clip": lambda out: door(
        functools.partial(train_paper_clip, out / "clip"),
        **{"steps": (1, COUNT), "seed": (0, FROM_0), "workers": (0, FROM_0)},
        **{"fall": (0.2, SHARE), "torn": (0.3, SHARE)},
    ),
    "train_paper_backbone": lambda out: door(
        functools.partial(train_paper_backbone, out / "trunk"),
        **{"steps": (1, COUNT), "seed": (0, FROM_0), "workers": (0, FROM_0)},
    ),
}


def wrong_values(kind: str, good: Any) -> list[Any]:
    name, _, none_is_right = kind.partition(" or ")
    return [value for value in WRONG[name](good) if value is not None or not none_is_right]


@pytest.mark.parametrize("name", DOORS)
def test_the_call_that_is_tried_with_wrong_values_works(name):
    tried = DOORS[name]()
    tried.call(**tried.good)


@pytest.mark.parametrize("name", DOORS)
def test_every_wrong_value_is_refused_in_words(name):
    _refuses_all(DOORS[name]())


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_before_they_write(name, tmp_path):
    _refuses_all(COMMANDS[name](tmp_path / "out"))
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert set(written) <= {".lock"}


def _refuses_all(tried: Door) -> None:
    """Every wrong value is refused by a ValueError that says what was expected."""
    failures = []
    for argument, variant in tried.kinds.items():
        for value in wrong_values(variant, tried.good[argument]):
            result = _answer(lambda arg=argument, v=value: tried.call(**{**tried.good, arg: v}))
            if result is not None:
                failures.append(f"{argument}={reprlib.repr(value)}: {result}")
    assert not failures, "\n".join(failures)


def _answer(call: Callable[[], Any]) -> str | None:
    """What is wrong with the answer to a wrong value; None for a refusal in words."""
    try:
        call()
    except ValueError as error:
        good = type(error) is ValueError and re.search(
            "expected|give|needs|there are|predict", str(error)
        )
        return None if good else f"says {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "let in"


NUMBERS = re.compile(r"\b(int|float)\b")
WITHOUT_CHECK = {
    ("ConfusionMatrix", "ignore_index"): "any whole number outside the classes",
    ("FrozenCLIP", "window"): "read from a card",
    ("FrozenCLIP", "attention_layers"): "read from a card",
    ("FrozenCLIP", "walk_squarings"): "read from a card",
    ("FrozenCLIP", "mean"): "three numbers of the model's own preprocessing",
    ("FrozenCLIP", "std"): "three numbers of the model's own preprocessing",
    **{
        ("Comparison", name): "made by compare_reports"
        for name in ("difference", "interval", "better", "worse")
    },
    ("Chosen", "swept"): "made by choose_rule",
    **{("Published", name): "read from the package" for name in ("value", "n_images")},
    ("Report", "mean_iou"): "made by evaluate",
    ("Report", "interval"): "made by evaluate",
    ("Report", "image_iou"): "made by evaluate",
    ("best_rule", "swept"): "tested in evaluation/test_background.py",
    **{(f"load_{name}", "limit"): f"tested in data/test_{name}.py" for name in ("coco", "pets")},
    ("load_voc", "limit"): "tested in data/test_voc.py",
    ("softmax_grad_cam", "grid"): "has to fit the tokens",
    ("softmax_grad_cam", "logit_scale"): "of the model",
    ("show_curves", "panels"): "any numbers",
    ("show_curves", "marked"): "any number",
}


def test_no_public_number_is_forgotten():
    """Whatever takes a number is in the table, or in the list of those that have no range."""
    known = {(name.split(",")[0], a) for name, make in DOORS.items() for a in make().kinds}
    doors = {
        name: value
        for module in (wsss_kit, evaluation, plot, crf, affinity)
        for name, value in vars(module).items()
        if getattr(value, "__module__", "").startswith(module.__name__)
    }
    doors = {n: call for n, call in doors.items() if callable(call) and not n.startswith("_")}
    assert len(doors) > 50
    forgotten = [
        (name, argument)
        for name, call in doors.items()
        for argument, parameter in inspect.signature(call).parameters.items()
        if NUMBERS.search(str(parameter.annotation))
    ]
    forgotten = [pair for pair in forgotten if pair not in known and pair not in WITHOUT_CHECK]
    assert not forgotten
