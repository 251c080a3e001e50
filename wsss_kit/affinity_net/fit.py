"""How an affinity learns: pairs of every picture, batch by batch, resumable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wsss_kit.affinity_net.confident import labels_on_grid
from wsss_kit.affinity_net.pair_losses import balanced_pair_loss, pair_kinds
from wsss_kit.checkpoints import (
    fingerprint,
    fingerprint_masks,
    load_checkpoint,
    restore_optimiser,
    save_checkpoint,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.classifier.train import device_of, fix_batch_norm
from wsss_kit.processes import as_first, norms_of_whole_batches, sum_gradients, totals
from wsss_kit.training import check_loss, polynomial_decay, seeded
from wsss_kit.training import progress as progress_bar
from wsss_kit.views import MaskedPictures

if TYPE_CHECKING:
    from wsss_kit.affinity_net.network import AffinityNet

METHOD, CARD_VERSION = "AffinityNet", 1


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
        samples: pictures.
        seeds: name to (H, W) int64.
        recipe: the numbers of `AffinityNet.fit`, checked.
        shown: whether to show a bar.
        checkpoint: path, or None.
    """
    asked = {"what": "seed", "make": "make confident labels"}
    pictures = MaskedPictures(samples, seeds, crop=recipe["crop"], **asked)
    learning = net if recipe["train_backbone"] else net.project
    optimiser = torch.optim.AdamW(
        learning.parameters(), lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"]
    )
    net.losses_ = []
    done, run = 0, {}
    if checkpoint is not None:
        card = {key: value for key, value in net.card().items() if key != "losses"}
        run = {**card, **recipe, "data": fingerprint(samples), "seeds": fingerprint_masks(seeds)}
        done = _resume(net, optimiser, checkpoint, run)
    steps = -(-len(pictures) // recipe["batch_size"])
    schedule = polynomial_decay(optimiser, steps * recipe["epochs"], first=done * steps)
    as_first(net.state_dict().values())
    net.train()
    if learning is not net:
        net.trunk.eval()
    if recipe["fixes_norms"]:
        fix_batch_norm(net)
    bar = range(done, recipe["epochs"])
    try:
        for epoch in progress_bar(bar, what=METHOD, shown=shown):
            net.losses_.append(_epoch(net, pictures, recipe, epoch, optimiser, schedule))
            if checkpoint is not None:
                place, card = {"epoch": epoch + 1, "run": run}, {**net.card(), "classes": []}
                save_checkpoint(checkpoint, net.state_dict(), optimiser, card, **place)
    finally:
        net.eval()


def _epoch(
    net: AffinityNet,
    pictures: MaskedPictures,
    recipe: Mapping[str, Any],
    epoch: int,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> float:
    """One pass; returns the mean loss of its steps."""
    losses, device, seed = [], device_of(net), recipe["seed"]
    random = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(pictures), generator=random)
    with seeded(seed, epoch, device), norms_of_whole_batches(net):
        for rows in order.split(recipe["batch_size"]):
            images, labels = pictures.batch(rows.tolist(), random)
            loss = _loss(net, images, labels.to(device), recipe)
            optimiser.zero_grad()
            loss.backward()
            sum_gradients(optimiser)
            optimiser.step()
            schedule.step()
            losses.append(totals({"loss": loss.item()})["loss"])
    began, mean = net.losses_[0] if net.losses_ else losses[0], sum(losses) / len(losses)
    rate = recipe["learning_rate"]
    check_loss(mean, began, where=f"epoch {epoch + 1}", learning_rate=rate)
    return mean


def _loss(net: AffinityNet, images: Tensor, labels: Tensor, recipe: Mapping[str, Any]) -> Tensor:
    with torch.set_grad_enabled(recipe["train_backbone"]):
        levels = net.trunk_levels(images)
    between = net.compare(net.project(levels))
    values = torch.where(labels == IGNORE_INDEX, 0, labels)
    n_classes = int(values.max()) if len(values) else 0  # none where others have the last pictures
    cells = labels_on_grid(labels, tuple(between.shape[2:]), n_classes)
    return balanced_pair_loss(between, pair_kinds(cells, net.offsets))


def _resume(
    net: AffinityNet,
    optimiser: torch.optim.Optimizer,
    path: str | Path,
    run: Mapping[str, Any],
) -> int:
    """Take a checkpoint's weights and moments; returns the epochs it has done."""
    kind = {"method": METHOD, "version": CARD_VERSION, "keys": ("losses", "classes")}
    found = load_checkpoint(path, **kind, classes=(), run=run, epochs=run["epochs"])
    if found is None:
        return 0
    tensors, card = found
    own = {name: tensors[name] for name in net.state_dict() if name in tensors}
    net.load_state_dict(own)
    restore_optimiser(optimiser, tensors)
    net.losses_ = list(card["losses"])
    return card["epoch"]
