"""The two small models of the embedded world: the tiny CLIP and the paper backbone.

The tiny CLIP is open_clip's own model, made small, with attention that stays near its place. Its
card, in the metadata of the file, holds the architecture and how it was trained. Two
things go beyond open_clip's configuration and are therefore in the card: ``window``, how many
cells a patch sees in each direction (class token excluded), and ``tied_keys``, whether keys are
the queries, which makes attention a measure of similarity.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.clip import FrozenCLIP
from wsss_kit.files import load_model
from wsss_kit.paperworld import Page, page
from wsss_kit.paperworld.words import STUFF, WordTokenizer, vocabulary

TINY_CLIP = Path(__file__).parent / "tiny_clip.safetensors"
"""Weights of the tiny CLIP, with its card."""

MEAN, STD = (0.45, 0.45, 0.45), (0.27, 0.27, 0.27)
"""Per-channel statistics the tiny CLIP normalises its images by."""

HELD_OUT_SEED = 9_000
"""World seed of the zero-shot tests' images; no training uses it."""

_VISION = {"layers": 4, "width": 128, "head_width": 32, "patch_size": 8, "image_size": 96}
_TEXT = {"context_length": 20, "vocab_size": len(vocabulary()) + 2, "width": 128, "heads": 4}
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {**_VISION, "mlp_ratio": 4.0, "pool_type": "avg"},
    "text_cfg": {**_TEXT, "layers": 3},
    "window": 2,
    "tied_keys": True,
}
"""Of `build` and of the card; ``window`` and ``tied_keys`` are not open_clip's."""


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained tiny CLIP.

    Args:
        architecture: as in ``ARCHITECTURE``; ``window`` and ``tied_keys`` are not open_clip's.

    Returns:
        ``open_clip.model.CLIP`` in training mode.
    """
    from open_clip.model import CLIP

    options = ("window", "tied_keys")
    return CLIP(**{key: value for key, value in architecture.items() if key not in options})


def load_tiny_clip(path: str | Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Load a trained tiny CLIP and its card.

    Args:
        path: of the weights; None for those in the package.

    Raises:
        FileNotFoundError: if the weights or the card are missing.
        ValueError: if the weights are not those of the card.
    """
    path = Path(path) if path is not None else TINY_CLIP
    tensors, card = load_model(path)
    model = build(card["architecture"])
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        problem = f"{path} does not hold the model that its card describes"
        raise ValueError(f"{problem}: {error}") from error
    return model.eval().requires_grad_(False), card


def frozen_tiny_clip(path: str | Path | None = None, **options: Any) -> FrozenCLIP:
    """Load a trained tiny CLIP as `FrozenCLIP`, with the settings of its card.

    Args:
        path: of the weights; None for those in the package.
        **options: other arguments of `FrozenCLIP`.

    Raises:
        FileNotFoundError: if the weights or the card are missing.
        ValueError: if the weights are not those of the card.
    """
    model, card = load_tiny_clip(path)
    architecture, attention = card["architecture"], card.get("attention", {})
    tokenizer = WordTokenizer(card["words"], architecture["text_cfg"]["context_length"])
    options |= {"mean": MEAN, "std": STD, "window": architecture["window"]}
    options |= {"attention_layers": attention.get("layers")}
    return FrozenCLIP(model, tokenizer, walk_squarings=attention.get("squarings"), **options)


def trained_grid(architecture: dict[str, Any]) -> tuple[int, int]:
    """Return the (h, w) cells of the images that a tiny CLIP is trained on."""
    vision = architecture["vision_cfg"]
    return (vision["image_size"] // vision["patch_size"],) * 2


def tie_keys(model: Any) -> None:
    """Copy the query weights over the key weights of every image block."""
    with torch.no_grad():
        for block in model.visual.transformer.resblocks:
            for weight in (block.attn.in_proj_weight, block.attn.in_proj_bias):
                third = len(weight) // 3
                weight[third : 2 * third] = weight[:third]


def train_patch_features(
    model: nn.Module, images: Tensor, mask: Tensor | None, kept: Tensor | None = None
) -> Tensor:
    """Compute the embeddings of the patches with tied keys, of some patches if wanted.

    Args:
        model: from `build`.
        images: (B, 3, H, W) normalised.
        mask: (1 + N, 1 + N) float, -inf where attention is forbidden and 0 elsewhere.
        kept: indices of the tokens to keep, 0 (the class token) first; None for all.

    Returns:
        (B, N, D) unnormalised, N the number of patches kept.
    """
    visual: Any = model.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, N, D)
    cls = visual.class_embedding.expand(len(x), 1, -1).to(x.dtype)
    x = torch.cat([cls, x], dim=1) + visual.positional_embedding.to(x.dtype)  # (B, 1 + N, D)
    if kept is not None:
        x = x[:, kept]
        mask = None if mask is None else mask[kept][:, kept]
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks:
        x = x + _tied_attention(block.attn, block.ln_1(x), mask)
        x = x + block.mlp(block.ln_2(x))
    return visual.ln_post(x)[:, 1:] @ visual.proj  # (B, N, D)


def train_image_features(
    model: nn.Module, images: Tensor, mask: Tensor | None, kept: Tensor | None
) -> Tensor:
    """Compute image embeddings while training: the mean of `train_patch_features`, same arguments.

    Equal to open_clip's ``encode_image`` for a tied model without mask and with all patches, and
    to `FrozenCLIP` for the trained one.

    Returns:
        (B, D) unnormalised.
    """
    return train_patch_features(model, images, mask, kept).mean(1)


def _tied_attention(attn: nn.MultiheadAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    B, N, D = x.shape
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    # queries serve as keys, so the middle third of the projection rests until `tie_keys`
    queries = F.linear(x, weight[:D], bias[:D]).view(B, N, attn.num_heads, -1).transpose(1, 2)
    values = F.linear(x, weight[2 * D :], bias[2 * D :]).view(B, N, attn.num_heads, -1)
    values = values.transpose(1, 2)  # (B, heads, N, d), as the queries
    scores = queries @ queries.transpose(-2, -1) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = scores + mask
    mixed = scores.softmax(-1).to(values.dtype) @ values
    return attn.out_proj(mixed.transpose(1, 2).reshape(B, N, D))


PAPER_TRUNK = Path(__file__).parent / "paper_trunk.safetensors"
"""Weights of the paper backbone, with its card."""


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
        weights: None, ``"web"`` or the path of a file that `train_paper_backbone` wrote.

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


def image_batch(pages: Sequence[Page]) -> Tensor:
    """Stack the images of pages: (B, 3, H, W) float32 RGB in [0, 1]."""
    images = torch.stack([torch.from_numpy(p.drawing.image) for p in pages])
    return images.permute(0, 3, 1, 2).float().div(255)


def zero_shot_accuracy(
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[list[str]], Tensor],
    *,
    n: int = 800,
    size: int = 96,
) -> dict[str, float]:
    """Compute top-1 accuracies with ``a photo of a {class}`` and ``a photo of {background}``.

    Args:
        encode_image: (B, 3, H, W) RGB in [0, 1] -> (B, D), of any length.
        encode_text: P texts -> (P, D), of any length.
        n: images drawn for each test; those with several classes or bands are left out.
        size: side of the images.

    Returns:
        ``cutouts``: objects on plain paper; ``out_of_context``: one class in a scene, never on its
        home background; ``backgrounds``: one background kind and no object. Each in [0, 1].
    """
    classes = F.normalize(encode_text([f"a photo of a {name}" for name in PAPER_CLASSES]), dim=-1)
    kinds = F.normalize(encode_text([f"a photo of {stuff}" for stuff in STUFF]), dim=-1)
    result = {}
    for test, scene, texts in (
        ("cutouts", "cutout", classes),
        ("out_of_context", "scene", classes),
        ("backgrounds", "background", kinds),
    ):
        pages, targets = [], []
        for i in range(n):
            drawn = page.__wrapped__("val", HELD_OUT_SEED, i, size, 0.0, scene)  # not cached
            answers = [PAPER_CLASSES.index(name) for name in drawn.scene.classes]
            if scene == "background":
                answers = [STUFF.index(band.stuff) for band in drawn.scene.bands]
            if len(answers) == 1:
                pages.append(drawn)
                targets += answers
        batches = [pages[i : i + 100] for i in range(0, len(pages), 100)]
        features = torch.cat([encode_image(image_batch(batch)) for batch in batches])
        guesses = (features @ texts.T).argmax(1).cpu()
        result[test] = (guesses == torch.tensor(targets)).float().mean().item()
    return result
