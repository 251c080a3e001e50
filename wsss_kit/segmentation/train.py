"""Train a segmenter on pseudo masks, with the papers' presets; resume a stopped training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checkpoints import Place, fingerprint, fingerprint_masks, restore_optimiser
from wsss_kit.checks import (
    check_count,
    check_given,
    check_not_negative,
    check_positive,
    check_samples,
    check_scales,
    check_word,
    chosen_device,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.classifier.train import optimiser_of
from wsss_kit.processes import as_first, norms_of_whole_batches, sum_gradients, totals
from wsss_kit.segmentation.networks import LOSSES, build_network, multi_scale_loss
from wsss_kit.segmentation.segmenter import Segmenter
from wsss_kit.training import (
    batch_norms,
    check_loss,
    classes_of,
    columns,
    device_of,
    polynomial_decay,
    seeded,
)
from wsss_kit.training import progress as progress_bar
from wsss_kit.views import MaskedImages

Recipe = dict[str, Any]

_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
PRESETS: dict[str, Recipe] = columns(
    ("small", "deeplab"),
    {
        "optimiser": ("adamw", "sgd"),
        "learning_rate": (2e-3, 2.5e-4),
        "momentum": (0.9, 0.9),
        "weight_decay": (0.01, 5e-4),
        "batch_size": (16, 5),
        "accumulate": (1, 2),
        "epochs": (8, None),
        "iterations": (None, 20_000),
        "decay_every": (1, 10),
        "crop": (None, 321),
        "scales": ((), _SCALES),
        "loss": ("plain", "plain"),
        "loss_scales": ((), (0.75, 0.5)),
        "full_size": (True, False),
        "fixes_norms": (False, True),
    },
)
PRESETS["clims_coco"] = PRESETS["deeplab"]
PRESETS["clims_imagenet"] = {
    **PRESETS["deeplab"],
    **{"batch_size": 10, "iterations": 30_000, "scales": (*_SCALES, 1.75, 2.0)},
    "loss": "balanced",
}
PRESETS["clip_es_imagenet"] = {**PRESETS["deeplab"], "learning_rate": 2e-4}
PRESETS["clip_es_coco"] = {**PRESETS["deeplab"], "learning_rate": 2.5e-5}
"""``accumulate``: batches whose gradients are added for one step. ``iterations``: steps; or
``epochs``, passes over the images. ``decay_every``: steps between two changes of the rate, which
falls by a polynomial of power 0.9. ``crop``, ``scales``: see `views.random_view`. ``loss``: one of
`LOSSES`. ``loss_scales``: see `multi_scale_loss`. ``full_size``: whether logits are enlarged
to the mask for the loss, or the mask brought to their grid. ``fixes_norms``: whether batch
normalisation keeps its statistics.

``deeplab`` is the PyTorch code that CLIMS and CLIP-ES train with (and CLIMS' own from COCO's
weights); the others differ as their papers or authors say."""


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
    """Train a network on masks, pseudo or drawn; pixels of 255 are ignored.

    Masks whose doubtful pixels are 255 (``min_confidence`` of the recipes) make this CLIP-ES's
    confidence-guided training.

    Args:
        samples: images; their ``classes``, if they have them, name the mask's values.
        masks: image name to (H, W) int64, class c as c + 1.
        network: one of ``NETWORKS``, or a module (B, 3, H, W) -> (B, K, h, w).
        backbone: see `build_network`.
        weights: see `build_network`.
        preset: one of ``PRESETS``; None for ``"small"``, or ``"deeplab"`` for the DeepLabs.
        taught_by: what the masks are, in words, for the card.
        epochs: passes over the images; this and the next arguments take the preset's value where
            they are None.
        iterations: steps, instead of ``epochs``.
        batch_size: images at a time.
        accumulate: batches a step.
        learning_rate: at the start, of the backbone; it falls by a polynomial of power 0.9.
        weight_decay: of the optimiser.
        crop: side of random square crops; images of several sizes need it.
        scales: factors of which an image is resized by one before it is cropped.
        loss: ``"plain"``, or ``"balanced"`` between background and objects, which keeps a start
            from ImageNet's weights from learning background alone.
        seed: of new weights, order and views.
        device: where to train a named network.
        progress: whether to show a bar.
        checkpoint: path that the state is written to after every pass over the images and resumed
            from.

    Returns:
        A `Segmenter` in evaluation mode, with ``losses_``, the mean of every pass.

    Raises:
        ValueError: if an image has no mask or one of another size or with a value that is no
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
        preset = "deeplab" if network == "deeplab_v2" else "small"
    check_word("preset", preset, PRESETS)
    given = {"epochs": epochs, "iterations": iterations, "batch_size": batch_size, "loss": loss}
    given |= {"accumulate": accumulate, "learning_rate": learning_rate, "crop": crop}
    given |= {"weight_decay": weight_decay, "scales": scales}
    recipe = _recipe(preset, given)
    classes = classes_of(samples)
    masked = MaskedImages(samples, masks, "mask", recipe)
    net = build_network(network, 1 + len(classes), backbone=backbone, weights=weights, seed=seed)
    names = {"network": network, "backbone": backbone}
    for part, value in names.items():
        names[part] = type(value).__name__ if isinstance(value, nn.Module) else value
    segmenter = Segmenter(net, classes, **names, taught_by=taught_by)
    if isinstance(network, str):
        segmenter.to(chosen_device(device))
    place = None
    if checkpoint is not None:
        data = {"data": fingerprint(samples), "masks": fingerprint_masks(masks)}
        place = checkpoint, {**names, "preset": preset, "seed": seed, **recipe, **data}
    _train(segmenter, masked, {**recipe, "seed": seed, "shown": progress}, place)
    return segmenter


def _recipe(preset: str, given: Mapping[str, Any]) -> Recipe:
    """Return the preset with the given arguments in it, checked."""
    recipe = {**PRESETS[preset], **{k: v for k, v in given.items() if v is not None}}
    if given["epochs"] is not None and given["iterations"] is not None:
        raise ValueError("give epochs or iterations, not both")
    for length, other in (("epochs", "iterations"), ("iterations", "epochs")):
        recipe[other] = recipe[other] if given[length] is None else None
    counts = ("batch_size", "accumulate", "epochs", "iterations", "crop")
    check_given(check_count, **{name: recipe[name] for name in counts})
    check_positive("learning_rate", recipe["learning_rate"])
    check_not_negative("weight_decay", recipe["weight_decay"])
    check_word("loss", recipe["loss"], LOSSES)
    if given["scales"] is not None:
        check_scales(recipe["scales"])
    if len(recipe["scales"]) and recipe["crop"] is None:
        raise ValueError(
            f"crop is None and scales are {recipe['scales']}, expected a crop to make sizes equal"
        )
    return recipe


def _train(segmenter: Segmenter, masked: MaskedImages, recipe: Recipe, place: Place | None) -> None:
    """Train in place; the random numbers of a step depend on seed and step alone."""
    seed, batch = recipe["seed"], recipe["batch_size"]
    n_images = batch * recipe["accumulate"]
    steps_a_pass = -(-len(masked) // n_images)
    iterations = recipe["iterations"] or recipe["epochs"] * steps_a_pass
    net, device = segmenter if recipe["full_size"] else segmenter.net, device_of(segmenter)
    options = {"loss": LOSSES[recipe["loss"]], "scales": recipe["loss_scales"]}
    rate, groups = recipe["learning_rate"], segmenter.net.parameters()
    if hasattr(segmenter.net, "groups"):
        groups = segmenter.net.groups(rate)
    optimiser = optimiser_of(groups, recipe)
    stored, done = segmenter._resume(place, iterations)
    restore_optimiser(optimiser, stored)
    schedule = polynomial_decay(optimiser, iterations, first=done, every=recipe["decay_every"])
    keep = segmenter._after_epoch(place, optimiser)

    def train_step(step: int) -> float:
        summed, random = 0.0, torch.Generator().manual_seed(seed * 1_000_003 + step)
        numbers = _numbers(len(masked), step * n_images, n_images, seed)
        optimiser.zero_grad()
        with seeded(seed, step, device), norms_of_whole_batches(segmenter):
            for start in range(0, n_images, batch):
                images, masks = masked.batch(numbers[start : start + batch], random)
                _check_values(masks, len(segmenter.classes))
                loss = multi_scale_loss(net, images.to(device), masks.to(device), **options)
                loss = loss / recipe["accumulate"]
                loss.backward()
                summed += loss.item()
        sum_gradients(optimiser)
        optimiser.step()
        schedule.step()
        return totals({"loss": summed})["loss"]

    began = segmenter.losses_[0] if segmenter.losses_ else None
    losses: list[float] = []
    as_first(segmenter.state_dict().values())
    segmenter.train()
    for layer in batch_norms(segmenter) if recipe["fixes_norms"] else ():
        layer.eval()
    try:
        for step in progress_bar(range(done, iterations), what="segmenter", shown=recipe["shown"]):
            losses.append(train_step(step))
            began = losses[0] if began is None else began
            if (step + 1) % steps_a_pass == 0 or step + 1 == iterations:
                mean, where = sum(losses) / len(losses), f"step {step + 1}"
                check_loss(mean, began, where=where, learning_rate=rate)
                losses = []
                keep(step, {"total": mean})
    finally:
        segmenter.eval()


def _numbers(n: int, first: int, count: int, seed: int) -> list[int]:
    """Return the next images: shuffled passes one after the other, from any position."""
    numbers: list[int] = []
    while len(numbers) < count:
        a_pass, place = divmod(first + len(numbers), n)
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 + a_pass)
        order = torch.randperm(n, generator=random).tolist()
        numbers += order[place : place + count - len(numbers)]
    return numbers


def _check_values(masks: Tensor, n_classes: int) -> None:
    wrong = (masks != IGNORE_INDEX) & ((masks < 0) | (masks > n_classes))
    if wrong.any():
        raise ValueError(
            f"a mask holds {masks[wrong][0].item()}, expected 0 to {n_classes} or {IGNORE_INDEX}; "
            "check the class list, and that masks are read as indices, not as colours"
        )
