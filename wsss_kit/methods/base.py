"""What all methods promise: ``(images, labels) -> MethodOutput``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from wsss_kit.checks import check_images, check_labels, check_word
from wsss_kit.classes import Sample
from wsss_kit.clip import WALK_SQUARINGS
from wsss_kit.masks import BackgroundRule


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
    background: ClassVar[BackgroundRule] = BackgroundRule(threshold=0.15)
    """The published background rule of the maps."""
    walked_background: ClassVar[BackgroundRule] = BackgroundRule(power=16)
    """The published background rule where maps walk with a learned affinity."""
    brings_affinity: ClassVar[bool] = False
    """Whether the output has an affinity to refine the maps with."""
    walk_squarings: int = WALK_SQUARINGS
    """How often the transition made from the method's affinity is squared; published unless the
    method knows better."""

    @property
    def clamp_boxes(self) -> bool:
        """Whether CLIP-ES's boxes around this method's maps miss the last row and column."""
        return self.preset == "reference"

    @abstractmethod
    def fit(self, samples: Sequence[Sample], **training: Any) -> CAMMethod:
        """Learn from images and image-level labels; returns itself."""

    @abstractmethod
    def __call__(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Compute maps of the classes present: (B, 3, H, W) and (B, C) -> `MethodOutput`."""

    @abstractmethod
    def save(self, path: str | Path) -> Path:
        """Write what was learned as safetensors with a JSON card beside it."""

    @classmethod
    @abstractmethod
    def load(cls, path: str | Path, **options: Any) -> CAMMethod:
        """Load a fitted method from the files that `save` wrote."""


def preset_values(
    presets: Mapping[str, Mapping[str, Any]], preset: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a preset's values, replaced by every given argument that is not None.

    Raises:
        ValueError: if there is no such preset.

    Example:
        >>> preset_values({"clean": {"k": 10, "rounds": 3}}, "clean", {"k": 4, "rounds": None})
        {'k': 4, 'rounds': 3}
    """
    check_word("preset", preset, presets)
    return {**presets[preset], **{k: v for k, v in given.items() if v is not None}}


def check_batch(images: Tensor, labels: Tensor, n_classes: int) -> None:
    """Raise `ValueError` if images or labels are malformed or their sizes disagree.

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    check_images(images)
    check_labels(labels)
    if labels.shape != (len(images), n_classes):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected ({len(images)}, {n_classes}): one "
            "row an image, one column a class, background not among them"
        )
