"""The true sub-types of a world's objects, as labels: what clustering should find."""

from __future__ import annotations

import torch
from torch import Tensor

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.words import SUBTYPES
from wsss_kit.paperworld.world import PaperWorld


def subtype_labels(world: PaperWorld) -> Tensor:
    """Which sub-types each picture shows; to compare with, and to train an upper bound on.

    Args:
        world: M pictures.

    Returns:
        (M, C * 3) of 0 and 1; column 3 c + j is sub-type j of class c, in the order of
        ``words.SUBTYPES``. A picture with two boats of different papers has two ones for boat.

    Example:
        >>> labels = subtype_labels(PaperWorld(2))
        >>> tuple(labels.shape), labels[0].nonzero().flatten().tolist()
        ((2, 24), [15])
    """
    labels = torch.zeros(len(world), 3 * len(PAPER_CLASSES))
    for i, name in enumerate(world.names):
        for parent, style in world.subtypes[name]:
            labels[i, 3 * PAPER_CLASSES.index(parent) + SUBTYPES[parent].index(style)] = 1
    return labels


def subtype_names() -> tuple[str, ...]:
    """What the columns of `subtype_labels` mean.

    Example:
        >>> subtype_names()[:4]
        ('wooden boat', 'red boat', 'striped boat', 'wooden train')
    """
    return tuple(f"{style} {name}" for name in PAPER_CLASSES for style in SUBTYPES[name])
