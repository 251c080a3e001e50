"""A frozen CLIP over open_clip: texts, images, and dense tokens with their attention.

open_clip's blocks are run in a plain loop (`Backbone`): no fork, no hook. The loop returns what a
dense method needs and ``encode_image`` hides: the last block's input and the attention maps, at
any image size.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checks import check_count, check_word
from wsss_kit.clip import vision
from wsss_kit.clip.images import ATTENTION_LAYERS, WALK_SQUARINGS, FrozenModel
from wsss_kit.clip.last_block import LastBlock

AUTOCAST = (torch.float32, torch.bfloat16, torch.float16)


class FrozenCLIP(FrozenModel):
    """Wrap an open_clip ViT model that no training changes.

    Args:
        model: ``open_clip.model.CLIP`` with a ViT image tower.
        tokenizer: texts -> (P, T) int64; only `encode_text` needs it.
        window: cells a patch may see in each direction (the tiny CLIP's local attention); None
            for the ordinary attention without limits.
        round_positions: round the position embedding to half precision after resizing it, as
            CLIP-ES's released code does.
        attention_layers: over how many of its last layers this model's attention is best averaged,
            where that was measured (the tiny CLIP's card has it); None for CLIP-ES's 8 (of 12).
        walk_squarings: how often the transition made from that attention is best squared, where
            that was measured; None for CLIP-ES's 1.
        autocast: dtype of the products in all blocks but the last, for dense tokens and
            attention: ``torch.bfloat16`` or ``float16`` where they are faster. Maps move by a few
            hundredths. None for that of the weights.
        **options: ``mean``, ``std`` and ``max_cells`` of `FrozenModel`.

    Raises:
        ValueError: if the image tower is not a ViT with class-token or average pooling,
            ``max_cells`` is no count or ``autocast`` no such type.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> clip = load_clip("paper", device="cpu")
        >>> dense = clip.encode_dense(torch.rand(1, 3, 64, 90))
        >>> tuple(dense.tokens.shape), tuple(dense.attention.shape), dense.grid
        ((1, 97, 128), (1, 96, 96), (8, 12))
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        *,
        window: int | None = None,
        round_positions: bool = False,
        attention_layers: int | None = None,
        walk_squarings: int | None = None,
        autocast: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        visual = getattr(model, "visual", None)
        if getattr(visual, "attn_pool", None) is not None or not hasattr(visual, "transformer"):
            expected = "a VisionTransformer with class-token or average pooling, as in ViT-B-16"
            raise ValueError(f"the image tower is {type(visual).__name__}, expected {expected}")
        if autocast not in (None, *AUTOCAST):
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in AUTOCAST)
            raise ValueError(f"autocast is {autocast!r}, expected None or one of {names}")
        super().__init__(model, tokenizer, **options)
        self.autocast, self.window, self.round_positions = autocast, window, round_positions
        self.attention_layers = attention_layers or ATTENTION_LAYERS
        self.walk_squarings = WALK_SQUARINGS if walk_squarings is None else walk_squarings
        self._folded: tuple[tuple, vision.Weights] | None = None
        self._positions: dict[tuple, Tensor] = {}  # the last grids' position embeddings

    def _forget(self, *_: Any) -> None:
        """Forget what was computed with other weights."""
        super()._forget()
        self._folded, self._positions = None, {}

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.model.visual.patch_size[0]

    @property
    def width(self) -> int:
        """How many numbers an embedding has."""
        return self.model.visual.proj.shape[1]

    @property
    def blocks(self) -> Sequence[Any]:
        """The image tower's transformer blocks."""
        return self.model.visual.transformer.resblocks

    def position_embedding(self, grid: tuple[int, int], *, rounded: bool | None = None) -> Tensor:
        """Resize the position embedding bilinearly to a grid, the class row kept.

        Args:
            grid: (h, w).
            rounded: to half precision; None takes ``round_positions``.

        Returns:
            (1 + h * w, D).
        """
        rounded = self.round_positions if rounded is None else rounded
        table = self.model.visual.positional_embedding
        h, w = self.model.visual.grid_size
        fixed = not (table.requires_grad or table.is_inference())
        # tensors of inference mode have no version
        key: Any = (grid, rounded, table.data_ptr(), table._version, table.dtype) if fixed else None
        if key in self._positions:
            return self._positions[key]
        table = vision.resized_positions(table, (h, w), grid)
        found = table.half().to(table.dtype) if rounded else table
        if fixed:
            self._positions = {**dict([*self._positions.items()][-15:]), key: found}
        return found

    def embed(
        self, images: Tensor, rounded: bool | None = None, *, normalised: bool = False
    ) -> tuple[Tensor, tuple[int, int]]:
        """Compute the input of the first block: normalise, cut into patches, add positions.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            rounded: the position embedding to half precision; None takes ``round_positions``.
            normalised: take the images as they are.

        Returns:
            (B, 1 + N, D), class token first, and the grid (h, w).
        """
        visual = self.model.visual
        x = visual.conv1(self.shown(images, normalised=normalised))  # (B, D, h, w)
        grid, x = tuple(x.shape[2:]), x.flatten(2).transpose(1, 2)  # (B, N, D)
        cls = visual.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([cls, x], dim=1) + self.position_embedding(grid, rounded=rounded)
        return visual.ln_pre(x), grid

    def attention_mask(self, grid: tuple[int, int]) -> Tensor | None:
        """Return (1 + N, 1 + N) float, -inf where the card forbids attention; None if nowhere."""
        is_small, make = math.prod(grid) <= 1024, vision.float_mask  # only small masks are kept
        mask = (make if is_small else make.__wrapped__)(grid, self.window)
        return None if mask is None else mask.to(self.device, self.dtype)

    def encode_image(self, images: Tensor, *, normalised: bool = False) -> Tensor:
        """Compute open_clip's image embeddings at any image size; gradients reach the images.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            normalised: take them as they are, whatever they were normalised by. For CLIMS, whose
                released code gives CLIP images normalised for ImageNet.

        Returns:
            (B, D) float32, not normalised.
        """
        visual = self.model.visual
        x, grid = self.embed(images, normalised=normalised)
        mask = self.attention_mask(grid)
        for block in self.blocks:
            x = block(x, attn_mask=mask)
        if not visual.final_ln_after_pool:
            x = visual.ln_post(x)
        x = x[:, 1:].mean(1) if visual.pool_type == "avg" else x[:, 0]
        if visual.final_ln_after_pool:
            x = visual.ln_post(x)
        return (x @ visual.proj).float()

    @torch.no_grad()
    def encode_dense(
        self, images: Tensor, *, n_layers: int | None = None, round_positions: bool | None = None
    ) -> vision.DenseTokens:
        """Compute the last block's input and the attention of the last layers.

        Like `last_block`, but for methods that differentiate the last block themselves.

        Args:
            images: (B, 3, H, W) RGB in [0, 1]; resized to whole patches if need be.
            n_layers: over how many of the last layers attention is averaged, at least 1; more
                than the model has means all of them. None takes ``attention_layers``.
            round_positions: overrides the model's own setting.

        Returns:
            `DenseTokens`, float32.
        """
        backbone, grid, n_layers = self._run_backbone(images, n_layers, round_positions)
        block = self.blocks[-1]
        qkv = backbone.projected(block, vision.layer_norm(block.ln_1, backbone.x))
        for part in backbone.parts(qkv):
            backbone.add(backbone.maps(*qkv[:2, part]), qkv.shape[1])
        assert backbone.attention is not None  # this block's maps are in it
        attention = backbone.attention[:, 1:, 1:] / n_layers
        return vision.DenseTokens(backbone.x.float(), attention.float(), grid)

    @torch.no_grad()
    def last_block(
        self,
        images: Tensor,
        *,
        n_layers: int | None = None,
        round_positions: bool | None = None,
        similarity: str | None = vision.SIMILARITY[0],
    ) -> tuple[LastBlock, Tensor | None, tuple[int, int]]:
        """Compute the last block in float32 or more, ready for gradients, and the attention.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            n_layers: over how many of the last layers attention is averaged, as in `encode_dense`.
            round_positions: overrides the model's own setting.
            similarity: one of ``SIMILARITY``: ``"values"`` and ``"features"`` take the place of
                the attention that the blocks use; None for no attention at all.

        Returns:
            The `LastBlock`; (B, N, N) attention as in `DenseTokens`, or None; (h, w).
        """
        summed = None if similarity == "features" else similarity
        backbone, grid, n_layers = self._run_backbone(images, n_layers, round_positions, summed)
        last = LastBlock(self.model, self._last_weights(backbone.x.dtype), backbone)
        if similarity == "features":
            return last, vision.cell_similarity(last.cells), grid
        total = last.attention
        return last, None if total is None else total[:, 1:, 1:] / n_layers, grid

    def _run_backbone(
        self,
        images: Tensor,
        n_layers: int | None,
        round_positions: bool | None,
        similarity: str | None = vision.SIMILARITY[0],
    ) -> tuple[vision.Backbone, tuple[int, int], int]:
        """Run all blocks but the last; keep attention of those among the last ``n_layers``."""
        if similarity is not None:
            check_word("similarity", similarity, vision.SIMILARITY)
        n_layers = self.attention_layers if n_layers is None else n_layers
        check_count("n_layers", n_layers)
        x, grid = self.embed(images, round_positions)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        backbone = vision.Backbone(x, self.attention_mask(grid), self.autocast, similarity)
        n_layers = min(n_layers, len(self.blocks))
        first = len(self.blocks) - n_layers
        for i, block in enumerate(self.blocks[:-1]):
            backbone.run(block, keep_attention=similarity is not None and i >= first)
        return backbone, grid, n_layers

    def _last_weights(self, dtype: torch.dtype) -> vision.Weights:
        """Fold the last block's weights, once for each device and dtype."""
        key = (self.device, self.dtype, dtype, self.model.visual.proj.data_ptr())
        if self._folded is None or self._folded[0] != key:
            self._folded = (key, vision.Weights(self.model, dtype))
        return self._folded[1]

    def finish(self, tokens: Tensor, normed: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run the last block and CLIP-ES's head, which is the mean of the patch tokens.

        Args:
            tokens: (B, 1 + N, D) input of the last block.
            normed: its ``ln_1`` output; a method that differentiates makes this a leaf.
            grid: (h, w).

        Returns:
            (B, D) embedding of the mean patch, not normalised. CLIP itself reads the class token.
        """
        block, visual = self.blocks[-1], self.model.visual
        mask = self.attention_mask(grid)
        mixed, _ = block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)
        return visual.ln_post(vision.end_block(block, tokens, mixed))[:, 1:].mean(1) @ visual.proj
