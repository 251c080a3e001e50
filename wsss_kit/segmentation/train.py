"""Pseudo masks become the teacher: training a segmenter, and going on after a stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checkpoints import (
    fingerprint,
    fingerprint_masks,
    load_checkpoint,
    restore_optimiser,
    save_checkpoint,
)
from wsss_kit.checks import (
    check_count,
    check_not_negative,
    check_positive,
    check_samples,
    check_scales,
    check_word,
    chosen_device,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.classifier.pretrained import device_of, fix_batch_norm
from wsss_kit.processes import as_first, norms_of_whole_batches, sum_gradients, totals
from wsss_kit.segmentation.losses import LOSSES, multi_scale_loss
from wsss_kit.segmentation.networks import build_network
from wsss_kit.segmentation.presets import PRESETS, Recipe
from wsss_kit.segmentation.segmenter import CARD_VERSION, METHOD, Segmenter
from wsss_kit.training import check_loss, classes_of, polynomial_decay, seeded
from wsss_kit.training import progress as progress_bar
from wsss_kit.views import MaskedPictures


def train_segmenter(
    samples: Sequence[Sample],
    masks: Mapping[str, Tensor],
    *,
    network: str | nn.Module = "small",
    backbone: str | nn.Module | None = None,
    weights: str | Path | None = None,
    preset: str | None = None,
    taught_by: str = "not stated",
    epochs: int | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    crop: int | None = None,
    scales: Sequence[float] | None = None,
    loss: str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Segmenter:
    """Train a network on masks, pseudo or drawn; pixels of 255 teach nothing.

    Masks whose doubtful pixels are 255 (``min_confidence`` of the recipes) make this CLIP-ES's
    confidence-guided training.

    Args:
        samples: pictures; their ``classes``, if they have them, name the mask's values.
        masks: picture name to (H, W) int64, class c as c + 1.
        network: one of ``networks.NETWORKS``, or a module (B, 3, H, W) -> (B, K, h, w).
        backbone: see `build_network`.
        weights: see `build_network`.
        preset: one of ``presets.PRESETS``; None for ``"small"``, or ``"deeplab"`` for the DeepLabs.
        taught_by: what the masks are, in words, for the card.
        epochs: passes over the pictures; this and the next arguments take the preset's value where
            they are None.
        iterations: steps, instead of ``epochs``.
        batch_size: pictures at a time.
        accumulate: batches a step.
        learning_rate: at the start, of the trunk; it falls by a polynomial of power 0.9.
        weight_decay: of the optimiser.
        crop: side of random square crops; pictures of several sizes need it.
        scales: factors of which a picture is resized by one before it is cropped.
        loss: ``"plain"``, or ``"balanced"`` between background and objects, which keeps a start
            from ImageNet's weights from learning background alone.
        seed: of new weights, order and views.
        device: where to train a named network.
        progress: whether to show a bar.
        checkpoint: path that the state is written to after every pass over the pictures and resumed
            from.

    Returns:
        A `Segmenter` in evaluation mode, with ``losses_``, the mean of every pass.

    Raises:
        ValueError: if a picture has no mask or one of another size or with a value that is no
            class, sizes differ without a crop, a number is out of its range, or the checkpoint is
            of another run.
        Diverged: if the loss is no number, or far above where it began.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(2, split="train")
        >>> net = train_segmenter(world, world.masks, epochs=1, device="cpu", progress=False)
        >>> tuple(net(world[0].image[None]).shape), net.classes[0]
        ((1, 9, 96, 96), 'boat')
    """
    check_samples(samples)
    check_count("seed", seed, least=0)
    if preset is None:
        preset = "deeplab" if network in ("deeplab_v2", "deeplab_v3") else "small"
    check_word("preset", preset, PRESETS)
    given = {
        "epochs": epochs,
        "iterations": iterations,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "crop": crop,
        "scales": scales,
        "loss": loss,
    }
    recipe = _recipe(preset, given)
    classes = classes_of(samples)
    asked = {"what": "mask", "make": "make a pseudo mask"}
    masked = MaskedPictures(samples, masks, crop=recipe["crop"], scales=recipe["scales"], **asked)
    net = build_network(network, 1 + len(classes), backbone=backbone, weights=weights, seed=seed)
    names = {"network": _name_of(network), "backbone": _name_of(backbone)}
    segmenter = Segmenter(net, classes, **names, taught_by=taught_by)
    if isinstance(network, str):
        segmenter.to(chosen_device(device))
    run = {}
    if checkpoint is not None:
        data = {"data": fingerprint(samples), "masks": fingerprint_masks(masks)}
        run = {**names, "preset": preset, "seed": seed, **recipe, **data}
    _train(segmenter, masked, recipe, seed=seed, shown=progress, checkpoint=checkpoint, run=run)
    return segmenter


def _recipe(preset: str, given: Mapping[str, Any]) -> Recipe:
    """The preset with what was given instead, checked."""
    recipe = {**PRESETS[preset], **{k: v for k, v in given.items() if v is not None}}
    if given["epochs"] is not None and given["iterations"] is not None:
        raise ValueError("give epochs or iterations, not both")
    if given["epochs"] is not None:
        recipe["iterations"] = None
    if given["iterations"] is not None:
        recipe["epochs"] = None
    for name in ("batch_size", "accumulate", "epochs", "iterations", "crop"):
        if recipe[name] is not None:
            check_count(name, recipe[name])
    check_positive("learning_rate", recipe["learning_rate"])
    check_not_negative("weight_decay", recipe["weight_decay"])
    check_word("loss", recipe["loss"], LOSSES)
    if given["scales"] is not None:
        check_scales(recipe["scales"])
    if len(recipe["scales"]) and recipe["crop"] is None:
        raise ValueError(
            f"crop is None and scales are {recipe['scales']}, expected a crop as well, so that the "
            "pictures of a batch are of one size"
        )
    return recipe


def _name_of(module: str | nn.Module | None) -> str | None:
    return type(module).__name__ if isinstance(module, nn.Module) else module


def _train(
    segmenter: Segmenter,
    masked: MaskedPictures,
    recipe: Recipe,
    *,
    seed: int,
    shown: bool,
    checkpoint: str | Path | None,
    run: Mapping[str, Any],
) -> None:
    """Train in place."""
    batch, accumulate = recipe["batch_size"], recipe["accumulate"]
    steps_a_pass = -(-len(masked) // (batch * accumulate))
    iterations = recipe["iterations"] or recipe["epochs"] * steps_a_pass
    optimiser = _optimiser(segmenter.net, recipe)
    done = 0
    if checkpoint is not None:
        done = _resume(segmenter, optimiser, checkpoint, run, iterations)
    schedule = polynomial_decay(optimiser, iterations, first=done, every=recipe["decay_every"])
    began = segmenter.losses_[0] if segmenter.losses_ else None
    losses: list[float] = []
    as_first(segmenter.state_dict().values())
    segmenter.train()
    if recipe["fixes_norms"]:
        fix_batch_norm(segmenter)
    try:
        bar = progress_bar(range(done, iterations), what="segmenter", shown=shown)
        for step in bar:
            losses.append(_step(segmenter, masked, recipe, optimiser, step, seed))
            schedule.step()
            began = losses[0] if began is None else began
            if (step + 1) % steps_a_pass and step + 1 < iterations:
                continue
            mean = sum(losses) / len(losses)
            check_loss(mean, began, where=f"step {step + 1}", learning_rate=recipe["learning_rate"])
            segmenter.losses_.append(mean)
            losses = []
            if checkpoint is not None:
                place = {"epoch": step + 1, "run": run}
                save_checkpoint(
                    checkpoint, segmenter.state_dict(), optimiser, segmenter.card(), **place
                )
    finally:
        segmenter.eval()


def _step(
    segmenter: Segmenter,
    masked: MaskedPictures,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    step: int,
    seed: int,
) -> float:
    """One step of the optimiser; returns the loss. All chance in it is of seed and step."""
    batch, accumulate = recipe["batch_size"], recipe["accumulate"]
    device, total = device_of(segmenter), 0.0
    random = torch.Generator().manual_seed(seed * 1_000_003 + step)
    numbers = _numbers(len(masked), step * batch * accumulate, batch * accumulate, seed)
    optimiser.zero_grad()
    with seeded(seed, step, device), norms_of_whole_batches(segmenter):
        for start in range(0, len(numbers), batch):
            images, masks = masked.batch(numbers[start : start + batch], random)
            _check_values(masks, len(segmenter.classes))
            loss = _loss(segmenter, images.to(device), masks.to(device), recipe) / accumulate
            loss.backward()
            total += loss.item()
    sum_gradients(optimiser)
    optimiser.step()
    return totals({"loss": total})["loss"]


def _loss(segmenter: Segmenter, images: Tensor, masks: Tensor, recipe: Recipe) -> Tensor:
    loss = LOSSES[recipe["loss"]]
    net = segmenter if recipe["full_size"] else segmenter.net
    return multi_scale_loss(net, images, masks, loss=loss, scales=recipe["loss_scales"])


def _numbers(n: int, first: int, count: int, seed: int) -> list[int]:
    """Which pictures come next: shuffled passes one after the other, from anywhere among them."""
    found: list[int] = []
    while len(found) < count:
        a_pass, place = divmod(first + len(found), n)
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 + a_pass)
        order = torch.randperm(n, generator=random).tolist()
        found += order[place : place + count - len(found)]
    return found


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe["learning_rate"], recipe["weight_decay"]
    groups = [{"params": list(net.parameters()), "lr": rate}]
    if hasattr(net, "groups"):
        groups = net.groups(rate)
    if recipe["optimiser"] == "adamw":
        return torch.optim.AdamW(groups, weight_decay=decay)
    return torch.optim.SGD(groups, momentum=recipe["momentum"], weight_decay=decay)


def _check_values(masks: Tensor, n_classes: int) -> None:
    wrong = (masks != IGNORE_INDEX) & ((masks < 0) | (masks > n_classes))
    if wrong.any():
        raise ValueError(
            f"a mask holds {masks[wrong][0].item()}, expected 0 to {n_classes} or {IGNORE_INDEX}; "
            "check the class list, and that masks are read as indices, not as colours"
        )


def _resume(
    segmenter: Segmenter,
    optimiser: torch.optim.Optimizer,
    path: str | Path,
    run: Mapping[str, Any],
    iterations: int,
) -> int:
    """Take a checkpoint's weights and moments; returns the steps it has done."""
    kind = {"method": METHOD, "version": CARD_VERSION, "keys": ("losses", "classes")}
    found = load_checkpoint(path, **kind, classes=segmenter.classes, run=run, epochs=iterations)
    if found is None:
        return 0
    tensors, card = found
    segmenter.load_state_dict({name: tensors[name] for name in segmenter.state_dict()})
    restore_optimiser(optimiser, tensors)
    segmenter.losses_ = list(card["losses"])
    return card["epoch"]
