"""The small backbone of the embedded world, the paper backbone, and its training without labels.

Weakly supervised methods start from a network that has seen many images before (ImageNet). The
embedded world's stand-in imitates the tiny CLIP on the ``web`` split: in every cell it learns the
embedding that CLIP has of that patch. No label, caption or mask enters. From random weights a
classifier trained where objects stand at home learns the homes and hardly looks at the objects.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from wsss_kit import engine
from wsss_kit.checks import check_count
from wsss_kit.clip.vision import float_mask
from wsss_kit.files import load_model, save_model
from wsss_kit.paperworld.pretrain import WebImages, halved
from wsss_kit.paperworld.tiny_clip import (
    MEAN,
    STD,
    load_tiny_clip,
    train_patch_features,
    trained_grid,
)
from wsss_kit.paperworld.world import COOCCURRENCE

PAPER_TRUNK = Path(__file__).parent / "paper_trunk.safetensors"
"""Weights of the paper backbone, with its card."""
_LEARNING_RATE = 3e-3
"""The highest of the training; a cosine from there."""


class PaperBackbone(nn.Module):
    """A small ResNet for the embedded world: half a million parameters, 96 channels.

    Args:
        stride: 4, 8 or 16.
    """

    out_channels = 96
    level_channels = (32, 64, 96)

    def __init__(self, *, stride: int = 8) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock

        strides = {4: (2, 1, 1), 8: (2, 2, 1), 16: (2, 2, 2)}.get(stride)
        if strides is None:
            raise ValueError(f"stride is {stride}, expected 4, 8 or 16 for the paper backbone")
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        stages, channels = [BasicBlock(24, 24)], 24
        for width, depth, step in zip((32, 64, 96), (1, 2, 2), strides, strict=True):
            shortcut = nn.Conv2d(channels, width, 1, step, bias=False), nn.BatchNorm2d(width)
            stages.append(BasicBlock(channels, width, step, nn.Sequential(*shortcut)))
            stages += [BasicBlock(width, width) for _ in range(depth - 1)]
            channels = width
        self.stages, self.stride = nn.Sequential(*stages), stride
        self.level_strides = (4, min(8, stride), stride)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features: (B, 3, H, W) RGB in [0, 1] -> (B, 96, H / stride, W / stride)."""
        return self.levels(images)[-1]

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return the features after 32, 64 and 96 channels, the first at stride 4."""
        features = [self.stem((images - MEAN[0]) / STD[0])]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[2::2]  # of the last block of each width


def paper_backbone(*, stride: int = 8, weights: str | Path | None = None) -> PaperBackbone:
    """Build the paper backbone, with random weights unless others are given.

    Args:
        stride: 4, 8 or 16; the weights do not depend on it.
        weights: None, ``"web"`` or the path of a file that `train_backbone` wrote.

    Raises:
        ValueError: if the stride is another, ``weights`` is ``"imagenet"`` or the file is damaged.
        FileNotFoundError: if there is no such file.
    """
    backbone = PaperBackbone(stride=stride)
    if weights == "imagenet":
        problem = 'weights is "imagenet", expected None, "web" or a file for the paper backbone'
        raise ValueError(f"{problem}; ImageNet weights are for the ResNets")
    if weights is not None:
        tensors, _ = load_model(PAPER_TRUNK if weights == "web" else weights)
        backbone.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return backbone


def train_backbone(
    path: str | Path,
    *,
    teacher: str | Path | None = None,
    steps: int = 800,
    batch: int = 64,
    seed: int = 0,
    workers: int = 1,
    shown: bool = False,
) -> Path:
    """Imitate the tiny CLIP's patch embeddings, and write the backbone with a card.

    Args:
        path: of the weights to write.
        teacher: weights of a tiny CLIP; None for the package's. The backbone in the package had one
            that never saw a torn object, as ImageNet's images were not chosen to hide heads.
        steps: of AdamW; every image is seen once.
        batch: images per step.
        seed: of the weights and of the images' world.
        workers: processes that draw images.
        shown: whether to show a bar.

    Returns:
        The path of the weights.

    Raises:
        ValueError: if a number is out of range.
        FileNotFoundError: if the teacher is missing.
        Diverged: if the loss runs away.
    """
    check_count("steps", steps)
    check_count("batch", batch)
    check_count("seed", seed, least=0)
    check_count("workers", workers, least=0)
    patches_of, teacher_card = _teacher(teacher)
    student = _Student(patches_of, teacher_card["architecture"]["embed_dim"], seed)
    world, size = 1000 + seed, teacher_card["architecture"]["vision_cfg"]["image_size"]
    recipe = {"iterations": steps, "batch_size": batch, "seed": seed, "optimiser": "adamw"}
    recipe |= {"learning_rate": _LEARNING_RATE, "weight_decay": 0.05, "decay": "cosine"}
    recipe |= {"warmup": max(1, round(0.06 * steps)), "workers": workers, "shown": shown}
    web = WebImages(min(50, steps) * batch, world, size, torn=0.0)
    losses = engine.fit(student, web, {**recipe, "sound": 2.0}, what="paper-trunk")
    seen = {"sha256": teacher_card["sha256"], "torn": teacher_card["data"].get("torn", 0.0)}
    card: dict[str, Any] = {
        "name": "paper backbone",
        "objective": "the tiny CLIP's embedding of every patch and of the whole image",
        "teacher": {**seen, **teacher_card["training"]},
        "data": {"split": "web", "seed": world, "torn": 0.0, "cooccurrence": COOCCURRENCE["web"]},
        "pictures": steps * batch,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "learning_rate": _LEARNING_RATE,
        "last_loss": losses[-1]["total"],
    }
    return save_model(path, halved(student.backbone.state_dict()), card)


class _Student(nn.Module):
    """The paper backbone and a projection to the teacher's embeddings."""

    def __init__(self, patches_of: Callable[[Tensor], Tensor], dimensions: int, seed: int) -> None:
        super().__init__()
        self.patches_of = patches_of
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = PaperBackbone(stride=8).to(memory_format=torch.channels_last)
            self.head = nn.Conv2d(self.backbone.out_channels, dimensions, 1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]

    def loss(self, drawn: Tensor, *_: Tensor) -> dict[str, Tensor]:
        """Compute one minus the cosine of every cell, and of the means over the cells."""
        images = drawn.float().div(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            target = self.patches_of(images)  # (B, E, h, w)
            output = self.head(self.backbone(images))
        output, target = output.float(), target.float()
        pooled = output.mean((2, 3)), target.mean((2, 3))
        cells = 1 - F.cosine_similarity(output, target, dim=1).mean()
        return {"total": cells + 1 - F.cosine_similarity(*pooled, dim=1).mean()}


def _teacher(path: str | Path | None) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """Load images (B, 3, 96, 96) in [0, 1] -> patch embeddings (B, E, h, w), and the card."""
    model, card = load_tiny_clip(path)
    grid = trained_grid(card["architecture"])
    mask = float_mask(grid, card["architecture"]["window"])

    @torch.no_grad()
    def patches_of(images: Tensor) -> Tensor:
        patches = train_patch_features(model, (images - MEAN[0]) / STD[0], mask)  # (B, N, E)
        return patches.transpose(1, 2).unflatten(2, grid)

    return patches_of, card
