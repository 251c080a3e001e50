"""A trunk with a linear head: made, written and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wsss_kit.checks import chosen_device
from wsss_kit.classifier.backbones import build_backbone
from wsss_kit.classifier.train import device_of


def new_head(rows: int, dimensions: int, *, seed: int, xavier: bool = False) -> Tensor:
    """A head before it has learned anything: (rows, D).

    Args:
        rows: C classes, or C * k sub-categories.
        dimensions: D.
        seed: of its weights.
        xavier: whether they are uniform in +-sqrt(6 / (rows + D)), as in SC-CAM's released code,
            or normal with a deviation of 0.01.
    """
    random = torch.Generator().manual_seed(seed)
    if not xavier:
        return torch.randn(rows, dimensions, generator=random) * 0.01
    bound = (6 / (rows + dimensions)) ** 0.5
    return bound * (2 * torch.rand(rows, dimensions, generator=random) - 1)


def build_classifier(
    backbone: str | nn.Module,
    n_classes: int,
    *,
    stride: int | None,
    weights: str | Path | None,
    seed: int,
    device: str,
) -> tuple[nn.Module, Tensor]:
    """A trunk and a head without bias for its averaged features.

    Args:
        backbone: a name or a module, see `build_backbone`; a module stays where it is.
        n_classes: C.
        stride: of a named trunk.
        weights: of a named trunk.
        seed: of random weights.
        device: of a named trunk; ``"auto"`` for CUDA where there is one.

    Returns:
        The trunk and the head (C, D), which has gradients.
    """
    trunk = build_backbone(backbone, stride=stride, weights=weights, seed=seed)
    if isinstance(backbone, str):
        trunk = trunk.to(chosen_device(device))
    head = new_head(n_classes, trunk.out_channels, seed=seed)
    return trunk, head.to(device_of(trunk)).requires_grad_()


def classifier_tensors(trunk: nn.Module, head: Tensor) -> dict[str, Tensor]:
    """Everything to save: ``head`` and the trunk's state under ``backbone.``."""
    return {"head": head, **{f"backbone.{k}": v for k, v in trunk.state_dict().items()}}


def restore_classifier(
    trunk: nn.Module, head: Tensor, tensors: Mapping[str, Tensor], path: str | Path
) -> None:
    """Put back what `classifier_tensors` gave; other tensors among them are left alone.

    Raises:
        ValueError: if they are of another trunk.
    """
    state = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone")}
    try:
        trunk.load_state_dict(state)
        with torch.no_grad():
            head.copy_(tensors["head"])
    except RuntimeError as error:
        raise ValueError(f"{path} was saved from another trunk: {error}") from error
