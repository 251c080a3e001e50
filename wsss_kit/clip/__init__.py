"""CLIP, frozen: what it says of texts, of pictures and of every patch."""

from wsss_kit.clip.frozen import OPENAI_MEAN, OPENAI_STD, DenseTokens, FrozenCLIP
from wsss_kit.clip.weights import load_clip

__all__ = ["OPENAI_MEAN", "OPENAI_STD", "DenseTokens", "FrozenCLIP", "load_clip"]
