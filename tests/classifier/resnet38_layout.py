"""ResNet-38 as the released files have it: names, shapes, and a literal walk through them."""

from __future__ import annotations

import torch

UNITS = {"b2": 3, "b3": 3, "b4": 6, "b5": 3}
WIDTHS = {"b2": (128, 128), "b3": (256, 256), "b4": (512, 512), "b5": (512, 1024)}


def released(seed=0):
    """A state dict of random weights as the released files have it, written from their layout."""
    random = torch.Generator().manual_seed(seed)
    state = {"fc8_20.weight": torch.zeros(20, 4096, 1, 1), "fc8_200.weight": torch.zeros(1)}

    def convolution(name, ins, outs, side):
        fan = ins * side * side
        weights = torch.randn(outs, ins, side, side, generator=random)
        state[f"{name}.weight"] = weights * (2 / fan) ** 0.5

    def norm(name, channels):
        state[f"{name}.weight"] = torch.rand(channels, generator=random) + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=random) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=random) * 0.1
        state[f"{name}.running_var"] = torch.rand(channels, generator=random) + 0.5

    convolution("conv1a", 3, 64, 3)
    ins = 64
    for block, units in UNITS.items():
        mid, outs = WIDTHS[block]
        for unit in range(units):
            name = block if unit == 0 else f"{block}_{unit}"
            norm(f"{name}.bn_branch2a", ins)
            convolution(f"{name}.conv_branch2a", ins, mid, 3)
            norm(f"{name}.bn_branch2b1", mid)
            convolution(f"{name}.conv_branch2b1", mid, outs, 3)
            if unit == 0:
                convolution(f"{name}.conv_branch1", ins, outs, 1)
            ins = outs
    for name, outs in (("b6", 2048), ("b7", 4096)):
        norm(f"{name}.bn_branch2a", ins)
        convolution(f"{name}.conv_branch2a", ins, outs // 4, 1)
        norm(f"{name}.bn_branch2b1", outs // 4)
        convolution(f"{name}.conv_branch2b1", outs // 4, outs // 2, 3)
        norm(f"{name}.bn_branch2b2", outs // 2)
        convolution(f"{name}.conv_branch2b2", outs // 2, outs, 1)
        convolution(f"{name}.conv_branch1", ins, outs, 1)
        ins = outs
    norm("bn7", 4096)
    return state
