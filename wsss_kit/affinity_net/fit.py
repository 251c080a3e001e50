"""How an affinity learns: pairs of every image, batch by batch, resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wsss_kit.affinity_net.confident import labels_on_grid
from wsss_kit.affinity_net.neighbours import balanced_pair_loss, pair_kinds
from wsss_kit.checkpoints import fingerprint, fingerprint_masks, resume, save_checkpoint
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.classifier.pretrained import device_of, fix_batch_norm
from wsss_kit.processes import as_first
from wsss_kit.training import descend, polynomial_decay, train_epochs
from wsss_kit.views import MaskedImages

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
        samples: images.
        seeds: name to (H, W) int64.
        recipe: the numbers of `AffinityNet.fit`, checked.
        shown: whether to show a bar.
        checkpoint: path, or None.
    """
    asked = {"what": "seed", "make": "make confident labels"}
    masked = MaskedImages(samples, seeds, crop=recipe["crop"], **asked)
    learning = net if recipe["train_backbone"] else net.project
    optimiser = torch.optim.AdamW(
        learning.parameters(), lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"]
    )
    net.losses_ = []
    run = {}
    if checkpoint is not None:
        card = {key: value for key, value in net.card().items() if key != "losses"}
        run = {**card, **recipe, "data": fingerprint(samples), "seeds": fingerprint_masks(seeds)}
    kind = {"method": METHOD, "version": CARD_VERSION, "classes": ()}
    done = resume(net, optimiser, checkpoint, run=run, epochs=recipe["epochs"], **kind)
    steps = -(-len(masked) // recipe["batch_size"])
    schedule = polynomial_decay(optimiser, steps * recipe["epochs"], first=done * steps)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        random = torch.Generator().manual_seed(recipe["seed"] * 1_000_003 + epoch)
        for rows in torch.randperm(len(masked), generator=random).split(recipe["batch_size"]):
            yield masked.batch(rows.tolist(), random)

    def step(images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, float]:
        loss = _loss(net, images, labels.to(device_of(net)), recipe)
        return descend({"total": loss}, optimiser)

    def start_epoch() -> None:
        net.train()
        if learning is not net:
            net.trunk.eval()
        if recipe["fixes_norms"]:
            fix_batch_norm(net)

    def after_epoch(epoch: int, losses: Mapping[str, float]) -> None:
        net.losses_.append(losses["total"])
        if checkpoint is not None:
            place, card = {"epoch": epoch + 1, "run": run}, {**net.card(), "classes": []}
            save_checkpoint(checkpoint, net.state_dict(), optimiser, card, **place)

    as_first(net.state_dict().values())
    try:
        train_epochs(
            step,
            batches,
            net,
            {**recipe, "shown": shown},
            schedule=schedule,
            epochs=range(done, recipe["epochs"]),
            steps=steps,
            what=METHOD,
            start_epoch=start_epoch,
            after_epoch=after_epoch,
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
