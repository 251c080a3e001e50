"""Find data sets, and the models and weights that ship with the package, by name.

The methods know the name ``"paper"``, not the embedded world: modules are imported when a name is
asked for.
"""

from importlib import import_module
from typing import Any

_PLACES = {
    ("dataset", "coco"): "wsss_kit.data.benchmarks:load_coco",
    ("dataset", "folder"): "wsss_kit.data.folder:load_folder",
    ("dataset", "pets"): "wsss_kit.data.pets:load_pets",
    ("dataset", "voc"): "wsss_kit.data.benchmarks:load_voc",
    ("dataset", "paper"): "wsss_kit.paperworld:PaperWorld",
    ("clip", "paper"): "wsss_kit.paperworld.tiny_clip:frozen_tiny_clip",
    ("backbone", "paper"): "wsss_kit.paperworld.tiny_clip:paper_backbone",
}


def find(kind: str, name: str) -> Any:
    """Return the function or class that opens a data set or what ships with the package.

    Args:
        kind: ``"dataset"``, ``"clip"`` or ``"backbone"``.
        name: ``"paper"``; of a data set also ``"coco"``, ``"folder"``, ``"pets"``, ``"voc"``.

    Raises:
        KeyError: if nothing of this kind has the name.
    """
    module, _, attribute = _PLACES[kind, name].partition(":")
    return getattr(import_module(module), attribute)
