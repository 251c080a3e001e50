"""ResNet-38, the wide network of PSA and SC-CAM, at stride 8.

Wu et al., "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", Pattern
Recognition 2019, model A1, dilated as Ahn and Kwak (CVPR 2018) and Chang et al. (CVPR 2020) use it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.classifier.pretrained import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalised,
    load_all,
    read_state,
)

_PLAIN = {  # name -> channels in, in the middle, out; stride; dilation of either convolution
    "b2": (64, 128, 128, 2, 1, 1),
    **{f"b2_{i}": (128, 128, 128, 1, 1, 1) for i in (1, 2)},
    "b3": (128, 256, 256, 2, 1, 1),
    **{f"b3_{i}": (256, 256, 256, 1, 1, 1) for i in (1, 2)},
    "b4": (256, 512, 512, 2, 1, 1),
    **{f"b4_{i}": (512, 512, 512, 1, 1, 1) for i in (1, 2, 3, 4, 5)},
    "b5": (512, 512, 1024, 1, 1, 2),
    **{f"b5_{i}": (1024, 512, 1024, 1, 2, 2) for i in (1, 2)},
}
_BOTTLENECKS = {"b6": (1024, 2048, 0.3), "b7": (2048, 4096, 0.5)}  # in, out, dropout
_STEM = ("b2", "b2_1", "b2_2")
"""Blocks that the papers leave as ImageNet made them, as they do the first convolution."""

_RELEASED = {
    "bn_branch2a": "norm1",
    "conv_branch2a": "conv1",
    "bn_branch2b1": "norm2",
    "conv_branch2b1": "conv2",
    "bn_branch2b2": "norm3",
    "conv_branch2b2": "conv3",
    "conv_branch1": "skip",
}
"""Layers of a block as the released weights call them, and here."""


class _Block(nn.Module):
    """Normalise, ReLU, convolve, two or three times; the sum with what came in."""

    def __init__(
        self,
        convolutions: list[nn.Conv2d],
        skip: nn.Conv2d | None,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for number, convolution in enumerate(convolutions, 1):
            setattr(self, f"norm{number}", nn.BatchNorm2d(convolution.in_channels))
            setattr(self, f"conv{number}", convolution)
        self.skip, self.depth, self.dropout = skip, len(convolutions), dropout

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


def _convolve(ins: int, outs: int, side: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (side // 2)
    return nn.Conv2d(ins, outs, side, stride=stride, padding=padding, dilation=dilation, bias=False)


def _plain(ins: int, mid: int, outs: int, stride: int, first: int, second: int) -> _Block:
    changes = ins != outs or stride > 1
    return _Block(
        [
            _convolve(ins, mid, 3, stride=stride, dilation=first),
            _convolve(mid, outs, 3, dilation=second),
        ],
        _convolve(ins, outs, 1, stride=stride) if changes else None,
    )


def _bottleneck(ins: int, outs: int, dropout: float) -> _Block:
    return _Block(
        [
            _convolve(ins, outs // 4, 1),
            _convolve(outs // 4, outs // 2, 3, dilation=4),
            _convolve(outs // 2, outs, 1),
        ],
        _convolve(ins, outs, 1),
        dropout=dropout,
    )


class ResNet38Trunk(Normalised):
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

    out_channels = 4096
    level_channels = (512, 1024, 4096)

    def __init__(self, *, weights: str | Path | None = None) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        if weights == "imagenet":
            raise ValueError(
                'weights is "imagenet", expected None or a file: the ImageNet weights of ResNet-38 '
                "were released for MXNet; convert them as PSA does and give the .pth"
            )
        blocks = {name: _plain(*numbers) for name, numbers in _PLAIN.items()}
        blocks |= {name: _bottleneck(*numbers) for name, numbers in _BOTTLENECKS.items()}
        first = OrderedDict(conv1a=nn.Conv2d(3, 64, 3, padding=1, bias=False))
        self.stem = nn.Sequential(first | {name: blocks.pop(name) for name in _STEM})
        self.body = nn.Sequential(OrderedDict(blocks))
        self.norm = nn.BatchNorm2d(self.out_channels)
        if weights is not None:
            path = Path(weights)
            load_all(self, from_released(read_state(path)), path, what="ResNet-38")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, 4096, ceil(H / 8), ceil(W / 8))."""
        return self.levels(images)[-1]

    def levels(self, images: Tensor) -> list[Tensor]:
        """What blocks 5 and 6 see, normalised, and the features: all at stride 8, as in PSA."""
        x, found = self.stem(self.normalise(images)), []
        for name, block in self.body.named_children():
            if name in ("b5", "b6"):
                found.append(F.relu(block.norm1(x)))
            x = block(x)
        return [*found, F.relu(self.norm(x))]


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released weights under the names of this trunk; heads (``fc8`` and others) are left out.

    Args:
        state: of PSA's or SC-CAM's network, as their ``.pth`` files hold it, or of this trunk,
            which stays as it is.

    Example:
        >>> list(from_released({"b2.conv_branch2a.weight": 0, "bn7.bias": 1, "fc8.weight": 2}))
        ['stem.b2.conv1.weight', 'norm.bias']
    """
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        if first.startswith("fc8"):
            continue
        if first == "bn7":
            renamed[".".join(["norm", *rest])] = value
        elif first == "conv1a" or first in _PLAIN or first in _BOTTLENECKS:
            part = "stem" if first == "conv1a" or first in _STEM else "body"
            rest = [_RELEASED.get(layer, layer) for layer in rest]
            renamed[".".join([part, first, *rest])] = value
        else:
            renamed[key] = value
    return renamed
