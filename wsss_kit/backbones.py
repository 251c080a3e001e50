"""Backbones: networks from images to features, with their normalisation inside, and heads.

A backbone is any ``nn.Module`` (B, 3, H, W) RGB in [0, 1] -> (B, D, h, w) with ``out_channels`` D.
"""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.checkpoints import load_all, read_state
from wsss_kit.classes import IMAGENET_MEAN, IMAGENET_STD, find


class Normalised(nn.Module):
    """Base of a network that normalises its images by ImageNet's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) RGB in [0, 1] to mean 0 and deviation 1."""
        return (images - self.mean) / self.std


Convolution = tuple[int, int, int, int, int]  # channels in and out, side, stride, dilation


def _plain(
    ins: int, mid: int, outs: int, stride: int = 1, first: int = 1, second: int = 1
) -> list[Convolution]:
    """Two convolutions; ``first`` and ``second`` are their dilations."""
    return [(ins, mid, 3, stride, first), (mid, outs, 3, 1, second)]


def _bottleneck(ins: int, outs: int) -> list[Convolution]:
    mid, wide = outs // 4, outs // 2
    return [(ins, mid, 1, 1, 1), (mid, wide, 3, 1, 4), (wide, outs, 1, 1, 1)]


_BLOCKS = {
    "b2": _plain(64, 128, 128, stride=2),
    **{f"b2_{i}": _plain(128, 128, 128) for i in (1, 2)},
    "b3": _plain(128, 256, 256, stride=2),
    **{f"b3_{i}": _plain(256, 256, 256) for i in (1, 2)},
    "b4": _plain(256, 512, 512, stride=2),
    **{f"b4_{i}": _plain(512, 512, 512) for i in (1, 2, 3, 4, 5)},
    "b5": _plain(512, 512, 1024, second=2),
    **{f"b5_{i}": _plain(1024, 512, 1024, first=2, second=2) for i in (1, 2)},
    "b6": _bottleneck(1024, 2048),
    "b7": _bottleneck(2048, 4096),
}
_DROPOUT = {"b6": 0.3, "b7": 0.5}
_STEM = ("b2", "b2_1", "b2_2")  # as the first convolution, the papers do not train them


class _Block(nn.Module):
    """Normalise, ReLU, convolve, two or three times; add the input."""

    def __init__(self, convolutions: list[Convolution], dropout: float) -> None:
        super().__init__()
        for number, (ins, outs, side, stride, dilation) in enumerate(convolutions, 1):
            padding = dilation * (side // 2)
            convolution = nn.Conv2d(ins, outs, side, stride, padding, dilation, bias=False)
            setattr(self, f"norm{number}", nn.BatchNorm2d(ins))
            setattr(self, f"conv{number}", convolution)
        ins, _, _, stride, _ = convolutions[0]
        outs = convolutions[-1][1]
        changes = ins != outs or stride > 1
        self.skip = nn.Conv2d(ins, outs, 1, stride, bias=False) if changes else None
        self.depth, self.dropout = len(convolutions), dropout

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        for number in range(1, self.depth + 1):
            x = F.relu(getattr(self, f"norm{number}")(x))
            if number == 1 and self.skip is not None:
                shortcut = self.skip(x)
            if number > 1 and self.dropout:  # whole channels
                x = F.dropout2d(x, self.dropout, self.training)
            x = getattr(self, f"conv{number}")(x)
        return x + shortcut


class ResNet38Backbone(Normalised):
    """The wide ResNet-38 that SC-CAM and PSA were published with, stride 8, D = 4096.

    Its last two blocks drop channels while it is trained. ``stem`` is what the papers leave as
    ImageNet made it.

    Args:
        weights: None for random weights, or a state dict (.safetensors, or .pth read with
            ``weights_only``) with the names of PSA's and SC-CAM's released files. ImageNet's
            weights were released for MXNet; PSA's loader makes a state dict of them.

    Raises:
        ValueError: if ``weights`` is ``"imagenet"``, which nobody serves as a state dict, or a file
            of another network.
    """

    out_channels, stride = 4096, 8
    level_channels, level_strides = (512, 1024, 4096), (8, 8, 8)

    def __init__(self, *, weights: str | Path | None = None) -> None:
        super().__init__()
        if weights == "imagenet":
            raise ValueError(
                'weights is "imagenet", expected None or a file: the ImageNet weights of ResNet-38 '
                "were released for MXNet; convert them as PSA does and give the .pth"
            )
        blocks = {n: _Block(block, _DROPOUT.get(n, 0.0)) for n, block in _BLOCKS.items()}
        first = OrderedDict[str, nn.Module](conv1a=nn.Conv2d(3, 64, 3, padding=1, bias=False))
        self.stem = nn.Sequential(first | {name: blocks.pop(name) for name in _STEM})
        self.body = nn.Sequential(OrderedDict[str, nn.Module](blocks))
        self.norm = nn.BatchNorm2d(self.out_channels)
        if weights is not None:
            state = from_released(read_state(Path(weights)))
            load_all(self, state, Path(weights), what="ResNet-38")

    def forward(self, images: Tensor) -> Tensor:
        """Compute features: (B, 3, H, W) RGB in [0, 1] -> (B, 4096, ceil(H / 8), ceil(W / 8))."""
        return self.levels(images)[-1]

    def levels(self, images: Tensor) -> list[Tensor]:
        """Compute the input of blocks 5 and 6, normalised, and the features: all at stride 8."""
        x, features = self.stem(self.normalise(images)), []
        for name, block in self.body.named_children():
            if name in ("b5", "b6"):
                features.append(F.relu(block.get_submodule("norm1")(x)))
            x = block(x)
        return [*features, F.relu(self.norm(x))]


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the released weights to those of this network; heads (``fc8``) are left out.

    Args:
        state: of PSA's or SC-CAM's network, as their ``.pth`` files hold it, or of this
            network, which stays as it is.

    Example:
        >>> list(from_released({"b2.conv_branch2a.weight": 0, "bn7.bias": 1, "fc8.weight": 2}))
        ['stem.b2.conv1.weight', 'norm.bias']
    """
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        for number, branch in enumerate(("2a", "2b1", "2b2"), 1):
            for old, new in (("bn", "norm"), ("conv", "conv")):
                rest = rest.replace(f"{old}_branch{branch}", f"{new}{number}")
        rest = rest.replace("conv_branch1", "skip")
        if first == "bn7":
            first = "norm"
        elif first == "conv1a" or first in _BLOCKS:
            first = f"stem.{first}" if first in ("conv1a", *_STEM) else f"body.{first}"
        if not first.startswith("fc8"):
            renamed[f"{first}.{rest}"] = value
    return renamed


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
            net: Any = torchvision.models.get_model(name, weights=pretrained)
        except OSError as error:  # no network, or no room to keep the file
            url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
            raise RuntimeError(
                f"the ImageNet weights of {name} could not be fetched ({error}); where there is no "
                f"network, put {url} into {Path(torch.hub.get_dir(), 'checkpoints')}, give the "
                'path of such a file instead of "imagenet", or bring a backbone of your own'
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
        _check_output(backbone)
        return backbone
    if backbone not in BACKBONES:
        raise ValueError(
            f"backbone is {backbone!r}, expected one of {', '.join(BACKBONES)} or an nn.Module "
            "from (B, 3, H, W) to (B, D, h, w) with out_channels = D"
        )
    options: dict[str, Any] = {"weights": weights}
    if stride is not None:
        options["stride"] = stride
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if backbone == "paper":
            return find("backbone", backbone)(**options)
        if backbone == "resnet38":
            if stride not in (None, 8):
                raise ValueError(f"stride is {stride}, expected 8: resnet38 has no other")
            return ResNet38Backbone(weights=weights)
        return ResNetBackbone(backbone, **options)


def _check_output(backbone: nn.Module) -> None:
    """Raise `ValueError` if a module of one's own gives something else than features."""
    modes = {module: module.training for module in backbone.modules()}
    of = next(backbone.parameters(), torch.zeros(1))
    try:
        with torch.no_grad():
            given = backbone.eval()(torch.zeros(2, 3, 64, 64, device=of.device))
    except Exception:  # it may need other images; what is wrong shows with these
        return
    finally:
        for module, mode in modes.items():
            module.training = mode
    D, name = backbone.out_channels, type(backbone).__name__
    is_tensor = isinstance(given, Tensor)
    is_float = is_tensor and given.dtype == torch.float32
    if not is_float or given.ndim != 4 or given.shape[:2] != (2, D) or not given.numel():
        shape = f" of shape {tuple(given.shape)}, {given.dtype}" if is_tensor else ""
        raise ValueError(
            f"{name} returned {type(given).__name__}{shape} for (2, 3, 64, 64) images, expected "
            f"a float32 tensor (B, D, h, w) with D = {D}, its out_channels; return the last "
            "feature map"
        )


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
