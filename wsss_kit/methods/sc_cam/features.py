"""What is clustered: a picture's average feature, or the one under a class's own map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.cam import class_activation_maps
from wsss_kit.checks import check_image, check_word
from wsss_kit.classes import Sample
from wsss_kit.methods.sc_cam.presets import FEATURES
from wsss_kit.processes import each
from wsss_kit.training import progress


@torch.no_grad()
def class_features(
    trunk: nn.Module,
    head: Tensor,
    samples: Sequence[Sample],
    *,
    features: str,
    unit_length: bool = False,
    shown: bool = True,
) -> Tensor:
    """Features of every picture, for `subcategory_labels`.

    The average over a whole picture holds as much of its background as of its object, and objects
    of one class share their background. Under the class's own map it holds the object.

    Args:
        trunk: (B, 3, H, W) -> (B, D, h, w); goes to evaluation mode.
        head: (C, D), whose maps are meant.
        samples: M pictures with labels.
        features: ``"picture"``, as published, or ``"own_map"``.
        unit_length: whether to scale each to length 1.
        shown: whether to show a bar.

    Returns:
        (M, D), or (M, C, D), zero where a class is not present; float32, where the trunk is.

    Raises:
        ValueError: if there is no such kind of feature, or a picture is not RGB in [0, 1].
    """
    check_word("features", features, FEATURES)
    trunk.eval()

    def features_of(sample: Sample) -> Tensor:  # (D,) or (C, D)
        check_image(sample.image, f"picture {sample.name!r}")
        values = trunk(sample.image[None].to(head.device)).float()  # (1, D, h, w)
        if features == "picture":
            return values.mean((2, 3))[0]
        maps = class_activation_maps(values, head.float()).relu()  # (1, C, h, w)
        maps = maps * (sample.labels.to(maps) > 0)[None, :, None, None]
        weights = maps / maps.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return torch.einsum("bdhw,bchw->bcd", values, weights)[0]

    stacked = each(samples, features_of, bar=partial(progress, what="features", shown=shown))
    return F.normalize(stacked, dim=-1) if unit_length else stacked
