"""Masks that are written as they come: a run that was stopped goes on with the pictures left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.data import LazyMasks
from wsss_kit.data.pictures import mask_png, read_mask
from wsss_kit.files import write_whole
from wsss_kit.training import progress

_PROTOCOL = "protocol.json"


def write_masks(
    samples: Sequence[Sample],
    mask_of: Callable[[Sample], Tensor],
    folder: str | Path,
    *,
    made_by: Mapping[str, Any],
    what: str = "masks",
    shown: bool = True,
) -> LazyMasks:
    """Make the mask of each picture that has none yet, as a palette PNG; read them as asked for.

    Args:
        samples: pictures with their ``names``.
        mask_of: a sample to (H, W) int64, values 0 to 255.
        folder: of ``NAME.png``.
        made_by: everything that the masks depend on, as JSON holds it; a folder of masks that were
            made otherwise is refused.
        what: name of the bar.
        shown: whether to show it.

    Returns:
        Name -> (H, W) int64.

    Raises:
        ValueError: if the folder holds masks of another making, or a name leaves the folder.
        OSError: if the disk refuses; the masks before are kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    said = json.dumps(made_by, indent=1, sort_keys=True)
    card = folder / _PROTOCOL
    if card.exists() and card.read_text(encoding="utf-8") != said:
        raise ValueError(
            f"{folder} holds masks that were made otherwise ({_PROTOCOL} there says how); expected "
            "a folder of their own: remove it, or give --out another one"
        )
    write_whole(card, said)
    names = list(samples.names)
    for i in progress(range(len(names)), what=what, shown=shown, total=len(names)):
        path = _path(folder, names[i])
        if not path.exists():
            write_whole(path, mask_png(mask_of(samples[i])))
    return LazyMasks(names, read=lambda name: read_mask(_path(folder, name)), folder=folder)


def _path(folder: Path, name: str) -> Path:
    """Where a picture's mask lies; never outside the folder."""
    path = folder / f"{name}.png"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"a picture is called {name!r}, expected a name that stays in its folder")
    return path
