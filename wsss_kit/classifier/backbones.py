"""Trunks: networks from pictures to features, with their normalisation inside.

A trunk is any ``nn.Module`` (B, 3, H, W) RGB in [0, 1] -> (B, D, h, w) with ``out_channels`` D.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from wsss_kit.classifier.pretrained import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalised,
    load_all,
    read_state,
)
from wsss_kit.classifier.resnet38 import ResNet38Trunk
from wsss_kit.registry import find

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
BACKBONES = ("paper", *RESNETS, "resnet38")
"""Names that `build_backbone` knows."""


class ResNetTrunk(Normalised):
    """A torchvision ResNet without its pooling and classifier.

    Stride 16 gives the last stage stride 1 and no dilation, as CLIMS, IRN and SC-CAM's port do;
    stride 8 keeps the third stage's stride too and dilates both, as DeepLab does.

    Args:
        name: one of ``RESNETS``.
        stride: 16 or 8.
        weights: None for random weights, ``"imagenet"`` (torchvision downloads them once), or a
            local state dict (.safetensors, or .pth read with ``weights_only``).

    Raises:
        RuntimeError: if ImageNet's weights cannot be downloaded.
    """

    def __init__(self, name: str, *, stride: int = 16, weights: str | Path | None = None) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        import torchvision

        if stride not in (8, 16):
            raise ValueError(f"stride is {stride}, expected 16 or 8")
        make = getattr(torchvision.models, name)
        try:
            net = make(weights="IMAGENET1K_V1" if weights == "imagenet" else None)
        except OSError as error:  # no network, or no room to keep the file
            raise RuntimeError(
                f"the ImageNet weights of {name} could not be fetched ({error}); where there is no "
                "network, give the path of a file that was downloaded elsewhere instead of "
                '"imagenet", or bring a trunk of your own'
            ) from error
        if weights is not None and weights != "imagenet":
            _load_trunk(net, Path(weights))
        self.out_channels = net.fc.in_features
        _flatten_stage(net.layer4, dilation=1 if stride == 16 else 4)
        if stride == 8:
            _flatten_stage(net.layer3, dilation=2)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4
        wide = self.out_channels // 8
        self.level_channels = (64, wide, 2 * wide, 4 * wide, 8 * wide)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, D, H / stride, W / stride)."""
        return self.levels(images)[-1]

    def levels(self, images: Tensor) -> list[Tensor]:
        """What the stem and the four stages give, from stride 4 on."""
        found = [self.stem(self.normalise(images))]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            found.append(stage(found[-1]))
        return found


def _flatten_stage(stage: nn.Sequential, *, dilation: int) -> None:
    """Take the stride out of a ResNet stage and dilate its 3x3 convolutions."""
    for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
        conv.stride = (1, 1)
        if conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (dilation, dilation)


def _load_trunk(net: nn.Module, path: Path) -> None:
    """Load everything but the classifier of a torchvision ResNet."""
    state = {k: v for k, v in read_state(path).items() if not k.startswith("fc.")}
    own = {k: v for k, v in net.state_dict().items() if k.startswith("fc.")}
    load_all(net, {**own, **state}, path, what="torchvision's ResNet")


def build_backbone(
    backbone: str | nn.Module,
    *,
    stride: int | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """A trunk by name, or the user's own after a check.

    Args:
        backbone: one of ``BACKBONES``, or a module with ``out_channels``.
        stride: of a named trunk; None for its default, 8 for ``"paper"`` and ``"resnet38"`` (which
            has no other) and 16 for the rest.
        weights: of a named ResNet, see `ResNetTrunk` and `ResNet38Trunk`; of ``"paper"``: None for
            random weights, or ``"web"`` for those in the package, which learned from a tiny CLIP on
            ``web`` pictures and play the part that ImageNet weights play for photographs.
        seed: of random initial weights; the global random state is left as it was.

    Returns:
        The trunk; a module that a user brought is returned as it is, neither moved nor changed.

    Raises:
        ValueError: for an unknown name, or options that a given module cannot take.

    Example:
        >>> trunk = build_backbone("paper", stride=8)
        >>> tuple(trunk(torch.rand(1, 3, 96, 90)).shape)
        (1, 96, 12, 12)
    """
    if isinstance(backbone, nn.Module):
        if not isinstance(getattr(backbone, "out_channels", None), int):
            raise ValueError(
                f"{type(backbone).__name__} has no integer out_channels; set it to the number "
                "of channels D that the module returns as (B, D, h, w)"
            )
        if stride is not None or weights is not None:
            raise ValueError(
                "stride and weights belong to named backbones; your module has its own"
            )
        return backbone
    if backbone not in BACKBONES:
        raise ValueError(
            f"backbone is {backbone!r}, expected one of {', '.join(BACKBONES)} or an nn.Module "
            "from (B, 3, H, W) to (B, D, h, w) with out_channels = D"
        )
    options = {"weights": weights} if stride is None else {"weights": weights, "stride": stride}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if backbone == "paper":
            return find("backbone", backbone)(**options)
        if backbone == "resnet38":
            if stride not in (None, 8):
                raise ValueError(f"stride is {stride}, expected 8: resnet38 has no other")
            return ResNet38Trunk(weights=weights)
        return ResNetTrunk(backbone, **options)
