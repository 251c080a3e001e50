"""From a backbone's levels to what is compared: PSA has three of ResNet-38, IRN five of ResNet-50.

A backbone with levels has ``levels(images)``, a list of features from fine to coarse, and
``level_channels``, how many channels each of them has.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.classifier.resnet38 import from_released

KINDS = ("features", "boundary")
"""What two cells are compared by: PSA's similarity of features, or IRN's boundary between them."""
_GROUPS = 4  # of IRN's normalisation


class Projection(nn.Module):
    """One level: a 1x1 convolution. Several: one each, side by side, and another over all of them.

    Features end in an ELU, as in PSA. The boundary is one number before its sigmoid; several levels
    of it are normalised in groups before they come together, as in IRN.

    Args:
        ins: channels of each level.
        channels: that each level is brought to, where there are several; of the features that are
            compared, where there is one.
        kind: one of ``KINDS``.

    Raises:
        ValueError: if there are not as many ``channels`` as levels, or those of a boundary cannot
            be normalised in groups.
    """

    def __init__(self, ins: Sequence[int], channels: Sequence[int], kind: str) -> None:
        super().__init__()
        if len(ins) != len(channels):
            raise ValueError(
                f"channels are {tuple(channels)} and there are {len(ins)} levels, expected one "
                "number, or one for each level"
            )
        boundary, several = kind == "boundary", len(ins) > 1
        if boundary and several and any(after % _GROUPS for after in channels):
            raise ValueError(
                f"channels are {tuple(channels)}, expected multiples of {_GROUPS} for boundaries: "
                "each level is normalised in groups"
            )
        self.kind, self.each = kind, nn.ModuleList()
        for before, after in zip(ins, channels, strict=True) if several else ():
            layer: nn.Module = nn.Conv2d(before, after, 1, bias=False)
            if boundary:
                layer = nn.Sequential(layer, nn.GroupNorm(_GROUPS, after))
            else:
                nn.init.kaiming_normal_(layer.weight)
            self.each.append(layer)
        total = sum(channels)
        joined = total if several else ins[0]
        self.joined = nn.Conv2d(joined, 1 if boundary else total, 1, bias=boundary or not several)
        if several and not boundary:
            nn.init.xavier_uniform_(self.joined.weight, gain=4)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Project (B, D, h, w) of every level to (B, channels, h, w) on the grid of the first."""
        size = levels[0].shape[2:]
        active = F.elu if self.kind == "features" else F.relu
        x = levels[0]
        if len(self.each):
            pairs = zip(self.each, levels, strict=True)
            x = torch.cat([active(enlarged(layer(level), size)) for layer, level in pairs], 1)
        x = self.joined(x)
        return F.elu(x) if self.kind == "features" else x


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge maps of a coarser level to a finer grid: by a whole factor, cut at the border.

    A backbone's cell covers as many pixels at the border as elsewhere, so 47 cells of 16 pixels are
    94 of 8, of which an image of 745 pixels has 93. Grids that do not fit so are resized.

    Args:
        maps: (B, C, h, w).
        size: (H, W), as large or larger.

    Returns:
        (B, C, H, W).

    Example:
        >>> enlarged(torch.tensor([[[[0.0, 1.0]]]]), (1, 3)).flatten().tolist()
        [0.0, 0.25, 0.75]
    """
    factor = max(round(size[0] / maps.shape[2]), round(size[1] / maps.shape[3]))
    if factor == 1 and maps.shape[2:] == tuple(size):
        return maps
    options = {"mode": "bilinear", "align_corners": False}
    if all(-(-full // factor) == part for full, part in zip(size, maps.shape[2:], strict=True)):
        return F.interpolate(maps, scale_factor=factor, **options)[:, :, : size[0], : size[1]]
    return F.interpolate(maps, size=tuple(size), **options)


PSA = {"backbone": "resnet38", "radius": 5, "levels": 3, "channels": (64, 128, 256)}
IRN = {"backbone": "resnet50", "radius": 5, "kind": "boundary", "levels": 5, "channels": 32}
IRN["pad_to"] = 512
"""Arguments of `AffinityNet` for the two networks, as they walk: IRN learns with radius 10."""


def translated(state: Mapping[str, Tensor], path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Find out which network a released file is of; rename its weights to those of `AffinityNet`.

    Args:
        state: as the ``.pth`` holds it. Of IRN's network the displacement branch is left out: it
            tells instances apart and changes no semantic mask.
        path: of the file, for the message.
        path: of the file, for the message.

    Returns:
        (``PSA`` or ``IRN``, weights).

    Raises:
        ValueError: for any other file.
    """
    if "f9.weight" in state:
        heads = {f"f8_{n + 3}.weight": f"project.each.{n}.weight" for n in range(3)}
        heads["f9.weight"] = "project.joined.weight"
        backbone = from_released({key: value for key, value in state.items() if key not in heads})
        weights = {f"trunk.{key}": value for key, value in backbone.items()}
        return PSA, weights | {new: state[old] for old, new in heads.items() if old in state}
    if "fc_edge6.weight" in state:
        parts = {"resnet50.conv1.": "trunk.stem.0.", "resnet50.bn1.": "trunk.stem.1."}
        parts |= {"resnet50.": "trunk.", "fc_edge6.": "project.joined."}
        parts |= {f"fc_edge{n + 1}.": f"project.each.{n}." for n in range(5)}
        weights = {}
        for key, value in state.items():
            old = next((part for part in parts if key.startswith(part)), None)
            if old is not None and not key.startswith("resnet50.fc."):
                weights[parts[old] + key.removeprefix(old)] = value
        return IRN, weights
    raise ValueError(
        f"{path} is neither PSA's affinity (f9.weight) nor IRN's (fc_edge6.weight); give one of "
        "these, or what AffinityNet.save wrote"
    )


def channels_of(backbone: nn.Module, levels: int) -> Sequence[int]:
    """Return the channels of the last levels of a backbone."""
    if levels == 1:
        return [backbone.out_channels]
    known = getattr(backbone, "level_channels", ())
    if levels > len(known):
        raise ValueError(
            f"levels is {levels} and {type(backbone).__name__} has {len(known) or 'no'} levels, "
            "expected at most as many; give a backbone of your own levels(images), a list of "
            "features from fine to coarse, and level_channels"
        )
    return known[-levels:]
