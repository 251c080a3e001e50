"""CLIP-ES of one picture, from its pixels to refined maps: the fast way, and to the letter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.affinity import balanced_walk, box_masks, random_walk, transition_matrix
from wsss_kit.cam import normalize_cams, upsample
from wsss_kit.checks import check_floating, check_probability
from wsss_kit.clip import FrozenCLIP
from wsss_kit.clip.vision import end_block
from wsss_kit.methods.base import preset_values
from wsss_kit.methods.clip_es.presets import EPS, PRESETS, SINKHORN
from wsss_kit.methods.clip_es.views import Texts, look


class RefinedMaps(NamedTuple):
    """All that CLIP-ES makes of one picture.

    Args:
        cams: (C, h, w) softmax Grad-CAM in [0, 1], one cell a patch.
        refined: (C, h, w) after box mask and walk, not scaled.
        masks: (C, h, w) of 0 and 1, the boxes around the confident regions.
        attention: (N, N) mean over the heads of the last layers, rows are queries.
        probs: (C + P,) softmax over the classes, then the background words.
    """

    cams: Tensor
    refined: Tensor
    masks: Tensor
    attention: Tensor
    probs: Tensor

    def full_size(self, size: tuple[int, int]) -> Tensor:
        """The refined maps as the released code writes them: scaled, then resized to the picture.

        Args:
            size: (H, W) of the picture.

        Returns:
            (C, H, W) in [0, 1].
        """
        return upsample(normalize_cams(self.refined[None], subtract_min=True, eps=EPS), size)[0]


def refined_maps(
    clip: FrozenCLIP,
    image: np.ndarray | Image.Image | Tensor,
    positives: Tensor,
    backgrounds: Tensor,
    *,
    preset: str = "reference",
    box_threshold: float = 0.4,
) -> RefinedMaps:
    """Maps of one picture for texts that are already encoded, and what became of them on the way.

    Args:
        clip: the model; its card's ``attention_layers`` and ``walk_squarings`` hold, or the
            published 8 and 1.
        image: (H, W, 3) uint8, a Pillow picture, or (3, H, W) RGB in [0, 1].
        positives: (C, D) unit text embeddings of the classes present.
        backgrounds: (P, D) of the background words; P may be 0.
        preset: one of ``PRESETS``.
        box_threshold: share of a map's maximum that is inside its box; 0.4 for VOC, 0.7 for COCO.

    Returns:
        `RefinedMaps` on the model's device.

    Raises:
        ValueError: if the picture is none, the texts have another width than the model's, or
            preset or threshold are unknown.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> clip = load_clip("paper", device="cpu")
        >>> texts = clip.encode_text(["a cow", "a cat", "grass", "sky"])
        >>> found = refined_maps(clip, np.zeros((40, 60, 3), np.uint8), texts[:2], texts[2:])
        >>> tuple(found.refined.shape), tuple(found.attention.shape), tuple(found.probs.shape)
        ((2, 5, 8), (40, 40), (4,))
    """
    check_probability("box_threshold", box_threshold)
    values = preset_values(PRESETS, preset, {})
    texts = _checked_texts(clip, positives, backgrounds)
    clamp = values.pop("clamp_boxes")
    view = look(clip, as_images(image), [texts], **values)
    cams = view.cams[0]
    masks = box_masks(cams[None], threshold=box_threshold, clamp=clamp)
    squarings = clip.walk_squarings
    refined = balanced_walk(
        masks * cams[None], view.attention, sinkhorn=SINKHORN, squarings=squarings
    )
    return RefinedMaps(cams, refined[0], masks[0], view.attention[0], view.probs[0])


def literal_maps(
    clip: FrozenCLIP,
    image: np.ndarray | Image.Image | Tensor,
    positives: Tensor,
    backgrounds: Tensor,
    *,
    box_threshold: float = 0.4,
) -> RefinedMaps:
    """The ``reference`` preset step by step as the paper writes it, each class on its own.

    Blocks by open_clip's own layers, every layer's attention kept, a new pass through the last
    block with automatic differentiation for each class, and the whole transition matrix each time.
    It is what `refined_maps` is tested against and timed against.

    Args:
        clip: the model, and so on as for `refined_maps`.
        image: the picture.
        positives: (C, D).
        backgrounds: (P, D).
        box_threshold: share of a map's maximum.

    Returns:
        `RefinedMaps`.
    """
    texts = torch.cat(_checked_texts(clip, positives, backgrounds))
    with torch.no_grad():
        x, grid = clip.embed(as_images(image), rounded=True)
        mask = clip.attention_mask(grid)
        layers = []
        for block in clip.blocks[:-1]:
            y = block.ln_1(x)
            mixed, weights = block.attn(y, y, y, need_weights=True, attn_mask=mask)
            layers.append(weights)
            x = end_block(block, x, mixed)
    block, visual, found = clip.blocks[-1], clip.model.visual, []
    for c in range(len(positives)):
        y = block.ln_1(x).detach().requires_grad_()
        mixed, weights = block.attn(y, y, y, need_weights=True, attn_mask=mask)
        embedding = visual.ln_post(end_block(block, x, mixed))[0, 1:].mean(0) @ visual.proj
        logits = clip.logit_scale * texts @ F.normalize(embedding, dim=0)
        probs = logits.softmax(0)
        (gradient,) = torch.autograd.grad(probs[c], y)
        cam = (y[0, 1:].detach() @ gradient[0, 1:].mean(0)).relu().view(1, 1, *grid)
        for _ in range(2):
            cam = normalize_cams(cam, subtract_min=True, eps=EPS)
        kept = clip.attention_layers
        attention = torch.stack([*layers, weights.detach()])[-kept:].mean(0)[:, 1:, 1:]
        box = box_masks(cam, threshold=box_threshold, clamp=True)
        squarings = clip.walk_squarings
        walk = transition_matrix(attention, sinkhorn=SINKHORN, squarings=squarings)
        found.append((cam[0, 0], random_walk(box * cam, walk)[0, 0], box[0, 0]))
    cams, refined, masks = map(torch.stack, zip(*found, strict=True))
    return RefinedMaps(cams, refined, masks, attention[0], probs.detach())


def as_images(image: np.ndarray | Image.Image | Tensor) -> Tensor:
    """A picture as arrays, Pillow or tensors have it: (1, 3, H, W) RGB in [0, 1].

    Raises:
        ValueError: if it is none.
    """
    if isinstance(image, Tensor) and image.ndim == 3 and image.is_floating_point():
        return image[None]
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(
            f"image is {pixels.dtype} of shape {pixels.shape}, expected (H, W, 3) uint8, a Pillow "
            "picture, or a tensor (3, H, W) of RGB in [0, 1]"
        )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def _checked_texts(clip: FrozenCLIP, positives: Tensor, backgrounds: Tensor) -> Texts:
    width = clip.model.visual.proj.shape[1]
    for name, texts, least in (("positives", positives, 1), ("backgrounds", backgrounds, 0)):
        check_floating(texts, name)
        if texts.ndim != 2 or texts.shape[1] != width or len(texts) < least:
            raise ValueError(
                f"{name} has shape {tuple(texts.shape)}, expected at least {least} unit embeddings "
                f"of this model's {width} numbers; clip.encode_text makes them"
            )
    return Texts(*(texts.to(clip.device) for texts in (positives, backgrounds)))
