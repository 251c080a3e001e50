"""Softmax Grad-CAM of images in several views: scales and flips."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.cam import Texts, gradient_maps, normalize_cams, upsample
from wsss_kit.checks import check_floating
from wsss_kit.clip import SIMILARITY, FrozenModel, LastBlock, Recorded
from wsss_kit.clip.vision import limit_of

EPS = 1e-7  # CLIP-ES adds it to the maximum of a map before it divides by it
SINKHORN = 3  # iterations of column and row normalisation that make CLIP-ES's transition
TAU = 0.05  # temperature of the similarity of class distributions, chosen on paperworld's ``val``
# Squares of tokens in a batch: larger batches are split. A CPU gains nothing from batches of large
# images, and its caches lose.
_MOST_TOKENS = {"cpu": 2**19, "cuda": 2**26}


class View(NamedTuple):
    """Images at one scale, as they are or flipped.

    Args:
        last: the last block, ready for gradients; None where it is no longer needed.
        attention: (B, N, N) float32 with the cells of the unflipped image; None at scales other
            than 1.
        grid: (h, w) of this view.
        home: (h, w) of the images at scale 1.
        mirrored: whether the images are flipped.
    """

    last: LastBlock | Recorded | Any
    attention: Tensor | None
    grid: tuple[int, int]
    home: tuple[int, int]
    mirrored: bool

    def put_back(self, maps: Tensor) -> Tensor:
        """Resize and flip maps (C, h, w) of this view to those of the image itself."""
        if self.grid != self.home:
            maps = upsample(maps[:, None], self.home)[:, 0]  # a batch may be empty, channels not
        return maps.flip(-1) if self.mirrored else maps

    def patch_logits(self, scale: float, features: Tensor) -> Tensor:
        """Compute logits of every patch by itself for texts (T, E): (B, N, T)."""
        patches = F.normalize(self.last.patches.float(), dim=-1)  # (B, N, E)
        return scale * patches @ features.to(patches).T

    def put_cells_back(self, affinity: Tensor) -> Tensor:
        """Flip what is between cells, (B, N, N), to the cells of the image itself."""
        if not self.mirrored:
            return affinity
        cells = affinity.unflatten(2, self.grid).unflatten(1, self.grid)  # (B, h, w, h, w)
        return cells.flip(2, 4).flatten(3).flatten(1, 2)


def run_views(
    clip: FrozenModel,
    images: Tensor,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    similarity: str = SIMILARITY[0],
    affinity_backbone: FrozenModel | None = None,
    **options: Any,
) -> Iterator[View]:
    """Run CLIP on every view of the images, those at scale 1 first.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        flip: also run the flipped images.
        scales: factors on the images' sides; 1 is always among them and gives the attention.
        similarity: see `FrozenCLIP.last_block`.
        affinity_backbone: another model that gives the affinity; None for the same.
        **options: ``n_layers``, ``round_positions``, see `FrozenCLIP.encode_dense`.
    """
    (H, W), home = images.shape[-2:], None
    for scale in dict.fromkeys((1.0, *map(float, scales))):
        size = max(1, round(H * scale)), max(1, round(W * scale))
        sized, wanted = (images, similarity) if scale == 1 else (upsample(images, size), None)
        for mirrored in (False, True)[: 1 + flip]:
            shown = sized.flip(-1) if mirrored else sized
            of_clip = wanted if affinity_backbone is None else None
            last, attention, grid = clip.last_block(shown, similarity=of_clip, **options)
            home = home or grid
            if wanted and affinity_backbone is not None:
                given = {"similarity": wanted, **options}
                attention = affinity_backbone.affinity(shown, grid, **given).to(clip.device)
            view = View(last, None, grid, home, mirrored)
            if attention is not None:
                view = view._replace(attention=view.put_cells_back(attention.float()))
            yield view


def affinity_of(clip: FrozenModel, views: Sequence[View], texts: Texts | None) -> Tensor:
    """Average the attention of the views that have one: (B, N, N).

    Args:
        clip: the model.
        views: of the same images.
        texts: multiply by the similarity of the cells' classes among these, see
            `similarity_of_classes`; None for the attention alone.
    """
    attention = merged([view.attention for view in views if view.attention is not None])
    if texts is None:
        return attention
    alike = []
    for view in (view for view in views if view.attention is not None):
        logits = texts.competing(view.patch_logits(float(clip.logit_scale), texts.features))
        between = torch.stack([similarity_of_classes(of_image) for of_image in logits])
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
    clip: FrozenModel,
    images: Tensor,
    texts: Texts,
    *,
    softmax: bool = True,
    distribution: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Compute softmax Grad-CAM of a batch: one pass for each view, gradients in closed form.

    `cam.softmax_grad_cam` does the same for one image by plain differentiation.

    Args:
        clip: the model.
        images: (B, 3, H, W) RGB in [0, 1].
        texts: of the classes and backgrounds.
        softmax: False differentiates the logits instead of the probabilities.
        distribution: whether the affinity is weighed by the similarity of the cells' classes.
        **options: as for `run_views`.

    Returns:
        Maps (M, h, w) float32 in [0, 1] of all M pairs of an image and a class that it has, in the
        order of ``texts.present.nonzero()``; the affinity (B, N, N) that refines them;
        probabilities (B, T), 0 for absent classes; (h, w).
    """
    h, w = (side // clip.patch_size for side in clip.shown_size(images))
    n = max(1, limit_of(_MOST_TOKENS, clip.device) // (1 + h * w) ** 2)
    cams, probs, affinities, views = [], [], [], []
    for b in range(0, len(images), n):
        some, views, of_views = texts._replace(present=texts.present[b : b + n]), [], []
        for view in run_views(clip, images[b : b + n], **options):
            of_views.append(maps_of_view(clip, view, some, softmax=softmax))
            if view.attention is not None:  # the others' blocks are not needed again
                views.append(view)
        probs.append(of_views[0][1])
        # Reference: the released code scales twice, and so do all presets
        cams.append(scaled(merged([maps for maps, _ in of_views])))
        affinities.append(affinity_of(clip, views, some if distribution else None))
    return torch.cat(cams), torch.cat(affinities), torch.cat(probs), views[0].home


def maps_of_view(
    clip: FrozenModel, view: View, texts: Texts, *, softmax: bool = True
) -> tuple[Tensor, Tensor]:
    """Compute maps of one view, scaled: (M, h, w) of all pairs, and probabilities (B, T)."""
    options = {"scale": float(clip.logit_scale), "softmax": softmax}
    raw, probs = gradient_maps(view.last, texts, view.grid, **options)
    return view.put_back(scaled(raw)), probs.float()


def scaled(maps: Tensor) -> Tensor:
    """Scale each of (C, h, w) maps to [0, 1] over its own range."""
    return normalize_cams(maps[None], subtract_min=True, eps=EPS)[0]


def merged(views: Sequence[Tensor]) -> Tensor:
    """Average over the views of an image; return a single one itself."""
    return views[0] if len(views) == 1 else torch.stack(list(views)).mean(0)


def as_images(image: np.ndarray | Image.Image | Tensor, device: torch.device) -> Tensor:
    """Convert an array, a Pillow image or a tensor to (1, 3, H, W) RGB in [0, 1] on a device.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(image, Tensor) and image.ndim == 3 and image.is_floating_point():
        return image[None].to(device)
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(
            f"image is {pixels.dtype} of shape {pixels.shape}, expected (H, W, 3) uint8, a Pillow "
            "image, or a tensor (3, H, W) of RGB in [0, 1]"
        )
    return torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1)[None].float() / 255


def checked_texts(
    clip: FrozenModel, positives: Tensor, backgrounds: Tensor
) -> tuple[Tensor, Tensor]:
    """Return texts on the model's device; raise `ValueError` for those of another width."""
    width = clip.width
    for name, texts, least in (("positives", positives, 1), ("backgrounds", backgrounds, 0)):
        check_floating(texts, name)
        if texts.ndim != 2 or texts.shape[1] != width or len(texts) < least:
            raise ValueError(
                f"{name} has shape {tuple(texts.shape)}, expected at least {least} unit embeddings "
                f"of this model's {width} numbers; clip.encode_text makes them"
            )
    return positives.to(clip.device), backgrounds.to(clip.device)
