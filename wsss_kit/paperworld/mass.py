"""Where do maps lie: on the object, on its usual background, elsewhere? The world knows it all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_kit.checks import check_range
from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.words import HOME, STUFF
from wsss_kit.paperworld.world import PaperWorld

PLACES = ("object", "usual background", "other background", "other object")


def mass_shares(maps: Mapping[str, Tensor], world: PaperWorld) -> dict[str, float]:
    """How the mass of all maps of the classes present divides, over all pictures.

    A CAM that has learned the context lies on its class's home as much as on the object.

    Args:
        maps: name of a picture -> (C, H, W) in [0, 1]; maps of absent classes do not count.
        world: whose masks and background kinds count.

    Returns:
        Place -> share in [0, 1], which sum to 1: on an object of the map's class; on the
        background kind that is its home; on any other background, plain paper included; on an
        object of another class. NaN if all maps are zero.

    Raises:
        ValueError: if a picture has no maps, or maps of another size or range.

    Example:
        >>> world = PaperWorld(3)
        >>> truth = {n: torch.stack([(world.masks[n] == c + 1).float() for c in range(8)])
        ...          for n in world.names}
        >>> mass_shares(truth, world)["object"]
        1.0
    """
    mass = torch.zeros(len(PLACES), dtype=torch.float64)
    homes = [STUFF.index(HOME[name]) for name in PAPER_CLASSES]
    for sample in world:
        if sample.name not in maps:
            raise ValueError(f"there are no maps for {sample.name!r}; expected some for each")
        shown, mask = maps[sample.name].detach().cpu(), world.masks[sample.name]
        if shown.shape != (len(PAPER_CLASSES), *mask.shape):
            raise ValueError(
                f"the maps of {sample.name!r} have shape {tuple(shown.shape)}, expected "
                f"{(len(PAPER_CLASSES), *mask.shape)}; resize them with cam.upsample"
            )
        check_range(f"the maps of {sample.name!r}", shown, "scale them with cam.normalize_cams")
        stuff = world.stuff[sample.name]
        for c in sample.labels.nonzero().flatten().tolist():
            on_object, at_home = mask == c + 1, stuff == homes[c]
            elsewhere = (mask == 0) & ~at_home
            others = (mask != 0) & ~on_object
            for k, place in enumerate((on_object, at_home, elsewhere, others)):
                mass[k] += shown[c][place].double().sum()
    return dict(zip(PLACES, (mass / mass.sum()).tolist(), strict=True))
