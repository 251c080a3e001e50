"""Which parts of the objects do masks find? Only the embedded world knows parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_kit.paperworld.world import PaperWorld

PARTS = ("body", "signature part")
"""Names of the values 1 and 2 of `PaperWorld.parts`."""


def part_recall(masks: Mapping[str, Tensor], world: PaperWorld) -> dict[str, float]:
    """The share of each part's pixels that have the right class, over all pictures.

    Args:
        masks: name of a picture -> (H, W) integers, 0 background and c + 1 for class c; other
            values, such as 255, are wrong. Every picture of the world has one.
        world: whose parts and true masks count.

    Returns:
        Name of the part -> recall in [0, 1]; nan for a part that no picture shows.

    Raises:
        ValueError: if a picture has no mask or one of another size.

    Example:
        >>> world = PaperWorld(3)
        >>> part_recall(world.masks, world)
        {'body': 1.0, 'signature part': 1.0}
    """
    found, shown = torch.zeros(len(PARTS)), torch.zeros(len(PARTS))
    for name in world.names:
        if name not in masks:
            raise ValueError(f"there is no mask for {name!r}; expected one for each of {world!r}")
        truth, parts, mask = world.masks[name], world.parts[name], masks[name]
        if mask.shape != truth.shape:
            raise ValueError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, expected "
                f"{tuple(truth.shape)} as the picture"
            )
        for k in range(len(PARTS)):
            part = parts == k + 1
            shown[k] += part.sum()
            found[k] += (mask.to(truth.device) == truth)[part].sum()
    return {name: (found[k] / shown[k]).item() for k, name in enumerate(PARTS)}
