"""Every public door refuses numbers, images, maps and labels that it cannot mean.

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
from wsss_kit.commands.baseline import run_baseline
from wsss_kit.commands.demo import run_demo
from wsss_kit.commands.reproduce import run_reproduce
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
def small_clip_es() -> CLIPES:
    return CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()


def all_maps(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return labels[:, :, None, None].expand(*labels.shape, *images.shape[-2:]).float()


def batch() -> dict[str, torch.Tensor]:
    samples = list(small_world())
    return {
        "images": torch.stack([sample.image for sample in samples]),
        "labels": torch.stack([sample.labels for sample in samples]),
    }


def curves() -> dict[str, Any]:
    return {"panels": {"x": {"a": {0.5: 1.0}}}, "y": "y"}


def report() -> evaluation.Report:
    return evaluation.evaluate(
        MASKS, MASKS, classes=("a", "b"), protocol=Protocol("d", "val"), n_bootstrap=2
    )


IMAGE_KINDS = {"images": "unit maps", "labels": "labels"}
CRF = {
    **{name: "not negative" for name in ("spatial_weight", "bilateral_weight")},
    **{name: "positive" for name in ("spatial_std", "bilateral_xy_std", "bilateral_rgb_std")},
    "iterations": "count from 0",
    "unary": "word of a list",
}
CRF_VALUES = dict.fromkeys(CRF, 1) | {"unary": "soft"}
PAMR = {"iterations": "count from 0", "dilations": "counts"}
PAMR_VALUES = {"iterations": 1, "dilations": (1,)}
SCORED = {"scores": SCORES, "images": IMAGES}
TARGETS = {"a": MASK}

DOORS: dict[str, Callable[[], Door]] = {
    # maps
    "class_activation_maps": lambda: Door(
        wsss_kit.class_activation_maps,
        {"features": MAPS, "weight": torch.ones(3, 2)},
        {"features": "maps"},
    ),
    "normalize_cams": lambda: Door(
        wsss_kit.normalize_cams,
        {"cams": MAPS, "eps": 1e-5, "over": "map"},
        {"cams": "maps", "eps": "positive", "over": "word of a list"},
    ),
    "upsample": lambda: Door(
        wsss_kit.upsample, {"maps": MAPS, "size": (8, 8)}, {"maps": "maps", "size": "size"}
    ),
    "multi_scale": lambda: Door(
        functools.partial(wsss_kit.multi_scale, lambda view: view, flip=True),
        {"images": IMAGES, "scales": (1.0,), "stride": 4, "round_to": 1},
        {"scales": "factors", "stride": "count or None", "round_to": "count"},
    ),
    # affinity
    "transition_matrix": lambda: Door(
        affinity.transition_matrix,
        {"affinity": CELLS, "power": 1, "sinkhorn": 1, "squarings": 1},
        {"power": "positive", "sinkhorn": "count from 0", "squarings": "count from 0"},
    ),
    "random_walk": lambda: Door(
        affinity.random_walk, {"scores": MAPS, "transition": CELLS}, {"scores": "maps"}
    ),
    "balanced_walk": lambda: Door(
        affinity.balanced_walk,
        {"scores": MAPS, "affinity": CELLS, "sinkhorn": 3, "squarings": 1},
        {"scores": "maps", "sinkhorn": "count", "squarings": "count from 0"},
    ),
    "BalancedWalk": lambda: Door(
        affinity.BalancedWalk, {"affinity": CELLS, "sinkhorn": 3}, {"sinkhorn": "count"}
    ),
    "BalancedWalk.__call__": lambda: Door(
        affinity.BalancedWalk(CELLS),
        {"scores": MAPS, "squarings": 1},
        {"scores": "maps", "squarings": "count from 0"},
    ),
    "box_masks": lambda: Door(
        affinity.box_masks,
        {"cams": MAPS, "threshold": 0.4},
        {"cams": "unit maps", "threshold": "probability"},
    ),
    # masks
    "add_background, constant": lambda: Door(
        wsss_kit.add_background,
        {"cams": MAPS, "threshold": 0.3},
        {"cams": "unit maps", "threshold": "probability"},
    ),
    "add_background, power": lambda: Door(
        wsss_kit.add_background,
        {"cams": MAPS, "power": 2},
        {"cams": "unit maps", "power": "positive"},
    ),
    "scores_to_masks": lambda: Door(
        wsss_kit.scores_to_masks,
        {"scores": SCORES, "labels": LABELS, "min_confidence": 0.9},
        {"scores": "unit maps", "labels": "labels", "min_confidence": "probability or None"},
    ),
    "BackgroundRule, constant": lambda: Door(
        BackgroundRule, {"threshold": 0.3}, {"threshold": "probability"}
    ),
    "BackgroundRule, power": lambda: Door(BackgroundRule, {"power": 2}, {"power": "positive"}),
    # refinement
    "dense_crf": lambda: Door(
        wsss_kit.dense_crf,
        {**SCORED, **CRF_VALUES},
        {"scores": "unit maps", "images": "unit maps", **CRF},
    ),
    "crf_of_present": lambda: Door(
        wsss_kit.crf_of_present,
        {**SCORED, "labels": LABELS, **CRF_VALUES},
        {"scores": "unit maps", **IMAGE_KINDS, **CRF},
    ),
    "pamr": lambda: Door(
        wsss_kit.pamr,
        {**SCORED, **PAMR_VALUES},
        {"scores": "unit maps", "images": "unit maps", **PAMR},
    ),
    "crf_of_present, pamr": lambda: Door(
        functools.partial(wsss_kit.crf_of_present, refine=wsss_kit.pamr),
        {**SCORED, "labels": LABELS, **PAMR_VALUES},
        {"scores": "unit maps", **IMAGE_KINDS, **PAMR},
    ),
    "reference_crf_images": lambda: Door(
        crf.reference_crf_images, {"images": IMAGES}, {"images": "unit maps"}
    ),
    # methods and recipes
    "CAM": lambda: Door(
        CAM,
        {
            **{"backbone": "paper", "stride": 8, "scales": (1.0,), "preset": "clean"},
            "device": "cpu",
        },
        {
            **{"stride": "count or None", "scales": "factors or None", "device": "device"},
            "preset": "word of a list",
        },
    ),
    "CAM.fit": lambda: Door(
        CAM("paper", preset="clean", device="cpu").fit,
        {
            **{"samples": small_world(), "epochs": 1, "batch_size": 2, "learning_rate": 0.01},
            **{"crop": 32, "long_side": (32, 48), "seed": 0, "progress": False},
        },
        {
            "epochs": "count or None",
            "batch_size": "count or None",
            "learning_rate": "positive or None",
            "crop": "count or None",
            "long_side": "range or None",
            "seed": "count from 0",
            "samples": "samples",
        },
    ),
    "CAM.__call__": lambda: Door(small_cam(), batch(), IMAGE_KINDS),
    "CAM.predict": lambda: Door(
        small_cam().predict, {"images": batch()["images"]}, {"images": "unit maps"}
    ),
    "CLIMS": lambda: Door(
        functools.partial(CLIMS, None, "paper", prompts=Prompts.paper(method="clims")),
        {
            **dict.fromkeys(("otm", "btm", "cbs", "reg"), 1.0),
            **{"cbs_threshold": 0.2, "stride": 8, "scales": (1.0,), "preset": "paper"},
            "device": "cpu",
        },
        {
            **dict.fromkeys(("otm", "btm", "cbs", "reg"), "not negative or None"),
            **{"cbs_threshold": "probability or None", "stride": "count or None"},
            **{"scales": "factors or None", "preset": "word of a list", "device": "device"},
        },
    ),
    "CLIMS.fit": lambda: Door(
        CLIMS(
            load_clip("paper", device="cpu"),
            small_cam(),
            prompts=Prompts.paper(method="clims"),
            preset="clean",
        ).fit,
        {
            **{"samples": small_world(), "epochs": 1, "batch_size": 2, "learning_rate": 1e-4},
            **{"crop": 32, "long_side": (32, 48), "accumulate": 1, "seed": 0, "progress": False},
        },
        {
            **{"epochs": "count or None", "batch_size": "count or None", "crop": "count or None"},
            **{"learning_rate": "positive or None", "long_side": "range or None"},
            **{"accumulate": "count or None", "seed": "count from 0", "samples": "samples"},
        },
    ),
    "SCCAM": lambda: Door(
        functools.partial(SCCAM, "paper"),
        {
            **{"stride": 8, "n_subcategories": 2, "rounds": 1, "subcategory_weight": 1.0},
            **{"features": "picture", "read_out": "parent", "scales": (1.0,)},
            **{"preset": "clean", "device": "cpu"},
        },
        {
            **dict.fromkeys(("stride", "n_subcategories", "rounds"), "count or None"),
            "subcategory_weight": "not negative or None",
            **dict.fromkeys(("features", "read_out"), "word of a list or None"),
            **{"scales": "factors or None", "preset": "word of a list", "device": "device"},
        },
    ),
    "SCCAM.fit": lambda: Door(
        SCCAM(small_cam(), preset="clean", n_subcategories=2, rounds=1).fit,
        {
            **{"samples": small_world(), "epochs": 1, "batch_size": 2, "learning_rate": 1e-4},
            **{"crop": 32, "long_side": (32, 48), "seed": 0, "progress": False},
        },
        {
            **{"batch_size": "count or None", "crop": "count or None"},
            **{"learning_rate": "positive or None", "long_side": "range or None"},
            **{"seed": "count from 0", "samples": "samples"},
        },
    ),
    "Pipeline": lambda: Door(
        functools.partial(Pipeline, small_cam()),
        {
            **{"background": 0.3, "min_confidence": 0.9, "box_threshold": 0.4},
            **{"walk_power": 8.0, "squarings": 1},
        },
        {
            **{"background": "probability or None", "min_confidence": "probability or None"},
            **{"box_threshold": "probability", "squarings": "count from 0"},
            "walk_power": "positive or None",
        },
    ),
    "sc_cam_masks": lambda: Door(
        functools.partial(wsss_kit.sc_cam_masks, method=small_cam()),
        {**batch(), "threshold": 0.3, "min_confidence": 0.9},
        {**IMAGE_KINDS, "threshold": "probability", "min_confidence": "probability or None"},
    ),
    "sc_cam_masks, walked": lambda: Door(
        functools.partial(wsss_kit.sc_cam_masks, method=small_cam(), affinity_net=small_net()),
        {
            **batch(),
            "min_confidence": 0.9,
            "walk_power": 8.0,
            "squarings": 1,
            "background_power": 4.0,
        },
        {
            **IMAGE_KINDS,
            "min_confidence": "probability or None",
            "walk_power": "positive or None",
            "squarings": "count from 0",
            "background_power": "positive",
        },
    ),
    "kmeans": lambda: Door(
        kmeans,
        {
            "features": torch.rand(6, 2),
            **{"k": 2, "restarts": 1, "iterations": 3, "tolerance": 0.1, "seed": 0},
        },
        {
            **dict.fromkeys(("k", "restarts", "iterations"), "count"),
            **{"tolerance": "positive", "seed": "count from 0"},
        },
    ),
    "subcategory_labels": lambda: Door(  # features of a class, so that labels have a number
        subcategory_labels,
        {"features": torch.rand(1, 2, 3), "labels": LABELS, "k": 1, "seed": 0, "engine": "torch"},
        {
            **{"labels": "labels", "k": "count", "seed": "count from 0"},
            "engine": "word of a list",
        },
    ),
    "agreement": lambda: Door(
        functools.partial(agreement, second=LABELS),
        {"first": LABELS, "n_classes": 2},
        {"first": "labels", "n_classes": "count"},
    ),
    "exemplars": lambda: Door(
        functools.partial(exemplars, torch.rand(1, 2, 3)),
        {"subcategories": LABELS, "n_classes": 2, "n": 1},
        {"subcategories": "labels", "n_classes": "count", "n": "count"},
    ),
    "plane": lambda: Door(
        functools.partial(plane, torch.rand(4, 3)),
        {"how": "pca", "seed": 0},
        {"how": "word of a list", "seed": "count from 0"},
    ),
    "name_subcategories": lambda: Door(
        functools.partial(
            name_subcategories, load_clip("paper", device="cpu"), small_cam(), shown=False
        ),
        {
            **{"samples": small_world(), "subcategories": batch()["labels"]},
            **{"words": ("red", "wooden"), "template": "a {}", "threshold": 0.3},
        },
        {
            **{"samples": "samples", "subcategories": "labels", "words": "words"},
            **{"threshold": "probability", "template": "word of a list"},
        },
    ),
    "load_clip": lambda: Door(
        wsss_kit.load_clip,
        {"name": "paper", "device": "cpu", "dtype": "float32", "autocast": "bfloat16"},
        {
            **{"name": "word of a list", "device": "device", "dtype": "word of a list"},
            "autocast": "word of a list or None",
        },
    ),
    "FrozenCLIP": lambda: Door(
        functools.partial(wsss_kit.FrozenCLIP, load_clip("paper", device="cpu").model),
        {"max_cells": 64},
        {"max_cells": "count"},
    ),
    "propose_backgrounds": lambda: Door(
        functools.partial(
            propose_backgrounds,
            load_clip("paper", device="cpu"),
            prompts=Prompts.paper(),
            shown=False,
        ),
        {"samples": small_world(), "most": 2, "least": 0.1, "template": "a {}"},
        {
            **{"samples": "samples", "most": "count", "least": "probability"},
            "template": "word of a list or None",
        },
    ),
    "clims_masks": lambda: Door(
        functools.partial(wsss_kit.clims_masks, method=small_cam()),
        {**batch(), "threshold": 0.3, "min_confidence": 0.9},
        {
            **IMAGE_KINDS,
            "threshold": "probability or None",
            "min_confidence": "probability or None",
        },
    ),
    "clims_masks, walked": lambda: Door(
        functools.partial(wsss_kit.clims_masks, method=small_cam(), affinity_net=small_net()),
        {**batch(), "threshold": 0.3, "min_confidence": 0.9, "walk_power": 8.0, "squarings": 1},
        {
            **IMAGE_KINDS,
            "threshold": "probability or None",
            "min_confidence": "probability or None",
            "walk_power": "positive or None",
            "squarings": "count from 0",
        },
    ),
    "CLIPES": lambda: Door(
        functools.partial(CLIPES, load_clip("paper", device="cpu"), prompts=Prompts.paper()),
        {
            **{"n_layers": 1, "squarings": 0, "preset": "clean", "target": "softmax"},
            **{"scales": (1.0,), "similarity": "values"},
        },
        {
            "scales": "factors or None",
            "similarity": "word of a list or None",
            "n_layers": "count or None",
            "squarings": "count from 0 or None",
            "preset": "word of a list",
            "target": "word of a list",
        },
    ),
    "refined_maps": lambda: Door(
        functools.partial(refined_maps, load_clip("paper", device="cpu")),
        {
            **{"image": IMAGES[0], "positives": torch.eye(128)[:1]},
            **{"backgrounds": torch.eye(128)[1:3], "preset": "clean", "box_threshold": 0.4},
        },
        {"preset": "word of a list", "box_threshold": "probability"},
    ),
    "CLIPES.__call__": lambda: Door(small_clip_es(), batch(), IMAGE_KINDS),
    "cam_maps": lambda: Door(
        functools.partial(wsss_kit.cam_maps, method=small_cam()), batch(), IMAGE_KINDS
    ),
    "cam_masks": lambda: Door(
        functools.partial(wsss_kit.cam_masks, method=small_cam()),
        {**batch(), "threshold": 0.3},
        {**IMAGE_KINDS, "threshold": "probability"},
    ),
    "cam_masks, walked": lambda: Door(
        functools.partial(wsss_kit.cam_masks, method=small_cam(), affinity_net=small_net()),
        {**batch(), "walk_power": 8.0, "squarings": 1, "background_power": 4.0},
        {
            **IMAGE_KINDS,
            **{"walk_power": "positive or None", "squarings": "count from 0"},
            "background_power": "positive",
        },
    ),
    "clims_masks, crf": lambda: Door(
        functools.partial(wsss_kit.clims_masks, method=small_cam(), crf=True),
        {**batch(), "threshold": 0.3, "min_confidence": 0.9},
        {
            **IMAGE_KINDS,
            "threshold": "probability or None",
            "min_confidence": "probability or None",
        },
    ),
    "clip_es_maps": lambda: Door(
        functools.partial(wsss_kit.clip_es_maps, method=small_clip_es()),
        {**batch(), "box_threshold": 0.4},
        {**IMAGE_KINDS, "box_threshold": "probability"},
    ),
    "clip_es_maps, walked": lambda: Door(
        functools.partial(wsss_kit.clip_es_maps, method=small_clip_es(), affinity_net=small_net()),
        {**batch(), "walk_power": 8.0, "squarings": 1},
        {**IMAGE_KINDS, "walk_power": "positive or None", "squarings": "count from 0"},
    ),
    "clip_es_masks, walked": lambda: Door(
        functools.partial(wsss_kit.clip_es_masks, method=small_clip_es(), affinity_net=small_net()),
        {**batch(), "walk_power": 8.0, "squarings": 1},
        {**IMAGE_KINDS, "walk_power": "positive or None", "squarings": "count from 0"},
    ),
    "clip_es_masks": lambda: Door(
        functools.partial(wsss_kit.clip_es_masks, method=small_clip_es()),
        {**batch(), "box_threshold": 0.4, "power": 1, "min_confidence": 0.9},
        {
            **IMAGE_KINDS,
            "box_threshold": "probability",
            "power": "positive",
            "min_confidence": "probability or None",
        },
    ),
    # evaluation
    "ConfusionMatrix": lambda: Door(ConfusionMatrix, {"n_classes": 3}, {"n_classes": "count"}),
    "compare_reports": lambda: Door(
        functools.partial(wsss_kit.compare_reports, report(), report()),
        {"n_bootstrap": 5, "seed": 0},
        {"n_bootstrap": "count from 0", "seed": "count from 0"},
    ),
    "error_sources": lambda: Door(
        functools.partial(evaluation.error_sources, report()),
        {"least": 0.5},
        {"least": "not negative"},
    ),
    "evaluate": lambda: Door(
        functools.partial(wsss_kit.evaluate, protocol=Protocol("d", "val")),
        {
            **{"predicted": MASKS, "target": TARGETS, "classes": ("a", "b")},
            **{"n_bootstrap": 2, "seed": 0, "boundary": 1, "scored": ("a",)},
        },
        {
            **{"predicted": "masks", "target": "masks", "classes": "names"},
            **{"n_bootstrap": "count from 0", "seed": "count from 0"},
            **{"boundary": "count from 0 or None", "scored": "names or None"},
        },
    ),
    "boundary_band": lambda: Door(
        evaluation.boundary_band, {"target": MASK, "width": 1}, {"width": "count from 0 or None"}
    ),
    "error_map": lambda: Door(
        evaluation.error_map,
        {"predicted": MASK, "target": MASK, "boundary": 1},
        {"boundary": "count from 0 or None"},
    ),
    "error_shares": lambda: Door(
        evaluation.error_shares,
        {"inside": np.ones((3, 3), int), "outside": np.ones((3, 3), int)},
        {"inside": "matrix", "outside": "matrix"},
    ),
    "Protocol": lambda: Door(
        Protocol,
        {"data": "d", "split": "val", "background": "power 1", "n_images": 3, "stride": 2},
        {
            **{"data": "words", "split": "words", "background": "words"},
            **{"n_images": "count or None", "stride": "count"},
        },
    ),
    "predict_masks": lambda: Door(
        functools.partial(wsss_kit.predict_masks, all_maps, shown=False),
        {"samples": small_world(), "rule": BackgroundRule(power=1), "batch_size": 2},
        {"batch_size": "count", "samples": "samples"},
    ),
    "sweep_background": lambda: Door(
        functools.partial(
            wsss_kit.sweep_background, all_maps, small_world(), small_world().masks, shown=False
        ),
        {"rules": (BackgroundRule(power=1),), "batch_size": 2, "scored": (1, 2)},
        {"rules": "rules", "batch_size": "count", "scored": "counts or None"},
    ),
    # doors of data and the commands behind them
    "PaperWorld": lambda: Door(
        PaperWorld,
        {"n": 1, "size": 64, "seed": 0, "cooccurrence": 0.5, "torn": 0.5, "split": "val"},
        {
            **{"n": "count", "size": "count", "seed": "count from 0", "split": "word of a list"},
            **{"cooccurrence": "probability or None", "torn": "probability or None"},
        },
    ),
    "open_data": lambda: Door(
        open_data,
        {"name": "paper", "n_train": 1, "n_val": 1, "n_test": 1},
        {
            **{"n_train": "count", "n_val": "count", "n_test": "count"},
            "name": "word of a list",
        },
    ),
    # figures
    "class_colours": lambda: Door(
        plot.class_colours, {"n_classes": 3}, {"n_classes": "count from 0"}
    ),
    "overlay": lambda: Door(
        plot.overlay,
        {"image": IMAGES[0], "cam": MAPS[0, 0], "alpha": 0.5, "cmap": "viridis"},
        {"alpha": "probability", "cmap": "word of a list"},
    ),
    "show_samples": lambda: Door(
        plot.show_samples,
        {
            "samples": [Sample("a", IMAGES[0], LABELS[0])],
            "classes": ("a", "b"),
            "columns": 1,
        },
        {"columns": "count"},
    ),
    "show_cams": lambda: Door(
        plot.show_cams,
        {
            **{"images": IMAGES, "cams": MAPS, "classes": ("a", "b"), "labels": LABELS},
            **{"alpha": 0.5, "cmap": "viridis"},
        },
        {"labels": "labels", "alpha": "probability", "cmap": "word of a list"},
    ),
    "show_masks": lambda: Door(
        plot.show_masks,
        {
            **{"images": IMAGES[..., :2, :2], "masks": {"truth": [MASK]}, "classes": ("a", "b")},
            **{"alpha": 0.5, "colours": np.zeros((3, 3))},
        },
        {"alpha": "probability"},
    ),
    "show_curves": lambda: Door(plot.show_curves, {**curves(), "columns": 1}, {"columns": "count"}),
    "new_figure": lambda: Door(
        plot.new_figure,
        {"width": 1.0, "height": 1.0, "alt": "Nothing."},
        {"width": "positive", "height": "positive", "alt": "words"},
    ),
    "AffinityNet": lambda: Door(
        functools.partial(AffinityNet, device="cpu"),
        {
            **{"radius": 2, "channels": (4, 8), "seed": 0, "kind": "boundary", "stride": 8},
            **{"levels": 2, "pad_to": 96},
        },
        {
            **{"radius": "count", "channels": "count or counts", "seed": "count from 0"},
            **{"kind": "word of a list", "stride": "count or None"},
            **{"levels": "count", "pad_to": "count or None"},
        },
    ),
    "AffinityNet.fit": lambda: Door(
        functools.partial(small_net().fit, small_world(), small_world().masks, progress=False),
        {
            **{"epochs": 1, "batch_size": 2, "learning_rate": 1e-4, "weight_decay": 0.0},
            **{"seed": 0, "crop": 48},
        },
        {
            **{"epochs": "count or None", "batch_size": "count or None"},
            **{"learning_rate": "positive or None"},
            **{"weight_decay": "not negative or None", "seed": "count from 0"},
            "crop": "count or None",
        },
    ),
    "train_segmenter": lambda: Door(
        functools.partial(wsss_kit.train_segmenter, progress=False),
        {
            **{"samples": small_world(), "masks": small_world().masks, "epochs": 1, "crop": 48},
            **{"batch_size": 2, "accumulate": 1, "learning_rate": 1e-4, "weight_decay": 0.0},
            **{"scales": (0.5, 1.0), "loss": "plain", "preset": "small", "seed": 0},
            **{"network": "small", "device": "cpu"},
        },
        {
            **{"samples": "samples", "epochs": "count or None", "crop": "count"},
            **{"batch_size": "count or None", "accumulate": "count or None"},
            **{"learning_rate": "positive or None", "weight_decay": "not negative or None"},
            **{"scales": "factors or None", "loss": "word of a list or None", "device": "device"},
            **{"preset": "word of a list or None", "seed": "count from 0"},
            "network": "word of a list",
        },
    ),
    "train_segmenter, steps": lambda: Door(
        functools.partial(
            wsss_kit.train_segmenter, small_world(), small_world().masks, progress=False
        ),
        {"iterations": 1, "batch_size": 2},
        {"iterations": "count or None"},
    ),
    "Segmenter.predict": lambda: Door(
        small_segmenter().predict,
        {**batch(), "scales": (1.0, 0.5), "fuse": "max"},
        {**IMAGE_KINDS, "scales": "factors", "fuse": "word of a list"},
    ),
    "Segmenter.probs": lambda: Door(
        small_segmenter().probs,
        {"images": batch()["images"], "scales": (1.0, 0.5), "fuse": "max"},
        {"images": IMAGE_KINDS["images"], "scales": "factors", "fuse": "word of a list"},
    ),
    "show_errors": lambda: Door(
        plot.show_errors,
        {
            **{"images": IMAGES[..., :2, :2], "predicted": [MASK], "target": [MASK]},
            **{"report": report(), "columns": 1},
        },
        {"columns": "count"},
    ),
    "CAMExplorer": lambda: Door(
        functools.partial(
            CAMExplorer, {"CLIP-ES": small_clip_es()}, small_world(), classes=PAPER_CLASSES
        ),
        {"threshold": 0.3},
        {"threshold": "probability"},
    ),
}

COMMANDS: dict[str, Callable[[Any], Door]] = {
    "run_demo": lambda out: Door(
        functools.partial(run_demo, out),
        {"seed": 0, "n_train": 4, "n_val": 2, "n_test": 2},
        {
            "seed": "count from 0",
            **{"n_train": "count", "n_val": "count", "n_test": "count"},
        },
    ),
    "run_baseline": lambda out: Door(
        functools.partial(run_baseline, "paper", out=out),
        {"threshold": 0.3, "seeds": (0,), "limit": 2},
        {"threshold": "probability", "limit": "count or None"},
    ),
    "run_reproduce": lambda out: Door(
        functools.partial(run_reproduce, "paper/clip-es", out=out / "row"),
        {"seed": 0, "limit": 2, "iterations": 2},
        {"seed": "count from 0", "limit": "count or None", "iterations": "count or None"},
    ),
    "train_paper_clip": lambda out: Door(
        functools.partial(train_paper_clip, out / "clip"),
        {"steps": 1, "fall": 0.2, "seed": 0, "workers": 0, "torn": 0.3},
        {
            **{"steps": "count", "seed": "count from 0", "workers": "count from 0"},
            **{"fall": "probability", "torn": "probability"},
        },
    ),
    "train_paper_backbone": lambda out: Door(
        functools.partial(train_paper_backbone, out / "trunk"),
        {"steps": 1, "seed": 0, "workers": 0},
        {"steps": "count", "seed": "count from 0", "workers": "count from 0"},
    ),
}


def wrong_values(kind: str, good: Any) -> list[Any]:
    name, _, none_is_right = kind.partition(" or ")
    return [value for value in WRONG[name](good) if value is not None or not none_is_right]


@pytest.mark.parametrize("name", DOORS)
def test_the_call_that_is_tried_with_wrong_values_works(name):
    door = DOORS[name]()
    door.call(**door.good)
    assert set(door.kinds) <= set(door.good)


@pytest.mark.parametrize("name", DOORS)
def test_every_wrong_value_is_refused_in_words(name):
    _refuses_all(DOORS[name]())


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_before_they_write(name, tmp_path):
    _refuses_all(COMMANDS[name](tmp_path / "out"))
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert set(written) <= {".lock"}


def _refuses_all(door: Door) -> None:
    """Every wrong value is refused by a ValueError that says what was expected."""
    failures = []
    for argument, variant in door.kinds.items():
        for value in wrong_values(variant, door.good[argument]):
            result = _answer(lambda arg=argument, v=value: door.call(**{**door.good, arg: v}))
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
    known = {(name.split(",")[0], a) for name, door in DOORS.items() for a in door().kinds}
    doors = {
        name: value
        for module in (wsss_kit, evaluation, plot, crf, affinity)
        for name, value in vars(module).items()
        if getattr(value, "__module__", "").startswith(module.__name__)
    }
    doors = {n: door for n, door in doors.items() if callable(door) and not n.startswith("_")}
    assert len(doors) > 50
    forgotten = [
        (name, argument)
        for name, door in doors.items()
        for argument, parameter in inspect.signature(door).parameters.items()
        if NUMBERS.search(str(parameter.annotation))
    ]
    forgotten = [pair for pair in forgotten if pair not in known and pair not in WITHOUT_CHECK]
    assert not forgotten
