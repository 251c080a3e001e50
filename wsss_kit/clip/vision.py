"""The image tower: its input, its attention mask, and its blocks without gradients.

`Backbone` computes what open_clip's blocks compute, with a few arrays that every block uses again:
the attention of one head at a time, the hidden layer of the MLP. New arrays of these sizes come
from the system page by page, which costs about as much as filling them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIMILARITY = ("queries", "values", "features")
"""Attention of queries to keys, as in CLIP, or of values to values (ExCEL, CVPR 2025), or
`cell_similarity` of what the last block's attention reads."""
QUICK = 1.702  # QuickGELU is x * sigmoid(1.702 x), a SiLU of 1.702 x divided by 1.702


class DenseTokens(NamedTuple):
    """Output of an image tower for every patch.

    Args:
        tokens: (B, 1 + N, D) input of the last block, class token first.
        attention: (B, N, N) softmax attention, rows are queries, mean over heads and over the last
            layers, class token dropped without renormalising. None where cells do not attend.
        grid: (h, w) cells, N = h * w.
    """

    tokens: Tensor
    attention: Tensor | None
    grid: tuple[int, int]


SHARPNESS = 3.0
"""Of `cell_similarity`, chosen among 3 to 30 on paperworld's ``val`` with the tiny CLIP."""


def cell_similarity(cells: Tensor) -> Tensor:
    """Compute an affinity of features: of towers whose cells do not attend to each other.

    Args:
        cells: (B, N, D).

    Returns:
        (B, N, N), rows sum to 1: the softmax over all cells of ``SHARPNESS`` times the cosine, of
        features from which the image's mean was taken.
    """
    unit = F.normalize(cells - cells.mean(1, keepdim=True), dim=-1)
    return (SHARPNESS * unit @ unit.mT).softmax(-1)


def end_block(block: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """Apply what follows a block's attention: both residuals and the MLP."""
    x = x + block.ls_1(mixed)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def resized_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize positions (1 + h * w, D) bilinearly from a grid to another, the first row kept."""
    if old == new:
        return table
    cells = table[1:].T.reshape(1, -1, *old).float()
    cells = F.interpolate(cells, size=new, mode="bilinear", align_corners=False)
    return torch.cat([table[:1], cells.flatten(2)[0].T.to(table.dtype)])


def window_mask(grid: tuple[int, int], window: int | None) -> Tensor | None:
    """Compute which tokens may not attend to which: (1 + N, 1 + N) bool, True where forbidden.

    A patch sees the patches up to ``window`` cells away in each direction and not the class
    token, which sees everything.

    Args:
        grid: (h, w) cells, N = h * w.
        window: cells in each direction; None for attention without limits.

    Returns:
        The mask, or None where nothing is forbidden.

    Example:
        >>> window_mask((1, 3), 1).int().tolist()
        [[0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    """
    if window is None:
        return None
    h, w = grid
    y, x = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    far = ((y[:, None] - y).abs() > window) | ((x[:, None] - x).abs() > window)  # (N, N)
    mask = F.pad(far, (1, 0, 1, 0), value=True)
    mask[0] = False
    return mask


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept serves trainings too
def float_mask(grid: tuple[int, int], window: int | None) -> Tensor | None:
    """Return `window_mask` as numbers to add to logits: -inf where forbidden, 0 elsewhere."""
    mask = window_mask(grid, window)
    return None if mask is None else torch.zeros(mask.shape).masked_fill(mask, float("-inf"))


def is_quick(activation: nn.Module) -> bool:
    """Return whether an activation is OpenAI's QuickGELU."""
    return type(activation).__name__ == "QuickGELU"


def head_parts(heads: int, n_bytes: int, device: torch.device) -> list[slice]:
    """Divide the heads of a layer into parts whose attention maps are computed at once.

    Args:
        heads: how many there are.
        n_bytes: of the maps of one head, (B, T, T).
        device: a CPU is fastest while a map fits its cache, a GPU with few large operations.

    Example:
        >>> head_parts(12, 2_400_000, torch.device("cpu"))[:2], head_parts(12, 1000, "cpu")
        ([slice(0, 1, None), slice(1, 2, None)], [slice(0, 12, None)])
    """
    size = min(heads, max(1, limit_of(AT_ONCE, torch.device(device)) // n_bytes))
    return [slice(first, min(first + size, heads)) for first in range(0, heads, size)]


_MULTIPLE = {"cpu": 1, "cuda": 8}
"""Attention maps have this multiple of columns."""


def with_rows(values: Tensor, rows: int) -> Tensor:
    """Append zeros to the rows of (..., T, d) until there are as many; T are enough as they are."""
    missing = rows - values.shape[-2]
    return F.pad(values, (0, 0, 0, missing)) if missing else values


AT_ONCE = {"cpu": 2**22, "cuda": 2**31}
"""Bytes of attention maps that are computed at once."""


@contextmanager
def fast_products(weights: Tensor) -> Iterator[None]:
    """Context manager: if a model's weights are half on a GPU, float32 products take TF32.

    TF32 keeps as many digits as float16. A model in float32 is left as it is.
    """
    before = torch.get_float32_matmul_precision()
    is_half = weights.is_cuda and weights.dtype in (torch.float16, torch.bfloat16)
    torch.set_float32_matmul_precision("high" if is_half else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def limit_of(limits: Mapping[str, int], device: torch.device) -> int:
    """Return the limit of a kind of device; that of ``"cpu"`` for one that has none."""
    return limits.get(device.type, limits["cpu"])


class Backbone:
    """Run blocks on one batch and sum the attention of those that should keep it.

    Args:
        x: (B, T, D) input of the first block; changed in place from block to block.
        mask: (T, T) to add to attention logits; None for no limits.
        dtype: dtype of the products; None for that of the weights. Residual stream, layer
            norms and the sum of the attention stay as precise as ``x``.
        similarity: whose similarity the summed attention is, one of ``SIMILARITY``; None for
            no sum. The blocks themselves always use queries and keys.
    """

    def __init__(
        self,
        x: Tensor,
        mask: Tensor | None,
        dtype: torch.dtype | None = None,
        similarity: str | None = SIMILARITY[0],
    ) -> None:
        self.x, self.mask, self.dtype, self.similarity = x, mask, dtype, similarity
        self.attention: Tensor | None = None
        self._rooms: dict[str, Tensor] = {}

    def run(self, block: Any, *, keep_attention: bool) -> None:
        """Apply one transformer block to the residual stream.

        Args:
            block: of open_clip's image tower.
            keep_attention: add the mean of its heads' maps to ``attention`` (B, T, T).
        """
        qkv = self.projected(block, layer_norm(block.ln_1, self.x))
        mixed = self.attended(qkv, keep_attention=keep_attention)
        out = block.attn.out_proj
        self.x += block.ls_1(self._product(mixed, out.weight, out.bias))
        self.x += block.ls_2(self._mlp(block.mlp, layer_norm(block.ln_2, self.x)))

    def projected(self, block: Any, x: Tensor) -> Tensor:
        """Project ``ln_1``'s output to queries, scaled, keys and values: (3, heads, B, T, d)."""
        attn = block.attn
        B, T, D = x.shape
        x = self._product(x, attn.in_proj_weight, attn.in_proj_bias)
        x = x.view(B, T, 3, attn.num_heads, -1)
        x[:, :, 0] *= x.shape[-1] ** -0.5
        return x.permute(2, 3, 0, 1, 4)

    def attended(self, qkv: Tensor, *, keep_attention: bool) -> Tensor:
        """Compute the heads' output (B, T, D) before its projection."""
        _, heads, B, T, d = qkv.shape
        if not keep_attention or self.similarity == "values":  # a fused kernel returns no map
            q, k, v = qkv.transpose(1, 2)  # (B, heads, T, d)
            mask = None if self.mask is None else self.mask.to(q.dtype)
            fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            if keep_attention:
                self.add_values(qkv[2])
            return fused.transpose(1, 2).reshape(B, T, heads * d)
        return self.gathered(qkv, count=True)

    def gathered(self, qkv: Tensor, *, count: bool, kept: list[Tensor] | None = None) -> Tensor:
        """Compute the heads' output (B, T, D) part by part, by way of their maps.

        Args:
            qkv: of `projected`.
            count: whether the maps join the mean attention.
            kept: gets the maps of every part; None for none.
        """
        _, heads, B, T, d = qkv.shape
        mixed = qkv.new_empty(B, T, heads, d)
        for part in self.parts(qkv):
            q, k, v = qkv[:, part]  # (G, B, T, d) each
            weights = self.maps(q, k, keep=kept is not None)
            if kept is not None:
                kept.append(weights)
            if count:
                self.add(weights, heads)
            mixed[:, :, part] = (weights @ with_rows(v, weights.shape[3])).permute(1, 2, 0, 3)
        return mixed.view(B, T, heads * d)

    def parts(self, qkv: Tensor) -> list[slice]:
        """Divide the heads of (..., heads, B, T, d), see `head_parts`."""
        heads, B, T, _ = qkv.shape[-4:]
        return head_parts(heads, B * T * T * qkv.element_size(), qkv.device)

    def maps(self, q: Tensor, k: Tensor, *, keep: bool = False) -> Tensor:
        """Compute softmax attention of heads: (G, B, T, d) twice -> (G, B, T, S).

        S is T, or on a GPU the next multiple of 8, with zeros behind: products are up to three
        times as fast then. The array is used again for the next call, unless it is to be kept.
        """
        T = q.shape[2]
        k = with_rows(k, T + -T % limit_of(_MULTIPLE, q.device))
        shape = (*q.shape[:3], k.shape[2])
        weights = q.new_empty(shape) if keep else self._room("map", shape, q.dtype)
        torch.matmul(q, k.mT, out=weights)
        if self.mask is not None:
            weights[..., :T] += self.mask
        if shape[3] > T:
            weights[..., T:] = float("-inf")
        return torch.softmax(weights, -1, out=weights)

    def add(self, weights: Tensor, heads: int) -> None:
        """Add the share of some heads' maps (G, B, T, S) to the mean attention (B, T, T)."""
        summed = weights[0] if len(weights) == 1 else weights.sum(0)
        summed = summed[..., : weights.shape[2]]
        if self.attention is None:
            self.attention = self.x.new_zeros(summed.shape)
        self.attention.add_(summed, alpha=1 / heads)

    def add_values(self, values: Tensor) -> None:
        """Add the similarity of values (heads, B, T, d) to each other, mean over the heads."""
        for part in self.parts(values):
            v = values[part]
            self.add(self.maps(v * v.shape[-1] ** -0.5, v), len(values))

    def _mlp(self, mlp: Any, x: Tensor) -> Tensor:
        """Apply a block's MLP; QuickGELU without its two extra passes over the hidden layer."""
        dtype = self.dtype or mlp.c_fc.weight.dtype
        hidden = self._room("hidden", (x.shape[0] * x.shape[1], len(mlp.c_fc.weight)), dtype)
        weight, bias = (p.to(dtype) for p in (mlp.c_fc.weight, mlp.c_fc.bias))
        factor, rows = QUICK if is_quick(mlp.gelu) else 1, x.flatten(0, 1).to(dtype)
        torch.addmm(bias, rows, weight.T, alpha=factor, beta=factor, out=hidden)
        active = F.silu(hidden, inplace=True) if factor != 1 else mlp.gelu(hidden)
        weight, bias = (p.to(dtype) for p in (mlp.c_proj.weight, mlp.c_proj.bias))
        return torch.addmm(bias, active, weight.T, alpha=1 / factor).view_as(x)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        dtype = self.dtype or weight.dtype
        return F.linear(x.to(dtype), weight.to(dtype), bias.to(dtype))

    def _room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return an array that is used again, with its old content."""
        room = self._rooms.get(name)
        if room is None or room.shape != shape or room.dtype != dtype:
            room = self._rooms[name] = torch.empty(shape, dtype=dtype, device=self.x.device)
        return room


class Weights:
    """The last block's and the head's weights, in the order in which a gradient meets them.

    LayerScale, where a model has it, and the second layer norm's factors are folded in.

    Args:
        model: open_clip's ``CLIP``.
        dtype: of the folded weights.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        visual = model.visual
        block = visual.transformer.resblocks[-1]
        attn, mlp = block.attn, block.mlp

        def of(parameter: Tensor) -> Tensor:
            return parameter.detach().to(dtype)

        def scale(layer: Any) -> Tensor:
            return of(layer.gamma) if hasattr(layer, "gamma") else of(visual.proj.new_ones(()))

        # (D, E) the last layer norm's factors and the projection, and (E,)
        self.embed = of(visual.ln_post.weight)[:, None] * of(visual.proj)
        self.embed_bias = of(visual.ln_post.bias) @ of(visual.proj)
        # (D, F) second layer of the MLP, and (D,)
        self.leave = (of(mlp.c_proj.weight).T * scale(block.ls_2)).T.contiguous()
        self.leave_bias = of(mlp.c_proj.bias) * scale(block.ls_2)
        # (D, D) the attention's output projection
        self.gather = (of(attn.out_proj.weight).T * scale(block.ls_1)).T
        # (F, D) first layer, centred, times that projection, and (F,) with the layer norm's bias
        first = of(mlp.c_fc.weight) * of(block.ln_2.weight)
        self.enter = (first - first.mean(1, keepdim=True)) @ self.gather
        self.enter_bias = of(mlp.c_fc.bias) + of(mlp.c_fc.weight) @ of(block.ln_2.bias)
        # (D, D) each, the queries with the scale of the logits
        queries, self.keys, self.values = of(attn.in_proj_weight).chunk(3)
        self.queries = queries * (len(queries) // attn.num_heads) ** -0.5


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Apply a layer norm in the precision of its input, whatever the dtype of its weights."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
