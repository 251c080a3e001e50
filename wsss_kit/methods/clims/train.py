"""Train by the similarity that a frozen CLIP computes between masked images and texts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsss_kit.cam import class_activation_maps
from wsss_kit.classes import Sample
from wsss_kit.engine import Diverged, columns
from wsss_kit.methods.base import COMMON

_SCALES = (1.0, 0.5, 1.5, 2.0)
WARM_UP = 20  # steps of AdamW
_HEAVY = {"chair": 3.0, "diningtable": 3.0, "sofa": 3.0}
PRESETS = columns(
    ("reference", "clean", "paper"),
    {
        **{name: (*row, row[0]) for name, row in COMMON.items()},
        "otm": (10.0, 12.0, 10.0),
        "btm": (24.0, 6.0, 25.0),
        "cbs": (1.0, 6.0, 29.5),
        "reg": (0.2, 3.0, 1.15),
        "cbs_threshold": (0.26, None, None),
        "scales": (_SCALES, _SCALES, _SCALES),
        "flip": (True, True, True),
        "epochs": (15, 3, 10),
        "batch_size": (16, 16, 16),
        "learning_rate": (2.5e-4, 5e-4, 2.5e-4),
        "head_factor": (10.0, 5.0, 1.0),
        "optimiser": ("sgd", "adamw", "sgd"),
        "momentum": (1e-4, 0.9, 1e-4),
        "weight_decay": (1e-4, 0.01, 1e-4),
        "trains_stem": (False, True, False),
        "decay": ("polynomial", "cosine", "polynomial"),
        "warmup": (0, WARM_UP, 0),
        "drop_last": (True, False, True),
        "fixed_batch_norm": (False, True, False),
        "calibrated": (False, True, False),
        "pixels": ("imagenet", "rgb", "clip"),
        "side": (224, None, 224),
        "align_corners": (True, False, True),
        "backgrounds": ("sum", "pairs", "texts"),
        "area": ("all", "present", "all"),
        "heavy_classes": ({}, {}, _HEAVY),
    },
)
"""Preset -> choice. The loss weights are the paper's alpha, beta, gamma and delta. The others:

``momentum``: the released trainer hands weight decay to SGD's momentum, so that the real momentum
is 1e-4. ``trains_stem``: whether the first convolution learns. ``fixed_batch_norm``: whether batch
normalisation keeps the statistics of the start. ``drop_last``: whether the last, partial batch of a
pass is left out. ``calibrated``: whether the sigmoid is shifted so that a class's usual
maximum gives 0.88 at the start. ``pixels``: what CLIP is shown: ``"imagenet"``, images masked
and normalised by ImageNet's statistics, as released; ``"clip"``, the same by CLIP's own; ``"rgb"``,
RGB masked to black, which CLIP normalises itself. ``side``: the square that images and maps are
resized to for CLIP, None for none; ``align_corners``: how. ``backgrounds``: CBS is summed over
pairs and texts, divided by the number of ``"pairs"``, or a mean over ``"texts"`` summed over pairs.
``area``: of ``"all"`` maps or of those of classes ``"present"``. ``heavy_classes``: factor on OTM
and BTM of some classes.

Reference: the camera-ready code also puts a bottleneck between backbone and head, fine-tunes CLIP,
and does not cut cosines off; these three are not rebuilt.
"""

LOSSES = ("otm", "btm", "cbs", "reg")

_AT_MAXIMUM, _AT_ZERO = 2.0, -3.0
"""Calibrated sigmoids: the logit at a class's usual maximum, and where the map is zero."""
_SATURATED = 0.003  # mean map of present classes from which on nothing is learned


@torch.no_grad()
def calibrate(backbone: nn.Module, head: Tensor, bias: Tensor, samples: Sequence[Sample]) -> None:
    """Scale and shift the head so that maps begin where the sigmoid has a slope.

    A class's usual maximum, the median over up to 400 images that show it, becomes 0.88, and a
    map of zero 0.05. The order of values within a map stays, and so does the map that is read out.

    Args:
        backbone: in evaluation mode afterwards.
        head: (C, D); changed in place.
        bias: (C,); changed in place.
        samples: training images.
    """
    backbone.eval()
    highest: list[list[float]] = [[] for _ in range(len(head))]
    for sample in list(samples[: min(400, len(samples))]):
        cams = class_activation_maps(backbone(sample.image[None].to(head.device)), head)
        for c in sample.labels.nonzero().flatten().tolist():
            highest[c].append(cams[0, c].amax().item())
    for c, values in enumerate(highest):
        usual = float(torch.tensor(values).median()) if values else 0.0
        if usual > 0:
            head[c] *= (_AT_MAXIMUM - _AT_ZERO) / usual
        bias[c] = _AT_ZERO


def check_maps(mean: float, where: str) -> None:
    """Raise `Diverged` for maps that are 0 or 1 everywhere."""
    if _SATURATED <= mean <= 1 - _SATURATED:
        return
    raise Diverged(
        f"training diverged in {where}: the maps of the classes present average {mean:.4f}, where "
        "a sigmoid has no slope left; try a lower learning rate, another weight of the area loss "
        "(reg), or a fitted CAM to start from"
    )
