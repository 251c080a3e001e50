"""Where CLIP models come from: the package's tiny one, or open_clip by name and weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from wsss_kit.paperworld.tiny_clip import MEAN, STD, load_tiny_clip
from wsss_kit.paperworld.tokenizer import WordTokenizer

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipParts(NamedTuple):
    """What `FrozenCLIP` is made of."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: int | None


def paper_parts(weights: str | Path | None) -> ClipParts:
    """The tiny CLIP from the package or from a file that its training command wrote.

    Raises:
        FileNotFoundError: if the weights or the card are missing.
        ValueError: if the weights are not those of the card.
    """
    model, card = load_tiny_clip(weights)
    architecture = card["architecture"]
    tokenizer = WordTokenizer(card["words"], architecture["text_cfg"]["context_length"])
    return ClipParts(model, tokenizer, MEAN, STD, architecture["window"])


def open_clip_parts(name: str, weights: str | Path | None) -> ClipParts:
    """A model of open_clip's by name, with random weights where none are given.

    Raises:
        ValueError: for an unknown name, the wrong activation, or a damaged or foreign file.
        FileNotFoundError: if the weights are neither a tag nor a file.
    """
    import open_clip

    if name not in open_clip.list_models():
        raise ValueError(
            f"name is {name!r}, expected 'paper' or one of open_clip's models such as "
            "'ViT-B-16-quickgelu' (open_clip.list_models() shows all)"
        )
    is_tag = weights is not None and str(weights) in open_clip.list_pretrained_tags_by_model(name)
    if weights is not None and not is_tag and not Path(weights).exists():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise FileNotFoundError(
            f"weights is {str(weights)!r}: neither a file nor a tag of {name} (its tags: {tags})"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*QuickGELU.*")
        try:
            model, _, _ = open_clip.create_model_and_transforms(
                name, pretrained=None if weights is None else str(weights)
            )
        except UserWarning as warning:
            raise ValueError(
                f"{name} with {weights!r} would run with the wrong activation ({warning}); use "
                f"{name}-quickgelu, or its scores drift silently"
            ) from warning
        except Exception as error:  # every reader of weights has its own exceptions
            if is_tag or weights is None:
                raise
            raise ValueError(
                f"{weights} does not hold the weights of {name} ({error}); it is truncated or "
                "of another model"
            ) from error
    mean = getattr(model.visual, "image_mean", None) or OPENAI_MEAN
    std = getattr(model.visual, "image_std", None) or OPENAI_STD
    return ClipParts(model, open_clip.get_tokenizer(name), tuple(mean), tuple(std), None)
