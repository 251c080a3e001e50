"""CLIP-ES of one image, from its pixels to refined maps: the fast way, and the literal one."""

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
from wsss_kit.engine import columns
from wsss_kit.methods.base import preset_values
from wsss_kit.methods.clip_es.views import EPS, SINKHORN, Texts, batch_maps

PRESETS = columns(
    ("reference", "clean", "plus"),
    {
        # Reference: the released code rounds the resized position embedding to half precision, even
        # where the rest runs in full precision.
        "round_positions": (True, False, False),
        # Reference: boxes are clamped so that they miss the last row and column. This pays where
        # objects seldom touch the border.
        "clamp_boxes": (True, False, True),
        # Reference: a flipped image is made and left out. It gains half a point to one on the
        # embedded world's val.
        "flip": (False, True, True),
        # "plus" goes beyond the paper, without training: maps of a larger image as well, the
        # similarity of values as affinity (after ExCEL, CVPR 2025), weighed by the class
        # distributions of the cells (after CD-CLIP, CVPR 2026). All of it was chosen on the
        # embedded world's val, and what the papers gained on photographs with their models is not
        # measured here.
        "scales": ((1.0,), (1.0,), (1.0, 1.5)),
        "similarity": ("queries", "queries", "values"),
        "distribution": (False, False, True),
    },
)
"""Every choice in which the released CLIP-ES and this kit differ; the recipes look at the preset
too, because the released code's CRF gets images that wrap around."""


class RefinedMaps(NamedTuple):
    """All that CLIP-ES computes for one image.

    Args:
        cams: (C, h, w) softmax Grad-CAM in [0, 1], one cell a patch.
        refined: (C, h, w) after box mask and walk, not scaled.
        masks: (C, h, w) of 0 and 1, the boxes around the confident regions.
        attention: (N, N) mean over the heads of the last layers, rows are queries.
        probs: (C + P,) softmax over the classes, then the background prompts.
    """

    cams: Tensor
    refined: Tensor
    masks: Tensor
    attention: Tensor
    probs: Tensor

    def full_size(self, size: tuple[int, int]) -> Tensor:
        """Scale the refined maps, then resize them to the image, as the released code does.

        Args:
            size: (H, W) of the image.

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
    """Compute maps of one image for encoded texts, with every step between.

    Args:
        clip: the model; its ``attention_layers`` and ``walk_squarings`` are used.
        image: (H, W, 3) uint8, a Pillow image, or (3, H, W) RGB in [0, 1].
        positives: (C, D) unit text embeddings of the classes present.
        backgrounds: (P, D) of the background prompts; P may be 0.
        preset: one of ``PRESETS``.
        box_threshold: share of a map's maximum that is inside its box; 0.4 for VOC, 0.7 for COCO.

    Returns:
        `RefinedMaps` on the model's device.

    Raises:
        ValueError: if the image is malformed, the texts have another width than the model's, or
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
    cams, attention, probs, _ = batch_maps(clip, as_images(image), [texts], **values)
    masks = box_masks(cams[0][None], threshold=box_threshold, clamp=clamp)
    options = {"sinkhorn": SINKHORN, "squarings": clip.walk_squarings}
    refined = balanced_walk(masks * cams[0][None], attention, **options)
    return RefinedMaps(cams[0], refined[0], masks[0], attention[0], probs[0])


def literal_maps(
    clip: FrozenCLIP,
    image: np.ndarray | Image.Image | Tensor,
    positives: Tensor,
    backgrounds: Tensor,
    *,
    box_threshold: float = 0.4,
) -> RefinedMaps:
    """Compute the ``reference`` preset step by step as the paper writes it, class by class.

    Blocks by open_clip's own layers, every layer's attention kept, a new pass through the last
    block with automatic differentiation for each class, and the whole transition matrix each time.
    `refined_maps` is tested and timed against it.

    Args:
        clip: the model, and so on as for `refined_maps`.
        image: as for `refined_maps`.
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
    block, visual, maps = clip.blocks[-1], clip.model.visual, []
    for c in range(len(positives)):
        y = block.ln_1(x).detach().requires_grad_()
        mixed, weights = block.attn(y, y, y, need_weights=True, attn_mask=mask)
        embedding = visual.ln_post(end_block(block, x, mixed))[0, 1:].mean(0) @ visual.proj
        probs = (clip.logit_scale * texts @ F.normalize(embedding, dim=0)).softmax(0)
        (gradient,) = torch.autograd.grad(probs[c], y)
        cam = (y[0, 1:].detach() @ gradient[0, 1:].mean(0)).relu().view(1, 1, *grid)
        for _ in range(2):
            cam = normalize_cams(cam, subtract_min=True, eps=EPS)
        attention = torch.stack([*layers, weights.detach()])[-clip.attention_layers :]
        attention = attention.mean(0)[:, 1:, 1:]
        box = box_masks(cam, threshold=box_threshold, clamp=True)
        walk = transition_matrix(attention, sinkhorn=SINKHORN, squarings=clip.walk_squarings)
        maps.append((cam[0, 0], random_walk(box * cam, walk)[0, 0], box[0, 0]))
    cams, refined, masks = map(torch.stack, zip(*maps, strict=True))
    return RefinedMaps(cams, refined, masks, attention[0], probs.detach())


def as_images(image: np.ndarray | Image.Image | Tensor) -> Tensor:
    """Convert an array, a Pillow image or a tensor to (1, 3, H, W) RGB in [0, 1].

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(image, Tensor) and image.ndim == 3 and image.is_floating_point():
        return image[None]
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(
            f"image is {pixels.dtype} of shape {pixels.shape}, expected (H, W, 3) uint8, a Pillow "
            "image, or a tensor (3, H, W) of RGB in [0, 1]"
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
    return positives.to(clip.device), backgrounds.to(clip.device)
