"""ResNet-38, the wide network of PSA and SC-CAM, at stride 8.

Wu et al., "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", Pattern
Recognition 2019, model A1, dilated as Ahn and Kwak (CVPR 2018) and Chang et al. (CVPR 2020) use it.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.classifier.pretrained import Normalised, load_all, read_state

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
        first = OrderedDict(conv1a=nn.Conv2d(3, 64, 3, padding=1, bias=False))
        self.stem = nn.Sequential(first | {name: blocks.pop(name) for name in _STEM})
        self.body = nn.Sequential(OrderedDict(blocks))
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
                features.append(F.relu(block.norm1(x)))
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
