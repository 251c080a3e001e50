"""A trunk of one's own, named on the command line as ``FILE.py:FUNCTION``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn


def load_function(text: str) -> nn.Module:
    """Call ``FILE.py:FUNCTION`` without arguments and return its module.

    Raises:
        ValueError: if the text has another form or the file has no such function.
        FileNotFoundError: if there is no such file.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"backbone is {text!r}, expected a ResNet's name or FILE.py:FUNCTION")
    if not Path(file).exists():
        raise FileNotFoundError(f"{file} is missing; --backbone names a Python file and a function")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"{file} has no function {name!r}")
    return getattr(module, name)()


def trunk_named(text: str | None) -> str | nn.Module | None:
    """A module for ``FILE.py:FUNCTION``; a trunk's name, or None, as it is."""
    return load_function(text) if text is not None and ".py" in text else text
