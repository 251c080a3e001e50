"""Where the data, models and weights that ship with the package are found, by name.

The methods know the name ``"paper"``, not the embedded world: modules are imported when a name is
asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    ("dataset", "coco"): "wsss_kit.data.coco:load_coco",
    ("dataset", "folder"): "wsss_kit.data.folder:load_folder",
    ("dataset", "pets"): "wsss_kit.data.pets:load_pets",
    ("dataset", "voc"): "wsss_kit.data.voc:load_voc",
    ("dataset", "paper"): "wsss_kit.paperworld:PaperWorld",
}


def find(kind: str, name: str) -> Any:
    """Return the function or class that opens what ships with the package.

    Args:
        kind: ``"dataset"``.
        name: ``"coco"``, ``"folder"``, ``"pets"``, ``"voc"`` or ``"paper"``.

    Raises:
        KeyError: if nothing of this kind has the name.
    """
    module, _, attribute = _PLACES[kind, name].partition(":")
    return getattr(import_module(module), attribute)
