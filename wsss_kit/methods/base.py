"""What all methods promise: ``(images, labels) -> MethodOutput``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from wsss_kit.checks import check_images, check_labels
from wsss_kit.classes import Sample


class MethodOutput(NamedTuple):
    """Maps of a batch and, where the method has one of its own, the affinity to refine them with.

    Args:
        cams: (B, C, h, w) in [0, 1], zero where labels is zero.
        affinity: (B, N, N) with N the cells of the method's own grid, or None.
    """

    cams: Tensor
    affinity: Tensor | None = None


class CAMMethod(ABC):
    """A weakly supervised method up to its maps.

    Constructor arguments are stored as given; what `fit` learns ends in an underscore. An
    argument that is None takes the preset's value.
    """

    preset: str = "reference"

    @abstractmethod
    def fit(self, samples: Sequence[Sample], **training: Any) -> CAMMethod:
        """Learn from pictures and image-level labels; returns itself."""

    @abstractmethod
    def __call__(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Maps of the classes present: (B, 3, H, W) in [0, 1] and (B, C) -> `MethodOutput`."""

    @abstractmethod
    def save(self, path: str | Path) -> Path:
        """Write what was learned as safetensors with a JSON card beside it."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path, **options: Any) -> CAMMethod:
        """A fitted method from the files that `save` wrote."""


def preset_values(
    presets: Mapping[str, Mapping[str, Any]], preset: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """A preset's values with every given argument that is not None put over them.

    Raises:
        ValueError: if there is no such preset.

    Example:
        >>> preset_values({"clean": {"k": 10, "rounds": 3}}, "clean", {"k": 4, "rounds": None})
        {'k': 4, 'rounds': 3}
    """
    if preset not in presets:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join(presets)}")
    return {**presets[preset], **{k: v for k, v in given.items() if v is not None}}


def check_batch(images: Tensor, labels: Tensor, n_classes: int) -> None:
    """Refuse pictures and labels that are not what they should be or do not belong together.

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    check_images(images)
    check_labels(labels)
    if labels.shape != (len(images), n_classes):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected ({len(images)}, {n_classes}): one "
            "row a picture, one column a class, background not among them"
        )
