r"""Softmax Grad-CAM of images in several views: scales and flips.

With the image embedding f, texts of unit length :math:`t_k` and the scale s,
:math:`\ell_k = s\, t_k \cdot f / |f|` and :math:`p = \mathrm{softmax}(\ell)`. The probability of a
class has the gradient :math:`\sum_{k \ne c} p_c p_k (\nabla \ell_c - \nabla \ell_k)`, which is
how it is computed here: where p is nearly 1, :math:`1 - p` would have lost its digits.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.clip import SIMILARITY, FrozenCLIP, LastBlock

EPS = 1e-7  # CLIP-ES adds it to the maximum of a map before it divides by it
SINKHORN = 3  # iterations of column and row normalisation that make CLIP-ES's transition
TAU = 0.05  # temperature of the similarity of class distributions, chosen on paperworld's ``val``
# Squares of tokens in a batch: larger batches are split. A CPU gains nothing from batches of large
# images, and its caches lose.
_MOST_TOKENS = {"cpu": 2**19, "cuda": 2**26}
Texts = tuple[Tensor, Tensor]  # unit texts of an image's classes (C, E) and backgrounds (P, E)


class View(NamedTuple):
    """Images at one scale, as they are or flipped.

    Args:
        last: the last block, ready for gradients.
        attention: (B, N, N) float32 with the cells of the unflipped image; None at scales other
            than 1.
        grid: (h, w) of this view.
        home: (h, w) of the images at scale 1.
        mirrored: whether the images are flipped.
    """

    last: LastBlock
    attention: Tensor | None
    grid: tuple[int, int]
    home: tuple[int, int]
    mirrored: bool

    def put_back(self, maps: Tensor) -> Tensor:
        """Resize and flip maps (C, h, w) of this view to those of the image itself."""
        if self.grid != self.home:
            maps = upsample(maps[:, None], self.home)[:, 0]  # a batch may be empty, channels not
        return maps.flip(-1) if self.mirrored else maps

    def patch_logits(self, scale: float, texts: Iterable[Tensor]) -> list[Tensor]:
        """Compute logits of every patch by itself: (N, T) for each image with its texts (T, E)."""
        patches = F.normalize(self.last.patches.float(), dim=-1)  # (B, N, E)
        return [scale * p @ t.to(p).T for p, t in zip(patches, texts, strict=True)]

    def put_cells_back(self, affinity: Tensor) -> Tensor:
        """Flip what is between cells, (B, N, N), to the cells of the image itself."""
        if not self.mirrored:
            return affinity
        cells = affinity.unflatten(2, self.grid).unflatten(1, self.grid)  # (B, h, w, h, w)
        return cells.flip(2, 4).flatten(3).flatten(1, 2)


def run_views(
    clip: FrozenCLIP,
    images: Tensor,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    similarity: str = SIMILARITY[0],
    **options: Any,
) -> Iterator[View]:
    """Run CLIP on every view of the images, those at scale 1 first.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        flip: also run the flipped images.
        scales: factors on the images' sides; 1 is always among them and gives the attention.
        similarity: see `FrozenCLIP.last_block`.
        **options: ``n_layers``, ``round_positions``, see `FrozenCLIP.encode_dense`.
    """
    (H, W), home = images.shape[-2:], None
    for scale in dict.fromkeys((1.0, *map(float, scales))):
        size = max(1, round(H * scale)), max(1, round(W * scale))
        sized, wanted = (images, similarity) if scale == 1 else (upsample(images, size), None)
        for mirrored in (False, True)[: 1 + flip]:
            shown = sized.flip(-1) if mirrored else sized
            last, attention, grid = clip.last_block(shown, similarity=wanted, **options)
            home = home or grid
            view = View(last, None, grid, home, mirrored)
            if attention is not None:
                view = view._replace(attention=view.put_cells_back(attention.float()))
            yield view


def affinity_of(
    clip: FrozenCLIP, views: Sequence[View], texts: Sequence[Texts], *, distribution: bool = False
) -> Tensor:
    """Average the attention of the views that have one: (B, N, N).

    Args:
        clip: the model.
        views: of the same images.
        texts: for every image its texts.
        distribution: multiply by the similarity of the cells' classes, see `similarity_of_classes`.
    """
    views = [view for view in views if view.attention is not None]
    attention = merged([view.attention for view in views])
    if not distribution:
        return attention
    alike = []
    for view in views:
        of_images = view.patch_logits(float(clip.logit_scale), map(torch.cat, texts))
        between = torch.stack([similarity_of_classes(logits) for logits in of_images])
        alike.append(view.put_cells_back(between))
    return attention * merged(alike)


def similarity_of_classes(logits: Tensor) -> Tensor:
    r"""Compute how similar the class distributions of an image's cells are (CD-CLIP, CVPR 2026).

    :math:`\mathrm{softmax}_j((1 - \mathrm{JS}(p_i, p_j)) / \tau)` of the Jensen-Shannon divergence
    between the cells' distributions over classes and background prompts, in bits, from 0 to 1.

    Args:
        logits: (N, T) of every cell.

    Returns:
        (N, N), rows sum to 1.
    """
    p = logits.softmax(-1)
    entropy = torch.special.entr(p).sum(-1) / math.log(2)  # (N,)
    rows = max(1, 2**23 // p.numel())  # a few at a time: (rows, N, T) stays small
    mixed = [torch.special.entr((some[:, None] + p) / 2).sum(-1) for some in p.split(rows)]
    divergence = torch.cat(mixed) / math.log(2)
    divergence -= (entropy[:, None] + entropy) / 2
    return ((1 - divergence) / TAU).softmax(-1)


def batch_maps(
    clip: FrozenCLIP,
    images: Tensor,
    texts: Sequence[Texts],
    *,
    softmax: bool = True,
    distribution: bool = False,
    **options: Any,
) -> tuple[list[Tensor], Tensor, list[Tensor], tuple[int, int]]:
    """Compute softmax Grad-CAM of a batch: one pass for each view, gradients in closed form.

    `cam.softmax_grad_cam` does the same for one image by plain differentiation.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        texts: for every image its texts.
        softmax: False differentiates the logits instead of the probabilities.
        distribution: see `affinity_of`.
        **options: as for `run_views`.

    Returns:
        For each image maps (C, h, w) float32, scaled to [0, 1], C its own number of classes; the
        affinity (B, N, N) that refines them; for each image probabilities (C + P,); (h, w).
    """
    h, w = (side // clip.patch_size for side in clip.shown_size(images))
    n = max(1, _MOST_TOKENS.get(clip.device.type, _MOST_TOKENS["cpu"]) // (1 + h * w) ** 2)
    cams, probs, affinities = [], [], []
    for b in range(0, len(images), n):
        batch_texts, views, of_views = texts[b : b + n], [], []
        for view in run_views(clip, images[b : b + n], **options):
            of_views.append(maps_of_view(clip, view, batch_texts, softmax))
            if view.attention is not None:  # the others' blocks are not needed again
                views.append(view)
        probs += of_views[0][1]
        # Reference: the released code scales twice, and so do all presets
        cams += [scaled(merged(m)) for m in zip(*(maps for maps, _ in of_views), strict=True)]
        affinities.append(affinity_of(clip, views, batch_texts, distribution=distribution))
    return cams, torch.cat(affinities), probs, views[0].home


def maps_of_view(
    clip: FrozenCLIP, view: View, texts: Sequence[Texts], softmax: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """For each image its maps (C, h, w), scaled, and its probabilities (C + P,)."""
    last, scale = view.last, float(clip.logit_scale)
    counts = [len(positives) for positives, _ in texts]
    wanted = last.embedding.new_zeros(len(texts), max(counts), last.embedding.shape[1])
    probs = []
    for b, group in enumerate(texts):
        wanted[b, : counts[b]], of_image = directions(last.embedding[b], *group, scale, softmax)
        probs.append(of_image.float())
    raw = raw_maps(view, last.mean_gradients(wanted))
    return [view.put_back(scaled(maps[:C])) for maps, C in zip(raw, counts, strict=True)], probs


def logits_of(embedding: Tensor, texts: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Compute logits of texts and their derivatives by the image embedding.

    Args:
        embedding: (E,), of any length.
        texts: (T, E) of unit length.
        scale: factor on cosines.

    Returns:
        (T,) and (T, E), in the precision of ``embedding``.
    """
    texts = texts.to(embedding)
    length = embedding.norm()
    unit = embedding / length
    cosines = texts @ unit
    return scale * cosines, scale / length * (texts - cosines[:, None] * unit)


def probability_weights(probs: Tensor, n_positives: int) -> Tensor:
    """Return the weights that combine derivatives of logits into those of probabilities.

    Args:
        probs: (T,) softmax over the positives first, then the backgrounds.
        n_positives: C.

    Returns:
        (C, T); times the derivatives (T, anything) of the logits it gives those of the positives'
        probabilities.

    Example:
        >>> probability_weights(torch.tensor([0.75, 0.25]), 1).tolist()
        [[0.1875, -0.1875]]
    """
    weights = (-probs[:n_positives, None] * probs).fill_diagonal_(0)  # (C, T)
    weights.diagonal().copy_(-weights.sum(1))  # p_c times the sum of the others, not 1 - p_c
    return weights


def wide(values: Tensor) -> Tensor:
    """Convert to double precision, where the device has it."""
    return values.float() if values.device.type == "mps" else values.double()


def directions(
    embedding: Tensor, positives: Tensor, backgrounds: Tensor, scale: float, softmax: bool
) -> tuple[Tensor, Tensor]:
    """Compute derivatives by the image embedding, which start the pass through the last block.

    Args:
        embedding: (E,) of one image.
        positives: (C, E) unit texts of the classes present.
        backgrounds: (P, E) unit texts of the backgrounds.
        scale: factor on cosines.
        softmax: whether the probabilities are differentiated, or the logits.

    Returns:
        (C, E) and the probabilities (C + P,), both in double precision where the device has it.
    """
    logits, slopes = logits_of(wide(embedding), torch.cat([positives, backgrounds]), scale)
    probs, C = logits.softmax(0), len(positives)
    return probability_weights(probs, C) @ slopes if softmax else slopes[:C], probs


def raw_maps(view: View, weights: Tensor) -> Tensor:
    """Weigh channels of the last block's normalised input: (B, C, D) -> (B, C, h, w)."""
    raw = weights @ view.last.normed[:, 1:].mT  # (B, C, N)
    return raw.relu().unflatten(2, view.grid).float()


def scaled(maps: Tensor) -> Tensor:
    """Scale each of (C, h, w) maps to [0, 1] over its own range."""
    return normalize_cams(maps[None], subtract_min=True, eps=EPS)[0]


def merged(views: Sequence[Tensor]) -> Tensor:
    """Average over the views of an image; return a single one itself."""
    return views[0] if len(views) == 1 else torch.stack(list(views)).mean(0)
