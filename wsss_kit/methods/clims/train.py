"""Train by the similarity that a frozen CLIP computes between masked images and texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsss_kit.cam import class_activation_maps
from wsss_kit.classes import Sample
from wsss_kit.classifier.train import groups_of, optimiser_of
from wsss_kit.methods.clims.judge import Judge
from wsss_kit.processes import sum_gradients, total, totals
from wsss_kit.training import Diverged, columns, device_of

Recipe = Mapping[str, Any]

_SCALES = (1.0, 0.5, 1.5, 2.0)
_HEAVY = {"chair": 3.0, "diningtable": 3.0, "sofa": 3.0}
PRESETS = columns(
    ("reference", "clean", "paper"),
    {
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
        "trains_batch_norm": (True, False, True),
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
is 1e-4. ``trains_stem``: whether the first convolution learns. ``trains_batch_norm``: by batch
statistics, or as it was. ``calibrated``: whether the sigmoid is shifted so that a class's usual
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
WARM_UP = 20  # steps of AdamW
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


def make_optimiser(backbone: nn.Module, head: Tensor, bias: Tensor, recipe: Recipe) -> Optimizer:
    """Create the preset's optimiser: the head learns faster, the frozen stem not at all."""
    heads = [head, bias] if recipe["calibrated"] else [head]
    return optimiser_of(groups_of(backbone, heads, recipe), recipe)


def train_step(
    backbone: nn.Module,
    head: Tensor,
    bias: Tensor,
    images: Tensor,
    labels: Tensor,
    judge: Judge,
    recipe: Recipe,
    optimiser: Optimizer,
    *,
    where: str = "a step",
) -> dict[str, float]:
    """Take one step of the optimiser on one batch, in ``accumulate`` parts that add up.

    Several processes' parts of a batch add up in the same way.

    Args:
        backbone: (B, 3, H, W) -> (B, D, h, w); changed in place.
        head: (C, D); changed in place.
        bias: (C,); changed in place where the optimiser has it.
        images: (B, 3, H, W) RGB in [0, 1].
        labels: (B, C).
        judge: CLIP with its texts.
        recipe: a preset's values with ``accumulate``.
        optimiser: of the network.
        where: of the training, for an error.

    Raises:
        Diverged: if a map is no number.

    Returns:
        The losses of the batch, not weighted, with ``total``, weighted, and ``maps``, the mean of
        the maps of the classes present.
    """
    device, sums = device_of(backbone), dict.fromkeys((*LOSSES, "total", "maps"), 0.0)
    n_images, n_pairs = total(torch.tensor([len(images), labels.sum().item()])).tolist()
    parts = min(recipe["accumulate"], int(n_images))  # the same for all processes
    optimiser.zero_grad(set_to_none=True)
    for part, positive in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            cams = class_activation_maps(backbone(part.to(device)), head)
            maps = torch.sigmoid(cams.float() + bias[:, None, None])  # those that are trained
            if not torch.isfinite(maps).all():
                check_maps(float("nan"), where)
            if not len(part):  # other processes have the batch's last images
                maps.sum().backward()
                continue
            losses = judge.losses(part, maps, positive)
        # means over pairs or maps, and a sum, of a part's share in the batch
        pairs, of_images = positive.sum().item() / max(1, n_pairs), len(part) / n_images
        shares = dict.fromkeys(LOSSES, pairs)
        if recipe["backgrounds"] != "pairs":
            shares["cbs"] = 1.0
        if recipe["area"] != "present" or not n_pairs:
            shares["reg"] = of_images
        losses = {name: shares[name] * losses[name] for name in LOSSES}
        losses["total"] = sum(recipe[name] * losses[name] for name in LOSSES)
        losses["total"].backward()
        present = maps.detach()[positive.to(maps) > 0]
        sums["maps"] += pairs * present.mean().item() if len(present) else 0.0
        for name, value in losses.items():
            sums[name] += value.item()
    sum_gradients(optimiser)
    optimiser.step()
    return totals(sums)


def check_maps(mean: float, where: str) -> None:
    """Raise `Diverged` for maps that are 0 or 1 everywhere."""
    if _SATURATED <= mean <= 1 - _SATURATED:
        return
    raise Diverged(
        f"training diverged in {where}: the maps of the classes present average {mean:.4f}, where "
        "a sigmoid has no slope left; try a lower learning rate, another weight of the area loss "
        "(reg), or a fitted CAM to start from"
    )
