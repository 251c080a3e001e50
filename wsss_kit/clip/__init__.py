"""CLIP, frozen: what it says of texts, of pictures and of every patch."""

from wsss_kit.clip.frozen import (
    OPENAI_MEAN,
    OPENAI_STD,
    WALK_SQUARINGS,
    DenseTokens,
    FrozenCLIP,
)
from wsss_kit.clip.weights import load_clip

__all__ = [
    "OPENAI_MEAN",
    "OPENAI_STD",
    "WALK_SQUARINGS",
    "DenseTokens",
    "FrozenCLIP",
    "load_clip",
]
