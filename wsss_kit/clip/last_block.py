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

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.clip.vision import QUICK, Backbone, Weights, is_quick, layer_norm

MOST_KEPT = 2**28  # bytes of attention maps in memory; larger images compute each map again
_AT_ONCE = 2**27  # bytes of gradients, one (N, D) a class, that pass the attention together
_SHARED_FROM = 3  # from so many classes on, what they share passes the MLP once


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

    def __init__(self, model: nn.Module, weights: Weights, before: Backbone) -> None:
        x = before.x
        self.weights, self._backbone = weights, Backbone(x, before.mask, x.dtype, before.similarity)
        self._backbone.attention = before.attention
        visual = model.visual
        block = visual.transformer.resblocks[-1]
        self.normed = layer_norm(block.ln_1, x)
        qkv = self._backbone.projected(block, self.normed)
        self.q, self.k, self.v = qkv  # each (heads, B, T, d)
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
    def patches(self) -> Tensor:
        """(B, N, E) each patch's own embedding, of any length; ``embedding`` is their mean."""
        return self.outer @ self.weights.embed + self.weights.embed_bias

    @property
    def attention(self) -> Tensor | None:
        """(B, 1 + N, 1 + N) the sum with this block's map; None where it was not wanted."""
        return self._backbone.attention

    def _attend(self, qkv: Tensor) -> Tensor:
        """Compute what the heads gather (B, T, D); their maps are kept where they are small."""
        _, heads, B, T, d = qkv.shape
        keep = heads * B * T * T * qkv.element_size() <= MOST_KEPT
        gathered = qkv.new_empty(B, T, heads, d)
        for head, (q, k, v) in enumerate(qkv.transpose(0, 1)):
            attention = qkv.new_empty(B, T, T) if keep else None
            weights = self._backbone.head_map(q, k, out=attention)
            if keep:
                self._kept.append(weights)
            if self._backbone.similarity == "queries":
                self._backbone.add(weights, heads)
            gathered[:, :, head] = weights @ v
        if self._backbone.similarity == "values":
            self._backbone.add_values(qkv[2])
        return gathered.view(B, T, heads * d)

    def head_map(self, head: int) -> Tensor:
        """Return the attention (B, N, 1 + N) of the patches in one head."""
        if self._kept:
            return self._kept[head][:, 1:]
        return self._backbone.head_map(self.q[head], self.k[head])[:, 1:]

    @torch.no_grad()
    def mean_gradients(self, directions: Tensor) -> Tensor:
        """Average over the patches the derivative of numbers by the block's ``ln_1`` output.

        Args:
            directions: (B, C, E) each number's derivative by ``embedding``.

        Returns:
            (B, C, D).
        """
        B, C, _ = directions.shape
        _, N, D = self.outer.shape
        if self._jacobian is not None:
            return directions.to(self._jacobian) @ self._jacobian
        known = directions.to(self.outer.dtype) @ self.weights.embed.T / N  # (B, C, D)
        known = known - known.mean(2, keepdim=True)
        chunk = max(1, _AT_ONCE // max(1, B * N * D * known.element_size()))
        parts = [self._through_attention(known[:, c : c + chunk]) for c in range(0, C, chunk)]
        return torch.cat(parts, 1) if parts else known

    @torch.no_grad()
    def prepare(self) -> None:
        """Find the whole derivative, (E, D) an image: all later gradients are a product with it.

        It costs about as much as the gradients of 25 texts; what these needed is forgotten.
        """
        if self._jacobian is None:
            self._jacobian = self._whole_derivative()
            self._kept.clear()
            for name in ("steep", "steep_hidden", "shared_hidden", "inner_gathered"):
                self.__dict__.pop(name, None)

    @property
    def prepared(self) -> bool:
        """Whether gradients are no more than a product."""
        return self._jacobian is not None

    def _through_attention(self, known: Tensor) -> Tensor:
        """Carry gradients (B, C, D) at the last layer norm back to weights (B, C, D)."""
        B, C, D = known.shape
        heads, _, _, d = self.q.shape
        shared = C >= _SHARED_FROM or "shared_hidden" in self.__dict__
        carry = self._through_mlp_shared if shared else self._through_mlp
        grads = torch.stack([carry(known[:, c]) for c in range(C)], 1)  # (B, C, N, D)
        grads = grads.view(B, C, -1, heads, d)
        gradients = known.new_empty(3, B, C, heads, d)
        for head in range(heads):
            gradients[:, :, :, head] = HeadGradient(self, head).classes(grads[..., head, :])
        queries, keys, values = gradients.flatten(3)
        weights = self.weights
        total = queries @ weights.queries + keys @ weights.keys + values @ weights.values
        return total / self.outer.shape[1]

    def _through_mlp(self, known: Tensor) -> Tensor:
        """Carry one class's (B, D) at the last layer norm back to the heads' output (B, N, D)."""
        weights, (_, _, D) = self.weights, self.outer.shape
        along = self.outer @ known[:, :, None] / D  # (B, N, 1)
        grads = (known[:, None] - along * self.outer) * self.outer_scale
        hidden = (grads @ weights.leave).mul_(self._slope)  # (B, N, F)
        inner = (hidden * self._hidden).sum(2, keepdim=True) / D
        gradients = (hidden @ weights.enter).mul_(self.inner_scale)
        gradients -= inner * self.inner_gathered
        return gradients.add_(grads @ weights.gather)

    def _through_mlp_shared(self, known: Tensor) -> Tensor:
        """Do the same, with the part that all classes share taken from `shared_hidden`."""
        weights, (_, _, D) = self.weights, self.outer.shape
        enter, inner_of_enter, outer_gathered = self.shared_hidden
        along = self.outer @ known[:, :, None] / D  # (B, N, 1)
        leave = (known @ weights.leave)[:, None]  # (B, 1, F)
        inner = (self.steep_hidden @ leave.mT - along * inner_of_enter) / D
        gradients = self.steep @ (leave.mT * weights.enter)
        gradients.mul_(self.inner_scale)
        gradients -= along * enter
        gradients -= inner * self.inner_gathered
        gathered = (known @ weights.gather)[:, None]  # (B, 1, D)
        return gradients.add_(self.outer_scale * gathered).sub_(along * outer_gathered)

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
        hidden = mass.new_empty(3, B, mass.shape[2], heads, d)
        patches = mass.new_empty(3, B, N, heads, d)
        total = mass.new_zeros(3, B, D, D)
        for head in range(heads):
            columns = slice(head * d, (head + 1) * d)
            carry = HeadGradient(self, head)
            hidden[:, :, :, head] = carry.masses(mass, weights.enter[:, columns])
            inner = carry.tokens(self.inner_gathered[..., columns])  # (3, B, N, d)
            hidden[:, :, :, head] -= self.steep_hidden.mT @ inner / D
            patches[:, :, :, head] = carry.tokens(alike[..., columns])
            even = self.outer_scale.expand(B, N, d)
            unit = carry.masses(even, torch.eye(d, dtype=mass.dtype, device=mass.device))
            total[..., columns] += weights.gather[:, columns] @ unit
        total += weights.leave @ hidden.flatten(3) - self.outer.mT @ patches.flatten(3) / D
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
    """Attention of one head, through which gradients at its output are carried back.

    Every method returns gradients of queries, keys and values, summed over the patches.

    Args:
        block: of B images.
        head: index of the head.
    """

    def __init__(self, block: LastBlock, head: int) -> None:
        columns = slice(head * block.q.shape[-1], (head + 1) * block.q.shape[-1])
        self.map = block.head_map(head)  # (B, N, T)
        self.to_class = self.map[..., :1]
        self.q, self.k, self.v = block.q[head][:, 1:], block.k[head], block.v[head]
        self.gathered = block.gathered[..., columns]  # (B, N, d)
        self.away = self.v[:, :1] - self.gathered

    @cached_property
    def looked_at(self) -> Tensor:
        """(B, N, d) the mean key that each patch attends to."""
        return self.map @ self.k

    def classes(self, grads: Tensor) -> Tensor:
        """Sum a gradient for each class and patch: (B, C, N, d) -> (3, B, C, d)."""
        B, C, _, d = grads.shape
        rho = (grads * self.gathered[:, None]).sum(-1, keepdim=True)  # (B, C, N, 1)
        thin = torch.cat([grads, rho], -1).mT.flatten(1, 2)
        thin = (thin @ self.map).view(B, C, d + 1, -1)  # T and tau, transposed
        queries = ((thin[:, :, :d] * self.v.mT[:, None]).sum(2) - thin[:, :, d]) @ self.k
        drawn = self.to_class.mT * (grads * self.away[:, None]).sum(-1)  # (B, C, N)
        values = ((1 - self.to_class)[:, None] * grads).sum(2)
        return torch.stack([queries, -drawn @ self.q, values])

    def masses(self, mass: Tensor, rows: Tensor) -> Tensor:
        """Sum gradients mass_im rows_m at patch i: (B, N, M), (M, d) -> (3, B, M, d)."""
        queries = (mass.mT @ self.map * (rows @ self.v.mT)) @ self.k
        queries -= (mass * (self.gathered @ rows.T)).mT @ self.looked_at
        keys = -(mass * self.to_class * (self.away @ rows.T)).mT @ self.q
        values = (mass * (1 - self.to_class)).sum(1)[..., None] * rows
        return torch.stack([queries, keys, values])

    def tokens(self, grads: Tensor) -> Tensor:
        """Compute a gradient for each patch by itself: (B, N, d) -> (3, B, N, d)."""
        queries = (self.map * (grads @ self.v.mT)) @ self.k
        queries -= (grads * self.gathered).sum(2, keepdim=True) * self.looked_at
        keys = -self.to_class * (grads * self.away).sum(2, keepdim=True) * self.q
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
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        active = activation(leaf)
        (slope,) = torch.autograd.grad(active.sum(), leaf)
    return active.detach(), slope
