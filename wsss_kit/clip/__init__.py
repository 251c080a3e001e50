"""CLIP, frozen: what it says of texts, of pictures and of every patch."""

from wsss_kit.clip.frozen import (
    ATTENTION_LAYERS,
    OPENAI_MEAN,
    OPENAI_STD,
    WALK_SQUARINGS,
    DenseTokens,
    FrozenCLIP,
)
from wsss_kit.clip.last_block import LastBlock
from wsss_kit.clip.trunk import LIKENESS
from wsss_kit.clip.weights import load_clip

__all__ = [
    "ATTENTION_LAYERS",
    "LIKENESS",
    "OPENAI_MEAN",
    "OPENAI_STD",
    "WALK_SQUARINGS",
    "DenseTokens",
    "FrozenCLIP",
    "LastBlock",
    "load_clip",
]
