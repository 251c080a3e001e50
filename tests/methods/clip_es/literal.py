"""CLIP-ES as the paper writes it, step by step: what the fast way is compared with."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.affinity import box_masks, random_walk, transition_matrix
from wsss_kit.cam import normalize_cams
from wsss_kit.clip import FrozenCLIP
from wsss_kit.clip.vision import end_block
from wsss_kit.methods.clip_es.opened import RefinedMaps, as_images, checked_texts
from wsss_kit.methods.clip_es.views import EPS, SINKHORN


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
    texts = torch.cat(checked_texts(clip, positives, backgrounds))
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
