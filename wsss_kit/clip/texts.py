"""Unit embeddings of texts by a frozen CLIP, each encoded once."""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.clip.vision import Backbone

MOST_TEXTS = 1000  # kept beside those of the current call; the oldest go first


class FrozenTexts(nn.Module):
    """The text tower of a CLIP that no training changes; `FrozenCLIP` adds the images.

    Args:
        model: ``open_clip.model.CLIP``.
        tokenizer: texts -> (P, T) int64.
    """

    model: Any
    tokenizer: Any

    def __init__(
        self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self._texts: dict[str, Tensor] = {}  # the last ones that were encoded
        self._given: dict[str, Tensor] = {}
        self.model.register_load_state_dict_post_hook(self._forget)

    def _forget(self, *_: Any) -> None:
        """Forget what was computed with other weights."""
        self._texts = {}

    def train(self, mode: bool = True) -> FrozenTexts:
        """Stay in evaluation mode: a frozen model has no training mode."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def logit_scale(self) -> Tensor:
        """Factor on cosines that makes them logits."""
        return self.model.logit_scale.exp()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def width(self) -> int:
        """How many numbers an embedding has."""
        raise NotImplementedError

    def give_texts(self, features: Mapping[str, Tensor]) -> None:
        """Keep embeddings of texts that were made elsewhere, so that no tokenizer is needed.

        Args:
            features: text -> (D,) of any length.

        Raises:
            ValueError: if one has another width than the model, or numbers that are not finite.
        """
        for text, values in features.items():
            if values.shape != (self.width,) or not values.isfinite().all():
                problem = f"the embedding of {text!r} has shape {tuple(values.shape)}"
                raise ValueError(f"{problem}, expected {self.width} finite numbers")
        self._given |= {t: F.normalize(v.float(), dim=0) for t, v in features.items()}

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Compute unit embeddings of texts; each text is encoded once and kept.

        Args:
            texts: P texts.

        Returns:
            (P, D) float32 of unit length.

        Raises:
            RuntimeError: if the model was wrapped without a tokenizer.
            ValueError: if a text is not a string, or empty.

        Warns:
            UserWarning: if a text has words that are not in the model's vocabulary, or is longer
                than the model's context and is cut.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"a text is {text!r}, expected words")
        known = ChainMap(self._given, self._texts)
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if self.tokenizer is None and (new or not self._given):
            advice = "pass one, FrozenCLIP(model, tokenizer), or give_texts"
            raise RuntimeError(f"this CLIP has no tokenizer; {advice}")
        if new:
            self._warn_of(new)
            ids = self.tokenizer(new).to(self.device)
            features = F.normalize(self._encode_ids(ids).float(), dim=-1)
            self._texts.update(zip(new, features, strict=True))
            requested = set(texts)
            for text in [text for text in self._texts if text not in requested][:-MOST_TEXTS]:
                del self._texts[text]
        if not texts:
            return torch.zeros(0, self.width, device=self.device)
        # on the device of now: the model may have been moved since
        return torch.stack([known[text].to(self.device) for text in texts])

    def _encode_ids(self, ids: Tensor) -> Tensor:
        """Compute open_clip's ``encode_text`` without padding, where the tower is causal.

        Of 77 tokens a phrase fills about ten; the end token has the highest id.
        """
        model = self.model
        causal = getattr(model, "text_pool_type", "") == "argmax" and model.attn_mask is not None
        if not causal or not isinstance(model.text_projection, Tensor):
            return model.encode_text(ids)
        return text_features(model, ids[:, : int(ids.argmax(1).max()) + 1])

    def encode_sentences(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Compute unit embeddings of phrases, each written as one or several texts.

        Args:
            sentences: for each of P phrases its texts, such as ``prompts.class_sentences()``.

        Returns:
            (P, D) float32: the mean of the texts' unit embeddings, normalised again.

        Raises:
            ValueError: if a phrase has no text; also as `encode_text`.
        """
        if not all(sentences):
            raise ValueError("a phrase has no text that says it, expected at least one each")
        counts = [len(each) for each in sentences]
        features = self.encode_text([text for each in sentences for text in each])  # all at once
        if all(count == 1 for count in counts):
            return features
        return F.normalize(torch.stack([each.mean(0) for each in features.split(counts)]), dim=-1)

    def _warn_of(self, texts: Sequence[str]) -> None:
        """Warn of unknown words and of texts that are longer than the model's context."""
        unknown = {word: text for text in texts for word in self.unknown_words(text)}
        if unknown:
            example = f"{_listed(unknown)}, as in {next(iter(unknown.values()))!r}"
            reason = "words it does not know all mean the same to it"
            # the level is past encode_text and its decorator
            warnings.warn(f"this model never read {example}: {reason}", stacklevel=4)
        most, encode = (getattr(self.tokenizer, n, None) for n in ("context_length", "encode"))
        if most is None or encode is None:
            return
        long = [text for text in texts if len(encode(text)) > most - 2]  # start and end go along
        if long:
            problem = f"this model reads {most - 2} tokens of a text and cuts the rest off"
            advice = f"{_listed(long)}; say it in fewer words"
            warnings.warn(f"{problem}: {advice}", stacklevel=4)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words outside the vocabulary; always empty for sub-word vocabularies."""
        unknown = getattr(self.tokenizer, "unknown", None)
        return unknown(text) if unknown is not None else []


def text_features(model: Any, ids: Tensor) -> Tensor:
    """Compute text embeddings of ids cut to their longest text, as ``encode_text`` of open_clip.

    Args:
        model: open_clip's ``CLIP`` with a causal text tower.
        ids: (P, T) token ids, T up to the context length; the end token is the highest.

    Returns:
        (P, D) unnormalised.
    """
    T = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:T]  # (P, T, D)
    mask = model.attn_mask[:T, :T].to(x.dtype)
    if torch.is_grad_enabled():
        for block in model.transformer.resblocks:
            x = block(x, attn_mask=mask)
    else:  # with half of the operations
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        backbone = Backbone(wide, mask, similarity=None)
        for block in model.transformer.resblocks:
            backbone.run(block, keep_attention=False)
        x = backbone.x.to(x.dtype)
    x = model.ln_final(x)
    return x[torch.arange(len(x)), ids.argmax(1)] @ model.text_projection


def _listed(words: Collection[str], most: int = 5) -> str:
    """List some of the words, quoted, and how many more there are."""
    shown = ", ".join(repr(word) for word in list(words)[:most])
    return shown + (f" and {len(words) - most} more" if len(words) > most else "")
