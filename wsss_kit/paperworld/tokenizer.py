"""A word tokenizer for the tiny CLIP, called like open_clip's tokenizers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.words import NOUNS, PLACES, STUFF, SUBTYPES, plural

PAD, UNKNOWN = 0, 1
_FUNCTION_WORDS = """a an the of and in on by with photo picture image clean cutout cut out plain
background without texture two three some""".split()


def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption of the embedded world can hold, after two special ones."""
    nouns = [noun for name in PAPER_CLASSES for noun in NOUNS[name]]
    styles = [style for name in PAPER_CLASSES for style in SUBTYPES[name]]
    places = " ".join(PLACES[kind] for kind in STUFF).split()
    words = [*_FUNCTION_WORDS, *nouns, *map(plural, nouns), *styles, *STUFF, *places]
    return ("<pad>", "<unknown>", *dict.fromkeys(words))


class WordTokenizer:
    """Texts to token ids: start, one id a word, end; the end has the highest id.

    Args:
        words: the vocabulary; by default the embedded world's.
        context_length: ids per text, start and end included; longer texts are cut.

    Example:
        >>> tokenizer = WordTokenizer()
        >>> tokenizer(["a cat", "a zebra"])[:, :4].tolist()
        [[75, 2, 39, 76], [75, 2, 1, 76]]
        >>> tokenizer.unknown("a zebra on the water")
        ['zebra']
    """

    def __init__(self, words: Sequence[str] | None = None, context_length: int = 20) -> None:
        self.words = tuple(words) if words is not None else vocabulary()
        self.context_length = context_length
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.start, self.end = len(self.words), len(self.words) + 1
        self.vocab_size = len(self.words) + 2

    @staticmethod
    def _split(text: str) -> list[str]:
        return re.findall(r"[a-z]+", text.lower())

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Return the ids of one text or of P texts: (P, context_length) int64, zero padded."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.full((len(texts), self.context_length), PAD, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            kept = [self.start, *self.encode(text)[: self.context_length - 2], self.end]
            row[: len(kept)] = torch.tensor(kept)
        return ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's words, all of them, without start and end."""
        return [self._ids.get(word, UNKNOWN) for word in self._split(text)]

    def unknown(self, text: str) -> list[str]:
        """List the words of a text that no caption held; the model cannot know their meaning."""
        return [word for word in self._split(text) if word not in self._ids]
