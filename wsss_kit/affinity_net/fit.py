"""How an affinity learns: pairs of every image, batch by batch, resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wsss_kit.affinity_net.confident import labels_on_grid
from wsss_kit.affinity_net.neighbours import balanced_pair_loss, pair_kinds
from wsss_kit.checkpoints import fingerprint, fingerprint_masks, restore_optimiser
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.training import batch_norms, descend, device_of, train_epochs
from wsss_kit.views import MaskedImages

if TYPE_CHECKING:
    from wsss_kit.affinity_net.network import AffinityNet


def train_affinity(
    net: AffinityNet,
    samples: Sequence[Sample],
    seeds: Mapping[str, Tensor],
    recipe: Mapping[str, Any],
    *,
    shown: bool,
    checkpoint: str | Path | None,
) -> None:
    """Train in place; see `AffinityNet.fit`.

    Args:
        net: whose ``losses_`` begin anew, or as the checkpoint has them.
        samples: images.
        seeds: name to (H, W) int64.
        recipe: the numbers of `AffinityNet.fit`, checked.
        shown: whether to show a bar.
        checkpoint: path, or None.
    """
    masked = MaskedImages(samples, seeds, "seed", recipe)
    learning = net if recipe["train_backbone"] else net.project
    optimiser = torch.optim.AdamW(
        learning.parameters(), lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"]
    )
    net.losses_, place = [], None
    if checkpoint is not None:
        run = {**net.card(), **recipe}
        del run["losses"]
        data = {"data": fingerprint(samples), "seeds": fingerprint_masks(seeds)}
        place = checkpoint, {**run, **data}
    stored, done = net._resume(place, recipe["epochs"])
    restore_optimiser(optimiser, stored)

    def step(images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, float]:
        loss = _loss(net, images, labels.to(device_of(net)), recipe)
        return descend({"total": loss}, optimiser)

    try:
        train_epochs(
            step,
            masked,
            net,
            optimiser,
            {**recipe, "shown": shown},
            what=net.METHOD,
            done=done,
            after_epoch=net._after_epoch(place, optimiser),
            fixed=[
                *([] if learning is net else [net.trunk]),
                *(batch_norms(net) if recipe["fixes_norms"] else []),
            ],
        )
    finally:
        net.eval()


def _loss(net: AffinityNet, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> Tensor:
    with torch.set_grad_enabled(recipe["train_backbone"]):
        levels = net.backbone_levels(images)
    between = net.compare(net.project(levels))
    values = torch.where(labels == IGNORE_INDEX, 0, labels)
    n_classes = int(values.max()) if len(values) else 0  # none where others have the last images
    cells = labels_on_grid(labels, tuple(between.shape[2:]), n_classes)
    return balanced_pair_loss(between, pair_kinds(cells, net.offsets))
