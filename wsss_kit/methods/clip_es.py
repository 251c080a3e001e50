"""CLIP-ES in its plain form: training-free maps from CLIP, gradients by autograd.

Lin et al., "CLIP is Also an Efficient Segmenter", CVPR 2023.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_kit.cam import normalize_cams, softmax_grad_cam
from wsss_kit.checks import check_count, check_word
from wsss_kit.classes import Sample
from wsss_kit.clip import WALK_SQUARINGS, DenseTokens, FrozenCLIP, load_clip
from wsss_kit.files import check_card, read_card, weights_path, write_whole
from wsss_kit.methods.base import CAMMethod, MethodOutput, check_batch, preset_values
from wsss_kit.prompts import Prompts

PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"round_positions": True, "flip": False},
    "clean": {"round_positions": False, "flip": True},
}
"""Reference: the released code rounds the resized position embedding to half precision, even where
the rest runs in full precision; ``clean`` does not. It also makes a mirror image and leaves it out;
``clean`` looks at it, for half a point to one on the embedded world's ``val``. The recipes look at
the preset too: the released code's boxes miss the last row and column, and its CRF sees pictures
that wrap around."""

TARGETS = ("softmax", "classes", "logit")
"""Whose gradient makes a map: a class's probability among the classes present and the background
words (the method), among the classes present alone, or its logit (plain Grad-CAM)."""

_EPS = 1e-7
_CARD_VERSION = 3
_SAVED = ("prompts", "n_layers", "squarings", "preset", "target", "flip")


class CLIPES(CAMMethod):
    """Softmax Grad-CAM and attention affinity of a frozen CLIP.

    Args:
        clip: the model; it is neither moved nor changed.
        prompts: classes, backgrounds and how they are said.
        n_layers: over how many of the last layers attention is averaged, clamped to the model's
            depth. None takes what the model's card says (the tiny CLIP's does) or the published 8.
        squarings: how often the transition made from that attention is squared before maps are
            walked with it: 0 is one step, 1 two. None takes what the model's card says or the
            published 1.
        preset: ``"reference"`` or ``"clean"``.
        target: one of ``TARGETS``; all but ``"softmax"`` are there to see what the method gains.
        flip: whether to average maps and affinity with those of the mirror image; None takes the
            preset's.

    Raises:
        ValueError: if there is no such target or preset, ``n_layers`` or ``squarings`` is no
            count, or ``clip`` and ``prompts`` are something else.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
        >>> sample = PaperWorld(1)[0]
        >>> output = method(sample.image[None], sample.labels[None])
        >>> tuple(output.cams.shape), tuple(output.affinity.shape)
        ((1, 8, 12, 12), (1, 144, 144))
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        *,
        prompts: Prompts,
        n_layers: int | None = None,
        squarings: int | None = None,
        preset: str = "reference",
        target: str = "softmax",
        flip: bool | None = None,
    ) -> None:
        if not hasattr(clip, "encode_dense") or not isinstance(prompts, Prompts):
            raise ValueError(
                f"clip is {type(clip).__name__} and prompts {type(prompts).__name__}, expected a "
                "FrozenCLIP from load_clip and Prompts"
            )
        preset_values(PRESETS, preset, {})
        if n_layers is not None:
            check_count("n_layers", n_layers)
        if squarings is not None:
            check_count("squarings", squarings, least=0)
        check_word("target", target, TARGETS)
        self.clip, self.prompts, self.n_layers, self.preset = clip, prompts, n_layers, preset
        self.squarings, self.target, self.flip = squarings, target, flip

    @property
    def walk_squarings(self) -> int:
        """What ``squarings`` comes to: the argument, the model's own, or the published one."""
        if self.squarings is not None:
            return self.squarings
        own = self.clip.walk_squarings
        return WALK_SQUARINGS if own is None else own

    def fit(self, samples: Sequence[Sample] = (), **training: Any) -> CLIPES:
        """Encode the phrases; there is nothing to train, so ``samples`` may be left out.

        Returns:
            Itself, with ``class_features_`` (C, D) and ``background_features_`` (P, D), unit; with
            several templates their mean, made unit again.
        """
        if training:
            raise ValueError(f"CLIP-ES has nothing to train; it cannot use {', '.join(training)}")
        prompts, encode = self.prompts, self.clip.encode_templates
        self.class_features_ = encode([prompts.class_texts(t) for t in prompts.templates])
        self.background_features_ = encode([prompts.background_texts(t) for t in prompts.templates])
        return self

    def __call__(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Maps of the classes present and the affinity that refines them.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.

        Returns:
            cams (B, C, h, w), one cell a patch, each scaled to [0, 1] over its own range; affinity
            (B, h * w, h * w), the mean attention of the last layers. Where the mirror image is
            looked at, both are means over the two views.

        Raises:
            RuntimeError: if `fit` was not called.
            ValueError: if shapes do not fit.
        """
        if not hasattr(self, "class_features_"):
            raise RuntimeError("the phrases are not encoded yet; call fit() first")
        check_batch(images, labels, len(self.prompts.classes))
        values = preset_values(PRESETS, self.preset, {"flip": self.flip})
        flip = values.pop("flip")
        dense = self.clip.encode_dense(images, n_layers=self.n_layers, **values)
        cams, affinity = self._maps(dense, labels), dense.attention
        if flip:
            mirror = self.clip.encode_dense(images.flip(-1), n_layers=self.n_layers, **values)
            cams = (cams + self._maps(mirror, labels).flip(-1)) / 2
            affinity = (affinity + _mirrored(mirror)) / 2
        # Reference: the released code scales twice, and so do both presets
        cams = normalize_cams(cams, subtract_min=True, eps=_EPS)
        return MethodOutput(cams.to(images.device), affinity.to(images.device))

    def _maps(self, dense: DenseTokens, labels: Tensor) -> Tensor:
        """One view's maps, each scaled to [0, 1]: (B, C, h, w), zero for absent classes."""
        clip, grid = self.clip, dense.grid
        rivals = self.background_features_
        cams = torch.zeros(*labels.shape, *grid, device=clip.device)
        for b, present in enumerate(labels.to(cams.device) > 0):
            if present.any():
                cams[b, present] = softmax_grad_cam(
                    dense.tokens[b].to(clip.dtype),
                    self.class_features_[present],
                    rivals[:0] if self.target == "classes" else rivals,
                    head=lambda tokens, normed: clip.finish(tokens, normed, grid),
                    norm=clip.blocks[-1].ln_1,
                    grid=grid,
                    logit_scale=clip.logit_scale,
                    softmax=self.target != "logit",
                )
        return normalize_cams(cams, subtract_min=True, eps=_EPS)

    def save(self, path: str | Path) -> Path:
        """Write prompts and arguments as JSON: all there is to know beside CLIP itself."""
        path = weights_path(path).with_suffix(".json")
        arguments = {name: getattr(self, name) for name in _SAVED}
        card = {
            "method": "CLIP-ES",
            "version": _CARD_VERSION,
            **arguments,
            "prompts": json.loads(self.prompts.to_json()),
        }
        return write_whole(path, json.dumps(card, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, *, clip: FrozenCLIP | None = None, **options: Any) -> CLIPES:
        """A fitted CLIP-ES from what `save` wrote.

        Args:
            path: as given to `save`.
            clip: the model; the tiny CLIP unless another is given, for it is not in the file.
            **options: arguments of the constructor, instead of what was saved.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or a card of another method or version.
        """
        path = weights_path(path).with_suffix(".json")
        card = read_card(path)
        check_card(card, path, method="CLIP-ES", version=_CARD_VERSION, keys=_SAVED)
        saved = {key: card[key] for key in _SAVED}
        saved["prompts"] = Prompts.from_json(json.dumps(card["prompts"]))
        return cls(clip if clip is not None else load_clip("paper"), **{**saved, **options}).fit()


def _mirrored(dense: DenseTokens) -> Tensor:
    """Attention of a mirror image with its cells put back: (B, N, N)."""
    h, w = dense.grid
    cells = dense.attention.unflatten(2, (h, w)).unflatten(1, (h, w))  # (B, h, w, h, w)
    return cells.flip(2, 4).flatten(3).flatten(1, 2)
