"""Any image tower of open_clip or timm: maps by differentiation of the model as it is.

Grad-CAM needs cells: what the last block's attention reads in a transformer, and the last feature
map in a convolutional network. A hook takes them there, as a leaf of the graph that leads to the
model's own image embedding. Only what comes after the cells is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wsss_kit.checks import check_count
from wsss_kit.clip.images import FrozenModel
from wsss_kit.clip.vision import DenseTokens, cell_similarity, resized_positions


class Place(NamedTuple):
    """Where a tower's cells are, and what depends on the size of the image.

    Args:
        module: its first input has the cells.
        prefix: tokens before the cells; None for a feature map.
        attention: the attention of every block, in order, each a ``nn.MultiheadAttention`` or with
            a dropout ``attn_drop`` that gets the map; empty where cells do not attend.
        patch_size: pixels of a side of a cell.
        positions: name of the parameter that adds positions, with a row before the cells' rows;
            None where the tower resizes its own.
        fixed: (H, W) that images have to have; None for any.
        channels_last: whether the feature map is (B, h, w, D).
    """

    module: nn.Module
    prefix: int | None
    attention: Sequence[nn.Module]
    patch_size: int
    positions: str | None = None
    fixed: tuple[int, int] | None = None
    channels_last: bool = False


def place_of(visual: Any) -> Place:
    """Find the cells of an image tower; a tower of timm is told to take any size.

    Args:
        visual: open_clip's image tower, or a network of timm.

    Raises:
        ValueError: if it is none of the known kinds.
    """
    if hasattr(visual, "attnpool"):
        return Place(visual.attnpool, None, [], 32, positions="attnpool.positional_embedding")
    if hasattr(visual, "transformer"):
        attention = [block.attn for block in visual.transformer.resblocks]
        size = visual.patch_size[0]
        return Place(attention[-1], 1, attention, size, positions="positional_embedding")
    trunk = getattr(visual, "trunk", visual)
    if not hasattr(trunk, "feature_info") or not hasattr(trunk, "head"):
        expected = "a ViT, a ResNet of CLIP's, or a network of timm with blocks or a feature map"
        raise ValueError(f"the image tower is {type(trunk).__name__}, expected {expected}")
    size, fixed = trunk.feature_info[-1]["reduction"], None
    embed: Any = getattr(trunk, "patch_embed", None)
    if hasattr(trunk, "dynamic_img_size"):
        from timm.layers import Format

        trunk.dynamic_img_size, embed.strict_img_size = True, False
        embed.flatten, embed.output_fmt = False, Format.NHWC
    elif embed is not None:
        fixed = tuple(embed.img_size)
    if hasattr(trunk, "blocks"):
        attention = [block.attn for block in list(trunk.blocks)]
        return Place(attention[-1], trunk.num_prefix_tokens, attention, size, fixed=fixed)
    last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
    return Place(trunk.head, None, [], size, fixed=fixed, channels_last=last)


class AnyTower(FrozenModel):
    """Wrap any image tower of open_clip or timm that no training changes.

    Its maps are Grad-CAM of the model's own image embedding. Where cells attend to each other, the
    affinity is their attention; elsewhere the similarity of their features.

    Args:
        model: open_clip's model, or a network of timm (``timm.create_model(..., num_classes=0)``)
            that serves for the affinity alone.
        tokenizer: texts -> (P, T) int64.
        place: where the cells are, for a tower of one's own; None to find them.
        **options: ``mean``, ``std`` and ``max_cells`` of `FrozenModel`.

    Raises:
        ValueError: if the image tower is none of the known kinds, and there is no ``place``.

    Example:
        >>> import timm
        >>> tower = AnyTower(timm.create_model("test_vit", num_classes=0))
        >>> dense = tower.encode_dense(torch.rand(1, 3, 48, 64))
        >>> tuple(dense.attention.shape), dense.grid
        ((1, 12, 12), (3, 4))
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        *,
        place: Place | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, **options)
        self._visual = getattr(self.model, "visual", self.model)
        self.name = getattr(self.model, "pretrained_cfg", {}).get("architecture", self.name)
        self._place = place or place_of(self._visual)
        self._width: int | None = None

    @classmethod
    def of_timm(cls, network: nn.Module, device: torch.device) -> AnyTower:
        """Wrap a network of timm with the statistics that it was trained with.

        Raises:
            ValueError: if it is no network of timm.
        """
        if not hasattr(network, "pretrained_cfg"):
            expected = "a model from load_clip or a network of timm"
            raise ValueError(f"it is {type(network).__name__}, expected {expected}")
        config: Any = network.pretrained_cfg
        return cls(network, mean=config["mean"], std=config["std"]).to(device)

    @property
    def patch_size(self) -> int:
        """Side of a cell in pixels."""
        return self._place.patch_size

    @property
    def attends(self) -> bool:
        """Whether cells attend to each other."""
        return bool(self._place.attention)

    @property
    def width(self) -> int:
        """How many numbers an embedding has."""
        if self._width is None:
            side = 4 * self.patch_size
            self._width = self.encode_image(torch.zeros(1, 3, side, side)).shape[1]
        return self._width

    def shown_size(self, images: Tensor) -> tuple[int, int]:
        """Compute height and width of the model's input, which for some towers are fixed."""
        return self._place.fixed or super().shown_size(images)

    def whole_patches(self, images: Tensor) -> tuple[int, int]:
        """Round height and width of images up to multiples of the patch size, or to the fixed."""
        return self._place.fixed or super().whole_patches(images)

    def encode_image(self, images: Tensor, *, normalised: bool = False) -> Tensor:
        """Compute the model's own image embeddings at any size; gradients reach the images.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            normalised: take them as they are.

        Returns:
            (B, E) float32, not normalised.
        """
        return self._forward(self.shown(images, normalised=normalised)).float()

    @torch.no_grad()
    def encode_dense(self, images: Tensor, *, n_layers: int | None = None, **_: Any) -> DenseTokens:
        """Compute cells and the attention of the last layers.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            n_layers: whose attention is averaged, the last; None for ``attention_layers``.

        Returns:
            `DenseTokens`, float32, its tokens without a class token; its attention is None where
            cells do not attend to each other.
        """
        recorded, attention, grid = self._recorded(images, n_layers)
        return DenseTokens(recorded.cells.float(), attention, grid)

    @torch.no_grad()
    def last_block(
        self,
        images: Tensor,
        *,
        n_layers: int | None = None,
        similarity: str | None = "queries",
        **_: Any,
    ) -> tuple[Recorded, Tensor | None, tuple[int, int]]:
        """Run the tower, ready for gradients.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            n_layers: as in `encode_dense`.
            similarity: ``"queries"`` for the attention, where there is one, ``"features"`` for
                `cell_similarity`, or None for no affinity.

        Returns:
            `Recorded`; (B, N, N) affinity or None; (h, w).
        """
        if similarity not in (None, "queries", "features"):
            expected = "expected 'queries' or 'features'"
            raise ValueError(f"{self.name} gives no similarity of its {similarity}; {expected}")
        n_layers = n_layers if similarity == "queries" else 0
        recorded, attention, grid = self._recorded(images, n_layers)
        if attention is None and similarity is not None:
            attention = cell_similarity(recorded.cells.float())
        return recorded, attention, grid

    def _recorded(
        self, images: Tensor, n_layers: int | None
    ) -> tuple[Recorded, Tensor | None, tuple[int, int]]:
        """Run the tower with the cells as a leaf; average the attention of the last layers."""
        n_layers = self.attention_layers if n_layers is None else n_layers
        check_count("n_layers", n_layers, least=0)
        x, place, maps = self.shown(images), self._place, []
        grid = (x.shape[2] // place.patch_size, x.shape[3] // place.patch_size)
        leaves: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            leaves.append(args[0].detach().requires_grad_())
            return tuple(leaves[-1] if each is args[0] else each for each in args)

        wanted = place.attention[-n_layers:] if n_layers else []
        with ExitStack() as stack, torch.inference_mode(False), torch.enable_grad():
            stack.callback(place.module.register_forward_pre_hook(take).remove)
            for module in wanted:
                stack.enter_context(kept_attention(module, place.prefix, maps))
            embedding = self._forward(x.clone() if x.is_inference() else x)
        cells = partial(_cells, prefix=place.prefix, channels_last=place.channels_last)
        recorded = Recorded(embedding, leaves[-1], cells)
        if (n := len(recorded.cells[0])) != math.prod(grid):
            expected = f"{grid[0]} x {grid[1]}; give its Place"
            raise ValueError(f"{self.name} has {n} cells, expected {expected}")
        return recorded, sum(maps[1:], maps[0]).float() / len(maps) if maps else None, grid

    def _forward(self, x: Tensor) -> Tensor:
        """Compute the image tower's output (B, E), with positions for the grid of the images."""
        p, name = self._place.patch_size, self._place.positions
        grid, given = (x.shape[2] // p, x.shape[3] // p), {}
        if name is not None:
            table = self._visual.get_parameter(name)
            side = math.isqrt(len(table) - 1)
            given[name] = resized_positions(table, (side, side), grid)
        rope = getattr(getattr(self._visual, "trunk", self._visual), "rope", None)
        if rope is not None:
            rope.update_feat_shape([*grid])
        found = functional_call(self._visual, given, (x,))
        return found if isinstance(found, Tensor) else found[0]  # CoCa's tower returns tokens too


class Recorded:
    """A pass through a tower, ready for gradients: what `LastBlock` is for open_clip's ViT.

    Args:
        embedding: (B, E) of the images, with its graph.
        leaf: the cells in the tower's own layout, where the graph begins.
        cells_of: from that layout to (B, N, D).

    Attributes:
        embedding: (B, E), not of unit length, without its graph.
        cells: (B, N, D), whose weighted sum is a map.
    """

    prepared = False  # a gradient is a pass through what follows the cells, each time

    def __init__(
        self, embedding: Tensor, leaf: Tensor, cells_of: Callable[[Tensor], Tensor]
    ) -> None:
        self.embedding, self.cells = embedding.detach(), cells_of(leaf.detach())
        self._graph, self._leaf, self._cells_of = embedding, leaf, cells_of

    def prepare(self) -> None:
        """Do nothing: there is no closed form to prepare."""

    @property
    def patches(self) -> Tensor:
        """Raise `ValueError`: the cells of such a tower have no embedding of their own."""
        expected = "preset 'reference' or 'clean', without distribution"
        raise ValueError(f"the cells of this tower have no embedding of their own; use {expected}")

    def mean_gradients(self, directions: Tensor, image: Tensor) -> Tensor:
        """Average over the cells the derivative of numbers by the cells.

        Args:
            directions: (M, E) each number's derivative by the ``embedding`` of its image.
            image: (M,) int64, which image of the batch each number belongs to, ascending.

        Returns:
            (M, D).
        """
        found = self.cells.new_zeros(len(directions), self.cells.shape[2])
        slot = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
        for number in slot.unique().tolist():  # one of each image in a pass: images do not mix
            now = slot == number
            start = torch.zeros_like(self._graph)
            start[image[now]] = directions[now].to(start)
            (grads,) = torch.autograd.grad(self._graph, self._leaf, start, retain_graph=True)
            found[now] = self._cells_of(grads).mean(1)[image[now]]
        return found


@contextmanager
def kept_attention(module: Any, prefix: int | None, maps: list[Tensor]) -> Iterator[None]:
    """Append an attention module's map (B, N, N), mean over the heads, to a list."""

    def keep(weights: Tensor) -> None:
        maps.append(weights.detach().mean(1)[:, prefix:, prefix:])

    if isinstance(module, nn.MultiheadAttention):
        ask = {"need_weights": True, "average_attn_weights": False}
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (args, kwargs | ask), with_kwargs=True
            ),
            module.register_forward_hook(lambda _, args, output: keep(output[1])),
        ]
    else:  # timm's: without its fused kernel the map passes through a dropout
        handles = [module.attn_drop.register_forward_pre_hook(lambda _, args: keep(args[0]))]
    fused = getattr(module, "fused_attn", None)
    try:
        module.fused_attn = False
        yield
    finally:
        module.fused_attn = fused
        for handle in handles:
            handle.remove()


def _cells(values: Tensor, *, prefix: int | None, channels_last: bool) -> Tensor:
    """Bring tokens or a feature map to (B, N, D), without the tokens before the cells."""
    if prefix is not None:
        return values[:, prefix:]
    return values.flatten(1, 2) if channels_last else values.flatten(2).mT
