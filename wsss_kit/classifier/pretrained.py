"""What backbones share: normalisation of images and files of weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wsss_kit.classes import IMAGENET_MEAN, IMAGENET_STD


class Normalised(nn.Module):
    """Base of a network that normalises its images by ImageNet's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) RGB in [0, 1] to mean 0 and deviation 1."""
        return (images - self.mean) / self.std


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, .safetensors or .pth with ``weights_only``.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is damaged or of another format.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; give None, 'imagenet' or a state dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own exceptions
        raise ValueError(
            f"{path} is not a whole file of weights ({error}); it is truncated or of another "
            "format; copy it again"
        ) from error


def load_all(net: nn.Module, state: Mapping[str, Tensor], path: Path, *, what: str) -> None:
    """Load a state dict that has all weights.

    Raises:
        ValueError: if weights are missing, unknown or of other shapes.
    """
    try:
        missing, unexpected = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another network: {error}") from error
    lost = [k for k in missing if "num_batches" not in k]
    if lost or unexpected:
        raise ValueError(
            f"{path} does not hold the weights of {what}: {len(lost)} are missing "
            f"({', '.join(lost[:3])}) and {len(unexpected)} are unknown "
            f"({', '.join(unexpected[:3])}); give a state dict of it"
        )
