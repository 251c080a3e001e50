"""A frozen model that embeds images and texts in one space: what all of them have in common."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.cam import Texts, gradient_maps
from wsss_kit.checks import check_count, check_image, check_images
from wsss_kit.classes import Sample
from wsss_kit.clip.texts import FrozenTexts
from wsss_kit.clip.vision import DenseTokens
from wsss_kit.processes import progress
from wsss_kit.views import resize_bicubic

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel statistics that OpenAI's models normalise their images by."""
ATTENTION_LAYERS = 8  # the last layers whose attention CLIP-ES averages, of ViT-B/16's 12
WALK_SQUARINGS = 1  # how often CLIP-ES squares the transition made from it: a walk of two steps
MAX_CELLS = 8192  # patches of 1448x1448 pixels at ViT-B/16: one attention map takes 0.3 GB then


class FrozenModel(FrozenTexts):
    """Show images to a model that no training changes, at any size.

    Methods use `encode_text`, ``encode_image``, ``encode_dense`` (tokens, attention and grid),
    ``last_block`` (what gradients need) and `grad_cam`. `FrozenCLIP` has them for open_clip's own
    ViT, with gradients in closed form, and `AnyTower` for all others, by differentiation.

    Args:
        model: with an image tower ``visual`` and ``encode_text``.
        tokenizer: texts -> (P, T) int64.
        mean, std: per-channel statistics of the images that it was trained on.
        max_cells: images of more cells are made smaller, with a warning.
    """

    encode_image: Callable[..., Tensor]
    encode_dense: Callable[..., DenseTokens]
    last_block: Callable[..., tuple[Any, Any, tuple[int, int]]]

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        *,
        mean: Sequence[float] = OPENAI_MEAN,
        std: Sequence[float] = OPENAI_STD,
        max_cells: int = MAX_CELLS,
    ) -> None:
        super().__init__(model, tokenizer)
        self.name = type(model).__name__
        check_count("max_cells", max_cells)
        self.max_cells, self.round_positions = max_cells, False
        self.attention_layers, self.walk_squarings = ATTENTION_LAYERS, WALK_SQUARINGS
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def patch_size(self) -> int:
        """Side of a cell in pixels."""
        raise NotImplementedError

    @property
    def attends(self) -> bool:
        """Whether cells attend to each other, so that the affinity is their attention."""
        return True

    def affinity(self, images: Tensor, grid: tuple[int, int], **options: Any) -> Tensor:
        """Compute the affinity of the cells of another model's grid, whatever the patch size.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            grid: (h, w).
            **options: of ``last_block``.

        Returns:
            (B, h * w, h * w) float32.

        Raises:
            ValueError: if this model takes images of one size alone, and its grid is another.
        """
        size = self.patch_size * grid[0], self.patch_size * grid[1]
        if tuple(images.shape[2:]) != size:
            images = resize_bicubic(images, size)
        _, affinity, own = self.last_block(images.to(self.device), **options)
        if own != grid:
            problem = f"{self.name} sees {own[0]} x {own[1]} cells, whatever the image"
            raise ValueError(f"{problem}; expected {grid[0]} x {grid[1]}: it cannot serve beside")
        return affinity.float()

    def whole_patches(self, images: Tensor) -> tuple[int, int]:
        """Round height and width of images up to multiples of the patch size."""
        H, W = images.shape[-2:]
        return H + -H % self.patch_size, W + -W % self.patch_size

    def shown_size(self, images: Tensor) -> tuple[int, int]:
        """Compute height and width of the model's input: whole patches, at most ``max_cells``."""
        p = self.patch_size
        h, w = (side // p for side in self.whole_patches(images))
        if h * w > self.max_cells:
            shrink = math.sqrt(self.max_cells / (h * w))
            h = min(max(1, int(h * shrink)), self.max_cells)
            w = min(max(1, int(w * shrink)), self.max_cells // h)
        return h * p, w * p

    def fit_to_patches(self, images: Tensor) -> Tensor:
        """Resize images to whole patches: (B, 3, H, W) to the next multiples of the patch size.

        The resizing is Pillow's bicubic on 8-bit images, as in CLIP-ES: other filters move
        its maps by up to 0.4. Images that fit are returned unchanged.

        Warns:
            UserWarning: if the images have more than ``max_cells`` patches and are made smaller.
        """
        new = self.shown_size(images)
        if new == images.shape[-2:]:
            return images
        if new != (whole := self.whole_patches(images)):
            cells, (H, W) = whole[0] * whole[1] // self.patch_size**2, images.shape[-2:]
            problem = f"images of {H}x{W} are {cells:,} patches: {4 * cells**2 / 1e9:.1f} GB a map"
            limit = f"CLIP is shown them at {new[0]}x{new[1]}, {self.max_cells:,} patches at most"
            advice = "maps still cover the whole image. Resize them, or give another max_cells"
            warnings.warn(f"{problem} of attention; {limit}, and {advice}", stacklevel=2)
        return resize_bicubic(images, new)

    def shown(self, images: Tensor, *, normalised: bool = False) -> Tensor:
        """Resize images to whole patches and normalise them, in the model's dtype.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            normalised: take the images as they are.
        """
        if normalised:
            H, W = images.shape[-2:]
            if (H, W) != self.whole_patches(images) or not torch.isfinite(images).all():
                expected = f"finite numbers at a multiple of {self.patch_size} pixels"
                raise ValueError(f"images are {H}x{W}, expected {expected}; resize, then normalise")
            return images.to(self.device, self.dtype)
        check_images(images)
        x = (self.fit_to_patches(images.to(self.device)) - self.mean) / self.std
        return x.to(self.dtype)

    @torch.no_grad()
    def encode_samples(self, samples: Sequence[Sample], *, what: str, shown: bool) -> Tensor:
        """Compute unit embeddings (M, E) of M samples, one by one because they differ in size.

        ``what`` names the progress bar. A malformed image raises ``ValueError`` with its name.
        """
        rows = []
        for sample in progress(samples, what=what, shown=shown, total=len(samples)):
            check_image(sample.image, f"image {sample.name!r}")
            rows.append(F.normalize(self.encode_image(sample.image[None]), dim=-1)[0].cpu())
        return torch.stack(rows)

    @torch.no_grad()
    def grad_cam(self, images: Tensor, texts: Tensor) -> Tensor:
        """Compute softmax Grad-CAM of texts that compete.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            texts: (T, E) of unit length.

        Returns:
            (B, T, h, w) float32, not negative, for the probability of each text among all of them.
        """
        last, _, grid = self.last_block(images, similarity=None)
        among = Texts(texts.to(self.device), texts.new_ones(len(images), len(texts)) > 0)
        maps, _ = gradient_maps(last, among, grid, scale=float(self.logit_scale))
        return maps.unflatten(0, (len(images), len(texts)))
