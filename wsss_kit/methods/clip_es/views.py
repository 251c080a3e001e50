"""One look at pictures: the map of every class present, the attention, what CLIP believes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wsss_kit.cam import normalize_cams
from wsss_kit.clip import FrozenCLIP, LastBlock
from wsss_kit.methods.clip_es.competition import directions
from wsss_kit.methods.clip_es.presets import EPS

_MOST_TOKENS = {"cpu": 2**19, "cuda": 2**26}
"""Squares of tokens in a batch: more are looked at in turn. A CPU gains nothing from batches of
large pictures and its caches lose."""


class Texts(NamedTuple):
    """What a picture is compared with: (C, E) unit texts of its classes, (P, E) of their rivals."""

    positives: Tensor
    rivals: Tensor


class View(NamedTuple):
    """What one look at B pictures gave.

    Args:
        cams: for each picture (C, h, w) float32 in [0, 1], C its own number of classes.
        attention: (B, N, N).
        probs: for each picture (C + P,).
        grid: (h, w).
    """

    cams: list[Tensor]
    attention: Tensor
    probs: list[Tensor]
    grid: tuple[int, int]


class Angle(NamedTuple):
    """Pictures from one side: as they are, or mirrored.

    Args:
        last: the last block, ready for gradients.
        attention: (B, N, N) float32 with the cells where they are in the picture.
        grid: (h, w).
        mirrored: whether it is the mirror image.
    """

    last: LastBlock
    attention: Tensor
    grid: tuple[int, int]
    mirrored: bool

    def put_back(self, maps: Tensor) -> Tensor:
        """Maps (..., h, w) of this side as maps of the picture."""
        return maps.flip(-1) if self.mirrored else maps


def angles(
    clip: FrozenCLIP, images: Tensor, *, flip: bool = False, **options: Any
) -> Iterator[Angle]:
    """Run the trunk on every side of the pictures that is looked at.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        flip: also look at the mirror image.
        **options: ``n_layers``, ``round_positions``, see `FrozenCLIP.encode_dense`.
    """
    for mirrored in (False, True)[: 1 + flip]:
        shown = images.flip(-1) if mirrored else images
        last, attention, grid = clip.last_block(shown, **options)
        attention = attention.float()
        if mirrored:
            cells = attention.unflatten(2, grid).unflatten(1, grid)  # (B, h, w, h, w)
            attention = cells.flip(2, 4).flatten(3).flatten(1, 2)
        yield Angle(last, attention, grid, mirrored)


def look(
    clip: FrozenCLIP,
    images: Tensor,
    texts: Sequence[Texts],
    *,
    softmax: bool = True,
    **options: Any,
) -> View:
    """Softmax Grad-CAM of a batch: one pass through the trunk, gradients in closed form.

    `cam.softmax_grad_cam` does the same for one picture by plain differentiation.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        texts: for every picture what it is compared with.
        softmax: False differentiates the logits instead of the probabilities.
        **options: as for `angles`.

    Returns:
        `View`; maps are scaled to [0, 1].
    """
    h, w = (side // clip.patch_size for side in clip.shown_size(images))
    most = _MOST_TOKENS.get(clip.device.type, _MOST_TOKENS["cpu"])
    n = max(1, most // (1 + h * w) ** 2)
    views = [
        _look(clip, images[b : b + n], texts[b : b + n], softmax, options)
        for b in range(0, len(images), n)
    ]
    cams = [maps for view in views for maps in view.cams]
    probs = [believed for view in views for believed in view.probs]
    return View(cams, torch.cat([view.attention for view in views]), probs, views[0].grid)


def _look(
    clip: FrozenCLIP, images: Tensor, texts: Sequence[Texts], softmax: bool, options: dict
) -> View:
    found = [
        (_maps(clip, angle, texts, softmax), angle.attention, angle.grid)
        for angle in angles(clip, images, **options)
    ]
    cams, believed = zip(*(maps for maps, _, _ in found), strict=True)
    # Reference: the released code scales twice, and so do all presets
    means = [scaled(merged(sides)) for sides in zip(*cams, strict=True)]
    return View(means, merged([a for _, a, _ in found]), believed[0], found[0][2])


def _maps(
    clip: FrozenCLIP, angle: Angle, texts: Sequence[Texts], softmax: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """For each picture its maps (C, h, w), scaled, and its probabilities (C + P,)."""
    last, scale = angle.last, float(clip.logit_scale)
    most = max(len(each.positives) for each in texts)
    wanted = last.embedding.new_zeros(len(texts), most, last.embedding.shape[1])
    probs = []
    for b, (positives, rivals) in enumerate(texts):
        own, believed = directions(last.embedding[b], positives, rivals, scale, softmax=softmax)
        wanted[b, : len(positives)] = own
        probs.append(believed.float())
    raw = raw_maps(last, clip.mean_gradients(last, wanted), angle.grid)
    cams = [
        angle.put_back(scaled(maps[: len(own.positives)]))
        for maps, own in zip(raw, texts, strict=True)
    ]
    return cams, probs


def raw_maps(last: LastBlock, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Channels of the last block's normalised input, weighed: (B, C, D) -> (B, C, h, w)."""
    raw = weights @ last.normed[:, 1:].mT  # (B, C, N)
    return raw.relu().unflatten(2, grid).float()


def scaled(maps: Tensor) -> Tensor:
    """(C, h, w) maps, each scaled to [0, 1] over its own range."""
    return normalize_cams(maps[None], subtract_min=True, eps=EPS)[0]


def merged(sides: Sequence[Tensor]) -> Tensor:
    """The mean over the sides of a picture; of one side, itself."""
    return sides[0] if len(sides) == 1 else torch.stack(list(sides)).mean(0)
