"""Backbones: networks from images to features, with their normalisation inside, and heads.

A backbone is any ``nn.Module`` (B, 3, H, W) RGB in [0, 1] -> (B, D, h, w) with ``out_channels`` D.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.classifier.pretrained import Normalised, load_all, read_state
from wsss_kit.classifier.resnet38 import ResNet38Backbone
from wsss_kit.registry import find

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
BACKBONES = ("paper", *RESNETS, "resnet38")
"""Names that `build_backbone` knows."""


class ResNetBackbone(Normalised):
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
        super().__init__()
        import torchvision

        if stride not in (8, 16):
            raise ValueError(f"stride is {stride}, expected 16 or 8")
        pretrained = "IMAGENET1K_V1" if weights == "imagenet" else None
        try:
            net = torchvision.models.get_model(name, weights=pretrained)
        except OSError as error:  # no network, or no room to keep the file
            raise RuntimeError(
                f"the ImageNet weights of {name} could not be fetched ({error}); where there is no "
                "network, give the path of a file that was downloaded elsewhere instead of "
                '"imagenet", or bring a backbone of your own'
            ) from error
        if weights not in (None, "imagenet"):
            state = read_state(Path(weights))
            state |= {k: v for k, v in net.state_dict().items() if k.startswith("fc.")}
            load_all(net, state, Path(weights), what="torchvision's ResNet")
        self.out_channels, self.stride = net.fc.in_features, stride
        _flatten_stage(net.layer4, dilation=1 if stride == 16 else 4)
        if stride == 8:
            _flatten_stage(net.layer3, dilation=2)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4
        wide = self.out_channels // 8
        self.level_channels = (64, wide, 2 * wide, 4 * wide, 8 * wide)
        self.level_strides = (4, 4, 8, stride, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features: (B, 3, H, W) RGB in [0, 1] -> (B, D, H / stride, W / stride)."""
        return self.levels(images)[-1]

    def levels(self, images: Tensor) -> list[Tensor]:
        """Compute the features of the stem and the four stages, from stride 4 on."""
        features = [self.stem(self.normalise(images))]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features


def _flatten_stage(stage: nn.Sequential, *, dilation: int) -> None:
    """Take the stride out of a ResNet stage and dilate its 3x3 convolutions."""
    for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
        conv.stride = (1, 1)
        if conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (dilation, dilation)


def build_backbone(
    backbone: str | nn.Module,
    *,
    stride: int | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a backbone by name, or check the user's own.

    Args:
        backbone: one of ``BACKBONES``, or a module with ``out_channels``.
        stride: of a named backbone; None for its default, 8 for ``"paper"`` and ``"resnet38"``
            (which has no other) and 16 for the rest.
        weights: of a named ResNet, see `ResNetBackbone` and `ResNet38Backbone`; of ``"paper"``:
            None for random weights, or ``"web"`` for those in the package, which learned from a
            tiny CLIP on ``web`` images and replace ImageNet weights there.
        seed: of random initial weights; the global random state is left as it was.

    Returns:
        The backbone; a given module is returned as it is, neither moved nor changed.

    Raises:
        ValueError: for an unknown name, or options that a given module cannot take.

    Example:
        >>> backbone = build_backbone("paper", stride=8)
        >>> tuple(backbone(torch.rand(1, 3, 96, 90)).shape)
        (1, 96, 12, 12)
    """
    if isinstance(backbone, nn.Module):
        if not isinstance(getattr(backbone, "out_channels", None), int):
            raise ValueError(
                f"{type(backbone).__name__} has no integer out_channels; set it to the number "
                "of channels D that the module returns as (B, D, h, w)"
            )
        if stride is not None or weights is not None:
            raise ValueError("stride and weights belong to named backbones, not to your module")
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
            return ResNet38Backbone(weights=weights)
        return ResNetBackbone(backbone, **options)


def new_head(rows: int, dimensions: int, *, seed: int, xavier: bool = False) -> Tensor:
    """Create an untrained head: (rows, D).

    Args:
        rows: C classes, or C * k sub-categories.
        dimensions: D.
        seed: of its weights.
        xavier: whether they are uniform in +-sqrt(6 / (rows + D)), as in SC-CAM's released code,
            or normal with a deviation of 0.01.
    """
    random = torch.Generator().manual_seed(seed)
    if not xavier:
        return torch.randn(rows, dimensions, generator=random) * 0.01
    bound = (6 / (rows + dimensions)) ** 0.5
    return bound * (2 * torch.rand(rows, dimensions, generator=random) - 1)


def warn_of_random_weights(what: str, backbone: str, weights: Any) -> None:
    """Warn if a training starts from random weights although there are pretrained ones.

    Args:
        what: the method.
        backbone: a name.
        weights: as given for it.
    """
    known = {"paper": "web", **dict.fromkeys(RESNETS, "imagenet")}.get(backbone)
    if weights is None and known is not None:
        warnings.warn(
            f"{what} starts from random weights of {backbone!r}, and maps will be poor; "
            f"weights={known!r} are its pretrained ones",
            stacklevel=5,
        )
