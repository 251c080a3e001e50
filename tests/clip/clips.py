"""Small CLIPs of every kind that the blocks and their gradients have to fit."""

import torch

from wsss_kit.clip import FrozenCLIP, load_clip

TEXT = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}


def small_clip(*, quick_gelu: bool, window: int | None = None, **vision) -> FrozenCLIP:
    """Three blocks with weights large enough that every part of a gradient counts."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    usual = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 24}
    model = CLIP(12, {**usual, **vision}, TEXT, quick_gelu=quick_gelu).double()
    for parameter in model.visual.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return FrozenCLIP(model, window=window)


CLIPS = {
    "QuickGELU": lambda: small_clip(quick_gelu=True),
    "GELU": lambda: small_clip(quick_gelu=False),
    "LayerScale": lambda: small_clip(quick_gelu=True, ls_init_value=0.5),
    "a window": lambda: small_clip(quick_gelu=False, window=1),
    "the tiny CLIP": lambda: load_clip("paper", device="cpu", dtype="float64"),
}
