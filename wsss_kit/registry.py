"""Where the data, models and weights that ship with the package are found, by name.

The methods know the name ``"paper"``, not the embedded world: modules are imported when a name is
asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    ("dataset", "paper"): "wsss_kit.paperworld:PaperWorld",
    ("clip", "paper"): "wsss_kit.paperworld.tiny_clip:frozen_tiny_clip",
    ("backbone", "paper"): "wsss_kit.paperworld.trunk:paper_backbone",
}


def find(kind: str, name: str) -> Any:
    """Return the function or class that opens what ships with the package.

    Args:
        kind: ``"dataset"``, ``"clip"`` or ``"backbone"``.
        name: ``"paper"``.

    Raises:
        KeyError: if nothing of this kind has the name.
    """
    module, _, attribute = _PLACES[kind, name].partition(":")
    return getattr(import_module(module), attribute)
