"""Networks that give every pixel a class: small, DeepLabV2; and their losses.

Each maps (B, 3, H, W) RGB in [0, 1] to logits (B, K, h, w) on a grid of its own, background first.
Where its weights do not all learn alike, ``parameter_groups`` says which of them learn how fast.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.backbones import build_backbone
from wsss_kit.checks import check_word
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.engine import columns
from wsss_kit.processes import mean_count

NETWORKS = ("small", "deeplab_v2")
ASPP_RATES = (6, 12, 18, 24)
"""Dilations of DeepLabV2's four branches at stride 8."""


class Small(nn.Module):
    """A backbone, one dilated convolution to look around, one to decide: for the embedded world.

    Args:
        backbone: (B, 3, H, W) -> (B, D, h, w) with ``out_channels``.
        n_values: K, background included.
    """

    def __init__(self, backbone: Any, n_values: int) -> None:
        super().__init__()
        channels = backbone.out_channels
        self.trunk = backbone
        self.around = nn.Conv2d(channels, channels, 3, padding=4, dilation=4)
        self.decide = nn.Conv2d(channels, n_values, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits: (B, 3, H, W) -> (B, K, h, w)."""
        return self.decide(F.relu(self.around(self.trunk(images))))


class DeepLabV2(nn.Module):
    """Chen et al., "DeepLab", TPAMI 2018: four dilated convolutions over a backbone at stride 8.

    Their sum is the logits. As in the PyTorch code that CLIMS and CLIP-ES train with, the
    backbone's convolutions learn, but not its normalisation; the branches' weights learn ten times
    faster, their biases twenty times and without weight decay.

    The ResNet is torchvision's. The one of that code, which came from Caffe, has the stride of a
    stage in its first 1x1 convolution instead of the 3x3 one, pools the stem with ``ceil_mode``,
    and takes BGR in 0 to 255 minus the mean: its weights do not fit this network.

    Args:
        backbone: (B, 3, H, W) -> (B, D, h, w) with ``out_channels``.
        n_values: K, background included.
    """

    def __init__(self, backbone: Any, n_values: int) -> None:
        super().__init__()
        self.trunk = backbone
        branches: list[Any] = [
            nn.Conv2d(backbone.out_channels, n_values, 3, padding=rate, dilation=rate)
            for rate in ASPP_RATES
        ]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits: (B, 3, H, W) -> (B, K, h, w)."""
        features = self.trunk(images)
        return torch.stack([branch(features) for branch in self.branches]).sum(0)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the convolutions of the backbone, the branches' weights and their biases."""
        layers = (m for m in self.trunk.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        learning = [p for layer in layers for p in layer.parameters(recurse=False)]
        biases = {"params": [branch.bias for branch in self.branches], "weight_decay": 0.0}
        return [
            {"params": learning},
            {"params": [branch.weight for branch in self.branches], "lr_scale": 10.0},
            {**biases, "lr_scale": 20.0},
        ]


def build_network(
    network: str | nn.Module,
    n_values: int,
    *,
    backbone: str | nn.Module | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a segmentation network by name, or return the user's own.

    Args:
        network: one of ``NETWORKS``, or a module (B, 3, H, W) RGB in [0, 1] -> (B, K, h, w).
        n_values: K, background included.
        backbone: the backbone of ``"small"`` (the paper backbone at stride 4) or ``"deeplab_v2"``
            (ResNet-101 at stride 8), by name or as a module.
        weights: of a named backbone, see `build_backbone`.
        seed: of new weights; the global random state is left as it was.

    Raises:
        ValueError: for an unknown name, or options that a module cannot take.
        RuntimeError: if weights cannot be downloaded.

    Example:
        >>> net = build_network("small", 9)
        >>> tuple(net(torch.rand(1, 3, 96, 96)).shape)
        (1, 9, 24, 24)
    """
    if isinstance(network, nn.Module):
        if backbone is not None or weights is not None:
            raise ValueError("backbone and weights belong to named networks, not to your module")
        return network
    check_word("network", network, NETWORKS)
    if weights is not None and "coco" in Path(weights).name.lower():
        warnings.warn(
            f"{Path(weights).name} has learned from pixel labels of COCO, which hold VOC's classes "
            "too: a number that starts from it is not one of weak supervision alone. Say so beside "
            "it (the papers call it COCO-pretrained), or start from ImageNet",
            stacklevel=2,
        )
    if backbone is None:
        small = network == "small"
        backbone, weights = ("paper", weights or "web") if small else ("resnet101", weights)
    stride = 4 if (network, backbone) == ("small", "paper") else 8
    stride = stride if isinstance(backbone, str) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = build_backbone(backbone, stride=stride, weights=weights, seed=seed)
        return (Small if network == "small" else DeepLabV2)(trunk, n_values)


_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
# ``deeplab`` is the PyTorch code that CLIMS and CLIP-ES train with (and CLIMS' own from COCO's
# weights); the others differ as their papers or authors say.
PRESETS: dict[str, dict[str, Any]] = columns(
    ("small", "deeplab"),
    {
        "optimiser": ("adamw", "sgd"),
        "learning_rate": (2e-3, 2.5e-4),
        "momentum": (0.9, 0.9),
        "weight_decay": (0.01, 5e-4),
        "batch_size": (16, 5),
        "accumulate": (1, 2),  # batches whose gradients are added for one step
        "epochs": (8, None),  # passes over the images, or
        "iterations": (None, 20_000),  # steps
        "decay_every": (1, 10),  # steps between two changes of the rate, see `engine.rate_factor`
        "crop": (None, 321),  # this and the next: see `views.random_view`
        "scales": ((), _SCALES),
        "loss": ("plain", "plain"),  # one of ``LOSSES``
        "loss_scales": ((), (0.75, 0.5)),  # see `multi_scale_loss`
        # whether logits are enlarged to the mask for the loss, or the mask brought to their grid
        "full_size": (True, False),
        "fixes_norms": (False, True),  # whether batch normalisation keeps its statistics
        "long_side": (None, None),
        "masks": (None, None),
        "sound": (math.log(21), 4 * math.log(21)),
    },
)
PRESETS["clims_coco"] = PRESETS["deeplab"]
PRESETS["clims_imagenet"] = {
    **PRESETS["deeplab"],
    **{"batch_size": 10, "iterations": 30_000, "scales": (*_SCALES, 1.75, 2.0)},
    "loss": "balanced",
}
PRESETS["clip_es_imagenet"] = {**PRESETS["deeplab"], "learning_rate": 2e-4}
PRESETS["clip_es_coco"] = {**PRESETS["deeplab"], "learning_rate": 2.5e-5}

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K, h, w) and masks (B, h, w) to a scalar."""


def confident_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the mean cross-entropy over the pixels that are not 255; 0 where none is left.

    With masks whose doubtful pixels are 255 this is CLIP-ES's confidence-guided loss. Of several
    processes it is this one's part of the whole batch's mean.

    Args:
        logits: (B, K, h, w).
        masks: (B, h, w) int64.

    Returns:
        A scalar.

    Example:
        >>> nothing = torch.full((1, 2, 2), 255)
        >>> confident_cross_entropy(torch.zeros(1, 3, 2, 2), nothing).item()
        0.0
    """
    summed = F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX, reduction="sum")
    return summed / mean_count((masks != IGNORE_INDEX).sum())


def balanced_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the mean of cross-entropy over background and over all objects, as CLIMS trains.

    Where background is most of every mask, plain cross-entropy from ImageNet's weights may learn
    background alone, and a batch without any object makes a plain mean NaN.

    Args:
        logits: (B, K, h, w).
        masks: (B, h, w) int64.

    Returns:
        A scalar.

    Example:
        One pixel of an object counts as much as three of background:

        >>> logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
        >>> masks = torch.tensor([[[0, 0], [0, 1]]])
        >>> round(balanced_cross_entropy(logits, masks).item(), 3)
        1.127
        >>> round(confident_cross_entropy(logits, masks).item(), 3)
        0.627
    """
    objects = confident_cross_entropy(logits, masks.masked_fill(masks == 0, IGNORE_INDEX))
    background = confident_cross_entropy(logits, masks.masked_fill(masks > 0, IGNORE_INDEX))
    return (objects + background) / 2


LOSSES: dict[str, Loss] = {"plain": confident_cross_entropy, "balanced": balanced_cross_entropy}


def multi_scale_loss(
    net: Callable[[Tensor], Tensor],
    images: Tensor,
    masks: Tensor,
    *,
    loss: Loss,
    scales: Sequence[float],
) -> Tensor:
    """Compute DeepLabV2's loss: at several image sizes, and for the maximum of their logits.

    Each is taken on the grid of its logits, to which the mask's nearest values are brought.

    Args:
        net: images to logits.
        images: (B, 3, H, W).
        masks: (B, H, W) int64.
        loss: for one size.
        scales: of the images beside 1; empty for the plain loss.

    Returns:
        The sum, a scalar.
    """
    options = {"mode": "bilinear", "align_corners": False}
    every = [net(images)]
    every += [net(F.interpolate(images, scale_factor=scale, **options)) for scale in scales]
    if len(scales):
        size = every[0].shape[2:]
        sized = [F.interpolate(each, size=size, mode="bilinear") for each in every[1:]]
        every.append(torch.stack([every[0], *sized]).amax(0))

    def part(logits: Tensor) -> Tensor:  # with the mask's value under the centre of each cell
        size = tuple(logits.shape[2:])
        sized = F.interpolate(masks[:, None].float(), size=size, mode="nearest-exact")
        return loss(logits, sized[:, 0].long())

    return torch.stack([part(logits) for logits in every]).sum()
