"""ResNet-38 in the names of the released files, which `from_released` turns round.

That these are the names, and what the network computes, is among the golden figures.
"""

import torch

from wsss_kit.backbones import build_backbone

NAMES = {"norm1": "bn_branch2a", "conv1": "conv_branch2a", "norm2": "bn_branch2b1"}
NAMES |= {"conv2": "conv_branch2b1", "norm3": "bn_branch2b2", "conv3": "conv_branch2b2"}
NAMES |= {"skip": "conv_branch1"}


def released(seed=0):
    """A state dict of random weights as the released files have it, a head included."""
    state = {"fc8_20.weight": torch.zeros(20, 4096, 1, 1)}
    random = torch.Generator().manual_seed(seed)
    for key, value in build_backbone("resnet38", seed=seed).state_dict().items():
        if "running_var" in key:
            value = torch.rand(value.shape, generator=random) + 0.5
        parts = key.removeprefix("stem.").removeprefix("body.").split(".")
        parts[0] = "bn7" if parts[0] == "norm" else parts[0]
        if "num_batches" not in key:
            state[".".join(NAMES.get(part, part) for part in parts)] = value
    return state
