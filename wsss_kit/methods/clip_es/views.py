"""One look at pictures: the map of every class present, the attention, what CLIP believes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.clip import LIKENESS, FrozenCLIP, LastBlock
from wsss_kit.methods.clip_es.competition import directions
from wsss_kit.methods.clip_es.presets import EPS, TAU

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
        attention: (B, N, N) what maps are walked by.
        probs: for each picture (C + P,).
        grid: (h, w).
    """

    cams: list[Tensor]
    attention: Tensor
    probs: list[Tensor]
    grid: tuple[int, int]


class Angle(NamedTuple):
    """Pictures looked at in one way: at some size, as they are or mirrored.

    Args:
        last: the last block, ready for gradients.
        attention: (B, N, N) float32 with the cells where they are in the picture; None at sizes
            other than the picture's own.
        grid: (h, w) of this look.
        home: (h, w) of the picture at its own size.
        mirrored: whether it is the mirror image.
    """

    last: LastBlock
    attention: Tensor | None
    grid: tuple[int, int]
    home: tuple[int, int]
    mirrored: bool

    def put_back(self, maps: Tensor) -> Tensor:
        """Maps (C, h, w) of this look as maps of the picture at its own size."""
        if self.grid != self.home:
            maps = (
                upsample(maps[None], self.home)[0] if len(maps) else maps.new_zeros(0, *self.home)
            )
        return maps.flip(-1) if self.mirrored else maps


def angles(
    clip: FrozenCLIP,
    images: Tensor,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    likeness: str = LIKENESS[0],
    **options: Any,
) -> Iterator[Angle]:
    """Run the trunk on every look at the pictures, those at their own size first.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        flip: also look at the mirror image.
        scales: factors on the pictures' sides; 1 is always among the looks and gives the attention.
        likeness: see `FrozenCLIP.last_block`.
        **options: ``n_layers``, ``round_positions``, see `FrozenCLIP.encode_dense`.
    """
    H, W = images.shape[-2:]
    home = None
    for scale in dict.fromkeys((1.0, *map(float, scales))):
        own = scale == 1
        sized = images
        if not own:
            sized = upsample(images, (max(1, round(H * scale)), max(1, round(W * scale))))
        for mirrored in (False, True)[: 1 + flip]:
            shown = sized.flip(-1) if mirrored else sized
            wanted = likeness if own else None
            last, attention, grid = clip.last_block(shown, likeness=wanted, **options)
            home = home or grid
            if attention is not None:
                attention = _cells_back(attention.float(), grid, mirrored)
            yield Angle(last, attention, grid, home, mirrored)


def _cells_back(between: Tensor, grid: tuple[int, int], mirrored: bool) -> Tensor:
    """What is between cells, (B, N, N), with those of a mirror image put back."""
    if not mirrored:
        return between
    cells = between.unflatten(2, grid).unflatten(1, grid)  # (B, h, w, h, w)
    return cells.flip(2, 4).flatten(3).flatten(1, 2)


def affinity_of(
    clip: FrozenCLIP, looks: Sequence[Angle], texts: Sequence[Texts], *, distribution: bool = False
) -> Tensor:
    """(B, N, N) the mean attention of the looks that have one, by class distributions if wanted.

    Args:
        clip: the model.
        looks: of the same pictures.
        texts: for every picture what it is compared with.
        distribution: times how alike the cells' classes are, see `likeness_of_classes`.
    """
    own = [look for look in looks if look.attention is not None]
    attention = merged([look.attention for look in own])
    if not distribution:
        return attention
    scale = float(clip.logit_scale)
    alike = []
    for each in own:
        patches = F.normalize(each.last.patches.float(), dim=-1)  # (B, N, E)
        between = [
            likeness_of_classes(scale * own_patches @ torch.cat(theirs).to(patches).T)
            for own_patches, theirs in zip(patches, texts, strict=True)
        ]
        alike.append(_cells_back(torch.stack(between), each.grid, each.mirrored))
    return attention * merged(alike)


def likeness_of_classes(logits: Tensor) -> Tensor:
    r"""How alike the cells of a picture are in what CLIP takes them for (CD-CLIP, CVPR 2026).

    :math:`\mathrm{softmax}_j((1 - \mathrm{JS}(p_i, p_j)) / \tau)` of the Jensen-Shannon divergence
    between the cells' distributions over classes and background words, in bits, from 0 to 1.

    Args:
        logits: (N, T) of every cell.

    Returns:
        (N, N), rows sum to 1.
    """
    p = logits.softmax(-1)
    entropy = torch.special.entr(p).sum(-1) / math.log(2)  # (N,)
    rows = max(1, 2**23 // p.numel())  # a few at a time: (rows, N, T) stays small
    divergence = torch.cat(
        [
            torch.special.entr((some[:, None] + p) / 2).sum(-1) / math.log(2)
            for some in p.split(rows)
        ]
    )
    divergence -= (entropy[:, None] + entropy) / 2
    return ((1 - divergence) / TAU).softmax(-1)


def look(
    clip: FrozenCLIP,
    images: Tensor,
    texts: Sequence[Texts],
    *,
    softmax: bool = True,
    distribution: bool = False,
    **options: Any,
) -> View:
    """Softmax Grad-CAM of a batch: one pass through the trunk, gradients in closed form.

    `cam.softmax_grad_cam` does the same for one picture by plain differentiation.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        texts: for every picture what it is compared with.
        softmax: False differentiates the logits instead of the probabilities.
        distribution: see `affinity_of`.
        **options: as for `angles`.

    Returns:
        `View`; maps are scaled to [0, 1].
    """
    h, w = (side // clip.patch_size for side in clip.shown_size(images))
    most = _MOST_TOKENS.get(clip.device.type, _MOST_TOKENS["cpu"])
    n = max(1, most // (1 + h * w) ** 2)
    views = [
        _look(clip, images[b : b + n], texts[b : b + n], softmax, distribution, options)
        for b in range(0, len(images), n)
    ]
    cams = [maps for view in views for maps in view.cams]
    probs = [believed for view in views for believed in view.probs]
    return View(cams, torch.cat([view.attention for view in views]), probs, views[0].grid)


def _look(
    clip: FrozenCLIP,
    images: Tensor,
    texts: Sequence[Texts],
    softmax: bool,
    distribution: bool,
    options: dict,
) -> View:
    cams, believed, own = [], None, []
    for angle in angles(clip, images, **options):
        maps, probs = _maps(clip, angle, texts, softmax)
        cams.append(maps)
        believed = believed or probs
        if angle.attention is not None:
            own.append(angle)
    # Reference: the released code scales twice, and so do all presets
    means = [scaled(merged(looks)) for looks in zip(*cams, strict=True)]
    affinity = affinity_of(clip, own, texts, distribution=distribution)
    return View(means, affinity, believed, own[0].home)


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
    raw = raw_maps(last, last.mean_gradients(wanted), angle.grid)
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


def merged(looks: Sequence[Tensor]) -> Tensor:
    """The mean over the looks at a picture; of one, itself."""
    return looks[0] if len(looks) == 1 else torch.stack(list(looks)).mean(0)
