"""Does a CLIP know the embedded world? Three classification tests on held-out pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.words import STUFF
from wsss_kit.paperworld.world import Page, page

HELD_OUT_SEED = 9_000
"""World seed of the test pictures; no training uses it."""


def image_batch(pages: Sequence[Page]) -> Tensor:
    """Pictures of pages as (B, 3, H, W) float32 RGB in [0, 1]."""
    images = torch.stack([torch.from_numpy(p.drawing.image) for p in pages])
    return images.permute(0, 3, 1, 2).float().div(255)


def zero_shot_accuracy(
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[list[str]], Tensor],
    *,
    n: int = 800,
    size: int = 96,
) -> dict[str, float]:
    """Top-1 accuracy with the prompts ``a photo of a {class}`` and ``a photo of {background}``.

    Args:
        encode_image: (B, 3, H, W) RGB in [0, 1] -> (B, D), of any length.
        encode_text: P texts -> (P, D), of any length.
        n: pictures drawn for each test; those with several classes or bands are left out.
        size: side of the pictures.

    Returns:
        ``cutouts``: objects on plain paper; ``out_of_context``: one class in a scene, never on its
        home background; ``backgrounds``: one background kind and no object. Each in [0, 1].
    """
    classes = F.normalize(encode_text([f"a photo of a {name}" for name in PAPER_CLASSES]), dim=-1)
    kinds = F.normalize(encode_text([f"a photo of {kind}" for kind in STUFF]), dim=-1)
    result = {}
    for test, kind, texts in (
        ("cutouts", "cutout", classes),
        ("out_of_context", "scene", classes),
        ("backgrounds", "background", kinds),
    ):
        pages, targets = [], []
        for index in range(n):
            held_out = page.__wrapped__("val", HELD_OUT_SEED, index, size, 0.0, kind)
            target = _target(held_out, test)
            if target is not None:
                pages.append(held_out)
                targets.append(target)
        features = [
            encode_image(image_batch(pages[i : i + 100])) for i in range(0, len(pages), 100)
        ]
        guesses = (torch.cat(features) @ texts.T).argmax(1).cpu()
        result[test] = (guesses == torch.tensor(targets)).float().mean().item()
    return result


def _target(held_out: Page, test: str) -> int | None:
    """Index of the right answer; None where there is more than one."""
    scene = held_out.scene
    if test == "backgrounds":
        return STUFF.index(scene.bands[0].stuff) if len(scene.bands) == 1 else None
    return PAPER_CLASSES.index(scene.classes[0]) if len(scene.classes) == 1 else None
