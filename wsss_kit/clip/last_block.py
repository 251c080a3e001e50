r"""The last block with its gradient in closed form: what Grad-CAM needs, for any number of texts.

CLIP-ES weighs channel k of the last block's normalised input A by the mean over the patches of
the derivative of a number y, which is a function of the image embedding f alone. So a direction
:math:`\partial y / \partial f` (E,) goes in and (D,) weights come out, linearly. Carrying it back
by differentiation costs two N x N products for each head and class. The *mean* over patches
costs less. With the attention :math:`P = \mathrm{softmax}(QK^\top)` of one head, values V, output
:math:`O = PV`, its gradient G, and :math:`\rho_i = G_i \cdot O_i`:

- values: the rows of P sum to 1 and token 0 is the class token, which is no patch, so
  :math:`\sum_{j \ge 1} dV_j = \sum_i (1 - P_{i0})\, G_i`;
- keys, likewise: :math:`\sum_{j \ge 1} dK_j = -\sum_i P_{i0} (G_i \cdot V_0 - \rho_i) Q_i`;
- queries: :math:`\sum_i dQ_i = \sum_j (T_j \cdot V_j - \tau_j) K_j` with the thin products
  :math:`T = P^\top G` and :math:`\tau = P^\top \rho`.

Before it lie two layer norms and the MLP, whose part is one product a class: a layer norm's
derivative is a constant vector minus two rank-one terms, so all that does not depend on the class
is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.clip.vision import (
    QUICK,
    Backbone,
    Weights,
    fast_products,
    is_quick,
    layer_norm,
    limit_of,
    with_rows,
)

MOST_KEPT = {"cpu": 2**28, "cuda": 2**32}
"""Bytes of attention maps in memory; larger images compute each map again."""
_AT_ONCE = {"cpu": 2**26, "cuda": 2**32}
"""Bytes of gradients in the MLP, (N, F) a class, that are computed at once."""


class LastBlock:
    """The last block of a batch of images, run once, ready for any number of gradients.

    Args:
        model: open_clip's ``CLIP``.
        weights: of it.
        before: the blocks before, run: their output, mask and attention, to which this block's
            attention is added in place.

    Attributes:
        embedding: (B, E) the mean of the patch tokens, projected; not of unit length.
        normed: (B, 1 + N, D) the block's ``ln_1`` output.
    """

    def __init__(self, model: Any, weights: Weights, before: Backbone) -> None:
        self.weights, self._model = weights, model
        with fast_products(model.visual.proj):
            self._run(before)

    def _run(self, before: Backbone) -> None:
        """Compute the block and all that gradients need of it."""
        x, model, weights = before.x, self._model, self.weights
        self._backbone = Backbone(x, before.mask, x.dtype, before.similarity)
        self._backbone.attention = before.attention
        visual = model.visual
        block = visual.transformer.resblocks[-1]
        self.normed = layer_norm(block.ln_1, x)
        qkv = self._backbone.projected(block, self.normed)
        self._parts = self._backbone.parts(qkv)
        self.q, self.k, self.v = qkv  # (heads, B, T, d) each
        self._kept: list[Tensor] = []
        self._jacobian: Tensor | None = None
        gathered = self._attend(qkv)
        out = block.attn.out_proj
        mixed = F.linear(gathered, out.weight.to(x.dtype), out.bias.to(x.dtype))
        self.gathered = gathered[:, 1:]  # (B, N, D)
        # The class token's own output is never read, so it ends here.
        middle = (x + block.ls_1(mixed))[:, 1:]
        self.inner, self.inner_scale = _standardised(middle, block.ln_2.eps)
        self._hidden = F.linear(  # (B, N, F), with the layer norm's factors in the weights
            self.inner * block.ln_2.weight.to(x.dtype),
            block.mlp.c_fc.weight.to(x.dtype),
            weights.enter_bias,
        )
        active, self._slope = _activated(block.mlp.gelu, self._hidden)
        last = middle + F.linear(active, weights.leave, weights.leave_bias)
        self.outer, self.outer_scale = _standardised(last, visual.ln_post.eps)
        self._hidden -= weights.enter_bias
        self.embedding = self.outer.mean(1) @ weights.embed + weights.embed_bias

    @property
    def cells(self) -> Tensor:
        """(B, N, D) ``normed`` of the patches, whose weighted sum is a map."""
        return self.normed[:, 1:]

    @property
    def patches(self) -> Tensor:
        """(B, N, E) each patch's own embedding, of any length; ``embedding`` is their mean."""
        return self.outer @ self.weights.embed + self.weights.embed_bias

    @property
    def attention(self) -> Tensor | None:
        """(B, 1 + N, 1 + N) the sum with this block's map; None where it was not wanted."""
        return self._backbone.attention

    def _attend(self, qkv: Tensor) -> Tensor:
        """Compute what the heads gather (B, T, D); their maps are kept where they are small."""
        _, heads, B, T, _ = qkv.shape
        keep = heads * B * T * T * qkv.element_size() <= limit_of(MOST_KEPT, qkv.device)
        kept = self._kept if keep else None
        similarity = self._backbone.similarity
        gathered = self._backbone.gathered(qkv, count=similarity == "queries", kept=kept)
        if similarity == "values":
            self._backbone.add_values(qkv[2])
        return gathered

    def _heads(self) -> Iterator[tuple[slice, HeadGradient]]:
        """Yield parts of the heads with what carries gradients back through them."""
        for number, part in enumerate(self._parts):
            kept = self._kept[number] if self._kept else None
            maps = self._backbone.maps(self.q[part], self.k[part]) if kept is None else kept
            yield part, HeadGradient(self, part, maps[:, :, 1:])

    @torch.no_grad()
    def mean_gradients(self, directions: Tensor, image: Tensor) -> Tensor:
        """Average over the patches the derivative of numbers by the block's ``ln_1`` output.

        Args:
            directions: (M, E) each number's derivative by the ``embedding`` of its image.
            image: (M,) int64, which image of the batch each number belongs to, ascending.

        Returns:
            (M, D).
        """
        directions = directions.to(self.outer.dtype)
        if self._jacobian is not None:
            if len(self._jacobian) == 1:
                return directions @ self._jacobian[0]
            return (directions[:, None] @ self._jacobian[image])[:, 0]
        _, N, D = self.outer.shape
        known = directions @ self.weights.embed.T / N  # (M, D)
        known = known - known.mean(1, keepdim=True)
        chunk = max(1, limit_of(_AT_ONCE, known.device) // (2 * self._hidden[0].nbytes))
        parts = zip(known.split(chunk), image.split(chunk), strict=True)
        with fast_products(self._model.visual.proj):
            found = [self._through_attention(*part) for part in parts]
        return torch.cat(found) if found else known

    @torch.no_grad()
    def prepare(self) -> None:
        """Find the whole derivative, (E, D) an image: all later gradients are a product with it.

        It costs about as much as the gradients of 25 texts; what these needed is forgotten.
        """
        if self._jacobian is None:
            with fast_products(self._model.visual.proj):
                self._jacobian = self._whole_derivative()
            self._kept.clear()
            for name in ("steep", "steep_hidden", "shared_hidden", "inner_gathered"):
                self.__dict__.pop(name, None)

    @property
    def prepared(self) -> bool:
        """Whether gradients are no more than a product."""
        return self._jacobian is not None

    def _through_attention(self, known: Tensor, image: Tensor) -> Tensor:
        """Carry gradients (M, D) at the last layer norm back to weights (M, D)."""
        heads, B, _, d = self.q.shape
        carried = self._through_mlp(known, image)  # (M, N, D)
        # the numbers of an image stand beside each other: (B, C, N, D), C the most of any image
        slot = torch.arange(len(image), device=image.device)
        slot = slot - torch.searchsorted(image, image)
        grads = carried[None]
        if B > 1:
            C = int(slot.max()) + 1
            grads = carried.new_zeros(B, C, *carried.shape[1:])
            grads[image, slot] = carried
        grads = grads.unflatten(-1, (heads, d)).permute(3, 0, 1, 2, 4)  # (heads, B, C, N, d)
        gradients = carried.new_empty(3, heads, *grads.shape[1:3], d)
        for part, head in self._heads():
            gradients[:, part] = head.classes(grads[part])
        # (3, heads, B, C, d) -> (3, M, D)
        queries, keys, values = gradients.permute(0, 2, 3, 1, 4)[:, image, slot].flatten(2)
        weights = self.weights
        total = queries @ weights.queries + keys @ weights.keys + values @ weights.values
        return total / self.outer.shape[1]

    def _through_mlp(self, known: Tensor, image: Tensor) -> Tensor:
        """Carry gradients (M, D) at the last layer norm back to the heads' output (M, N, D)."""
        weights, D = self.weights, known.shape[1]

        def of(values: Tensor) -> Tensor:  # each number's image; a single one is broadcast
            return values if len(values) == 1 else values[image]

        outer = of(self.outer)
        along = outer @ known[:, :, None] / D  # (M, N, 1)
        grads = (known[:, None] - along * outer) * of(self.outer_scale)
        hidden = (grads @ weights.leave).mul_(of(self._slope))  # (M, N, F)
        inner = (hidden * of(self._hidden)).sum(2, keepdim=True) / D
        gradients = (hidden @ weights.enter).mul_(of(self.inner_scale))
        gradients -= inner * of(self.inner_gathered)
        return gradients.add_(grads @ weights.gather)

    def _whole_derivative(self) -> Tensor:
        """Compute the mean derivative of ``embedding`` by the patches of ``normed``: (B, E, D).

        A gradient through the block is linear in what it begins with. So the weights themselves
        are carried back instead of one class's numbers. The costly products are those of the
        hidden units' shares in each patch, (F, N), with each head's attention, (N, 1 + N).
        """
        weights, (B, N, D) = self.weights, self.outer.shape
        heads, _, _, d = self.q.shape
        enter, inner_of_enter, outer_gathered = self.shared_hidden
        alike = enter + outer_gathered - inner_of_enter / D * self.inner_gathered  # (B, N, D)
        mass = self.steep * self.inner_scale  # (B, N, F)
        even = self.outer_scale.expand(B, N, d)
        unit = torch.eye(d, dtype=mass.dtype, device=mass.device)

        def split(values: Tensor) -> Tensor:  # (..., D) -> (heads, ..., d)
            return values.unflatten(-1, (heads, d)).movedim(-2, 0)

        enter_of, inner_of, alike_of = map(split, (weights.enter, self.inner_gathered, alike))
        hidden = mass.new_empty(3, heads, B, mass.shape[2], d)
        patches = mass.new_empty(3, heads, B, N, d)
        total = mass.new_empty(3, heads, B, D, d)
        for part, head in self._heads():
            hidden[:, part] = head.masses(mass, enter_of[part])
            inner = head.tokens(inner_of[part])  # (3, G, B, N, d)
            hidden[:, part] -= self.steep_hidden.mT @ inner / D
            patches[:, part] = head.tokens(alike_of[part])
            units = head.masses(even, unit.expand(part.stop - part.start, d, d))
            total[:, part] = split(weights.gather)[part, None] @ units
        # (3, heads, B, ., d) -> (3, B, ., D)
        hidden, patches, total = (x.movedim(1, -2).flatten(-2) for x in (hidden, patches, total))
        total = total + weights.leave @ hidden - self.outer.mT @ patches / D
        by_token = total[0] @ weights.queries + total[1] @ weights.keys + total[2] @ weights.values
        embed = weights.embed - weights.embed.mean(0)
        return embed.T @ by_token / N**2

    @cached_property
    def inner_gathered(self) -> Tensor:
        """(B, N, D) the MLP's standardised input at what the heads gathered."""
        return (self.inner @ self.weights.gather) * self.inner_scale

    @cached_property
    def steep(self) -> Tensor:
        """(B, N, F) slope of each hidden unit, times the last layer norm's scale."""
        return self._slope * self.outer_scale

    @cached_property
    def steep_hidden(self) -> Tensor:
        """(B, N, F) the same times what entered the unit."""
        return self.steep * self._hidden

    @cached_property
    def shared_hidden(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the layer norm's second rank-one term becomes on its way, for every class alike."""
        hidden = (self.outer @ self.weights.leave).mul_(self.steep)
        inner = (hidden * self._hidden).sum(2, keepdim=True)
        outer = (self.outer @ self.weights.gather) * self.outer_scale
        return (hidden @ self.weights.enter).mul_(self.inner_scale), inner, outer


class HeadGradient:
    """Attention of some heads, through which gradients at their output are carried back.

    Every method returns gradients of queries, keys and values, summed over the patches.

    Args:
        block: of B images.
        part: G of its heads.
        maps: (G, B, N, S) their attention of the patches; behind the T tokens may be zeros.
    """

    def __init__(self, block: LastBlock, part: slice, maps: Tensor) -> None:
        self.map, self.to_class = maps, maps[..., :1]
        self.q = block.q[part][:, :, 1:]
        self.k, self.v = (with_rows(x[part], maps.shape[3]) for x in (block.k, block.v))
        gathered = block.gathered.unflatten(-1, (len(block.q), -1))  # (B, N, heads, d)
        self.gathered = gathered[:, :, part].permute(2, 0, 1, 3)  # (G, B, N, d)
        self.away = self.v[:, :, :1] - self.gathered

    @cached_property
    def looked_at(self) -> Tensor:
        """(G, B, N, d) the mean key that each patch attends to."""
        return self.map @ self.k

    def classes(self, grads: Tensor) -> Tensor:
        """Sum a gradient for each class and patch: (G, B, C, N, d) -> (3, G, B, C, d)."""
        C, d = grads.shape[2], grads.shape[4]
        rho = (grads * self.gathered[:, :, None]).sum(-1, keepdim=True)  # (G, B, C, N, 1)
        thin = torch.cat([grads, rho], -1).mT.flatten(2, 3)
        thin = (thin @ self.map).unflatten(2, (C, d + 1))  # T and tau, transposed
        queries = (thin[..., :d, :] * self.v.mT[:, :, None]).sum(-2) - thin[..., d, :]
        drawn = self.to_class.mT * (grads * self.away[:, :, None]).sum(-1)  # (G, B, C, N)
        values = ((1 - self.to_class)[:, :, None] * grads).sum(-2)
        return torch.stack([queries @ self.k, -drawn @ self.q, values])

    def masses(self, mass: Tensor, rows: Tensor) -> Tensor:
        """Sum gradients mass_im rows_m at patch i: (B, N, M), (G, M, d) -> (3, G, B, M, d)."""
        rows = rows[:, None]  # (G, 1, M, d)
        queries = (mass.mT @ self.map * (rows @ self.v.mT)) @ self.k
        queries -= (mass * (self.gathered @ rows.mT)).mT @ self.looked_at
        keys = -(mass * self.to_class * (self.away @ rows.mT)).mT @ self.q
        values = (mass * (1 - self.to_class)).sum(2)[..., None] * rows
        return torch.stack([queries, keys, values])

    def tokens(self, grads: Tensor) -> Tensor:
        """Compute a gradient for each patch by itself: (G, B, N, d) -> (3, G, B, N, d)."""
        queries = (self.map * (grads @ self.v.mT)) @ self.k
        queries -= (grads * self.gathered).sum(-1, keepdim=True) * self.looked_at
        keys = -self.to_class * (grads * self.away).sum(-1, keepdim=True) * self.q
        return torch.stack([queries, keys, (1 - self.to_class) * grads])


def _standardised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Standardise a layer norm's input; return it and the factor that was used (B, N, 1)."""
    standard, _, scale = torch.native_layer_norm(x, x.shape[2:], None, None, eps)
    return standard, scale


def _activated(activation: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Compute an activation and its derivative."""
    if is_quick(activation):
        slope = torch.sigmoid(QUICK * hidden)  # the gate
        active = hidden * slope
        return active, slope.addcmul_(active, 1 - slope, value=QUICK)
    with torch.inference_mode(False), torch.enable_grad():  # also where the caller has it on
        leaf = hidden.detach()
        leaf = (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()
        active = activation(leaf)
        (slope,) = torch.autograd.grad(active.sum(), leaf)
    return active.detach(), slope
