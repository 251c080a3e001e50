"""One training loop for every method: batches, schedule, checkpoints, several processes.

A network that is trained has ``loss(*tensors)``, which returns named losses with ``"total"`` among
them, and ``parameter_groups()``. A recipe is a dictionary with the numbers of a run, see `fit`.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from wsss_kit.checkpoints import Checkpoint, restore_optimiser
from wsss_kit.processes import join, progress, rank, synchronised_norms, total, usual_workers, world
from wsss_kit.views import Chance

Recipe = Mapping[str, Any]
Losses = dict[str, float]

SAVE_AFTER = 300  # seconds after which a checkpoint is written within an epoch
_READ_AFTER = 20  # steps on a GPU between two looks at the losses, each of which waits for it


def columns(presets: Sequence[str], table: Mapping[str, tuple]) -> dict[str, dict[str, Any]]:
    """Turn a table with a row for each choice and a column for each preset into the presets.

    Example:
        >>> columns(("reference", "clean"), {"k": (10, 4), "flip": (True, True)})["clean"]
        {'k': 4, 'flip': True}
    """
    return {
        preset: {choice: row[column] for choice, row in table.items()}
        for column, preset in enumerate(presets)
    }


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's weights; the CPU for one without weights."""
    return next(module.parameters(), torch.empty(0)).device


def for_weights_of(module: nn.Module, images: Tensor) -> Tensor:
    """Bring images to the device and the dtype of a module's weights."""
    return images.to(next(module.parameters(), torch.empty(0)))


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the layers of batch normalisation, to keep their statistics or weights fixed."""
    norm = nn.modules.batchnorm._BatchNorm  # synchronised ones too
    return [layer for layer in module.modules() if isinstance(layer, norm)]


# -- batches ----------------------------------------------------------------------------------


class Data(Protocol):
    """What a network learns from."""

    def __len__(self) -> int:
        """Return the number of images."""

    def batch(self, numbers: Sequence[int], chance: Chance) -> Sequence[Tensor]:
        """Return the tensors of some images, (B, ...) each, on the CPU.

        ``chance(1 + number)`` is the random generator of an image in this pass, ``chance(0)`` one
        of the whole pass.
        """


def generator(seed: int, *numbers: int) -> torch.Generator:
    """Create a random generator that is seeded by several numbers, such as epoch and index."""
    for number in numbers:
        seed = seed * 1_000_003 + number
    return torch.Generator().manual_seed(seed % 2**63)


class _Batches(Dataset):
    """Batch number to the tensors of this process's images; every pass has an order of its own.

    The choices of an image's view depend on seed, pass and image alone: neither on what was drawn
    before, nor on the number of processes.
    """

    def __init__(self, data: Data, recipe: Recipe) -> None:
        self.data, self.seed, self.size = data, recipe["seed"], recipe["batch_size"]
        self.first_pass = recipe.get("first_pass", 0)
        whole = recipe.get("drop_last", False) and len(data) >= self.size
        a_pass = len(data) // self.size if whole else -(-len(data) // self.size)
        if world() > 1 and not whole and 0 < len(data) % self.size < world():
            a_pass -= 1  # fewer images than processes
        # worker processes do not know the group
        self.a_pass, self.world, self.order = a_pass, (rank(), world()), (-1, [])
        if not a_pass or self.size < world():
            raise ValueError(
                f"there are {len(data)} images in batches of {self.size} for {world()} processes, "
                "expected at least one image of a batch for each"
            )

    def __getitem__(self, index: int) -> Sequence[Tensor]:
        a_pass, place = divmod(index, self.a_pass)
        a_pass += self.first_pass
        if self.order[0] != a_pass:
            random = generator(self.seed, a_pass)
            self.order = a_pass, torch.randperm(len(self.data), generator=random).tolist()
        numbers = self.order[1][place * self.size : (place + 1) * self.size]
        numbers = numbers[self.world[0] :: self.world[1]]
        return self.data.batch(numbers, partial(generator, self.seed, a_pass))


# -- optimiser and schedule -------------------------------------------------------------------


def optimiser_of(network: Any, recipe: Recipe) -> Optimizer:
    """Create SGD, or AdamW where the recipe says ``"adamw"``, for a network's parameter groups.

    Args:
        network: its groups may have ``lr_scale``, a factor on the learning rate, and
            ``weight_decay``.
        recipe: with ``learning_rate``, ``weight_decay`` and, for SGD, ``momentum``.
    """
    groups = []
    for group in network.parameter_groups():
        group = dict(group, params=list(group["params"]))
        group["lr"] = group["peak"] = recipe["learning_rate"] * group.pop("lr_scale", 1.0)
        groups.append(group)
    options = {"lr": recipe["learning_rate"], "weight_decay": recipe["weight_decay"]}
    if recipe.get("optimiser") == "adamw":
        return torch.optim.AdamW(groups, betas=recipe.get("betas", (0.9, 0.999)), **options)
    return torch.optim.SGD(groups, momentum=recipe["momentum"], **options)


def rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Return the factor on the learning rate of a step.

    Args:
        step: from 0.
        steps: over which the rate falls to 0.
        recipe: ``decay``: ``"polynomial"`` (the default, of power 0.9), ``"cosine"``, or ``"late"``
            for a fall over the last share ``fall`` of the steps;
            ``decay_every``: steps between two changes; ``warmup``: steps of a linear rise.

    Example:
        >>> [round(rate_factor(step, 4, {"warmup": 2}), 3) for step in range(4)]
        [0.5, 0.772, 0.536, 0.287]
    """
    every, warmup = recipe.get("decay_every", 1), recipe.get("warmup", 0)
    share = min(1.0, step // every * every / steps)
    fall = (1 - share) ** 0.9
    if recipe.get("decay") == "cosine":
        fall = 0.5 + 0.5 * math.cos(math.pi * share)
    elif recipe.get("decay") == "late":
        left = min(1.0, (1 - share) / max(recipe["fall"], 1 / steps))
        fall = math.sin(math.pi / 2 * left) ** 2
    return fall * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


# -- divergence -------------------------------------------------------------------------------


class Diverged(RuntimeError):
    """The error for a training whose loss is NaN, infinite or far above what is sound."""


def check_loss(loss: float, sound: float, *, where: str, learning_rate: float) -> None:
    """Raise an error if a training diverges.

    Args:
        loss: of a step, or the mean over some.
        sound: a value that is no cause for doubt, see `fit`.
        where: of the training, such as ``"epoch 3"``.
        learning_rate: for the advice.

    Raises:
        Diverged: if the loss is NaN, infinite or more than ten times the sound one.
    """
    if loss <= 10 * sound:  # NaN fails
        return
    raise Diverged(
        f"training diverged in {where}: its loss is {loss:.3g} and a sound one is {sound:.3g}; "
        f"try a learning rate below {learning_rate:g}, pretrained weights, or look for images "
        "that are not RGB in [0, 1]"
    )


# -- the loop ---------------------------------------------------------------------------------


class _Losses(nn.Module):
    """A network whose forward pass is its loss, as what averages gradients needs it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        return self.network.loss(*tensors)


def fit(
    network: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    what: str,
    checkpoint: Checkpoint | None = None,
    after_epoch: Callable[[int, Losses], object] = lambda epoch, losses: None,
) -> list[Losses]:
    """Train a network; equal seeds give equal weights, resumed or not.

    Under ``torchrun``, ``accelerate launch`` or accelerate's ``notebook_launcher`` all processes
    share every batch. On CUDA the loss is computed in mixed precision (bfloat16).

    Args:
        network: with ``loss`` and ``parameter_groups``, and perhaps ``after_step(step)``; what its
            ``train()`` leaves in evaluation mode stays there. It is in evaluation mode afterwards.
        data: images, see `Data`.
        recipe: ``batch_size``, ``learning_rate``, ``weight_decay``, ``seed`` and ``epochs``, or
            ``iterations`` (steps) instead. Perhaps ``optimiser``, ``momentum`` and ``betas``, see
            `optimiser_of`; ``decay``, ``decay_every`` and ``warmup``, see `rate_factor`;
            ``schedule``, epochs after which the rate would be 0; ``accumulate``, batches whose
            gradients are averaged for a step; ``drop_last``, whether the last, partial batch of a
            pass is left out; ``clip_norm`` of gradients; ``workers``, processes that read images;
            ``first_pass``, passes of earlier parts of a training, so that each has an order of its
            own; ``sound``, the loss of a network that knows nothing; ``shown``, for a bar.
        what: name of the bar.
        checkpoint: where the state is kept, after every epoch and every few minutes; None for
            nowhere. A stopped run goes on from there.
        after_epoch: called with the number of the epoch and its mean losses.

    Returns:
        The mean losses of every epoch.

    Raises:
        Diverged: if a loss is NaN or infinite, or the mean of an epoch is more than ten times the
            first loss of all and ``sound``.
        ValueError: if the checkpoint is of another run, or there are fewer images than processes.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    device, seed, first = device_of(network), recipe["seed"], recipe.get("first_pass", 0)
    join(str(device))
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(device_placement=False, kwargs_handlers=[unused])
    batches, parts = _Batches(data, recipe), recipe.get("accumulate", 1)
    count = (recipe.get("iterations") or 0) * parts or recipe["epochs"] * batches.a_pass
    steps = falls = -(-count // parts)
    if recipe.get("schedule"):
        falls = recipe["schedule"] * batches.a_pass // parts
    optimiser = optimiser_of(network, recipe)
    state = checkpoint.load(network, steps) if checkpoint else {}
    restore_optimiser(optimiser, state.get("tensors", {}))
    step, epochs = state.get("step", 0), state.get("epochs", [])
    sums, rate = state.get("sums", {}), recipe["learning_rate"]
    sound: Any = state.get("sound")
    learning = {id(p) for group in optimiser.param_groups for p in group["params"]}
    still = [p for p in network.parameters() if p.requires_grad and id(p) not in learning]
    on_gpu, workers = device.type == "cuda", recipe.get("workers")
    workers = usual_workers(device) if workers is None else workers
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(step * parts, count),
        num_workers=workers,
        pin_memory=on_gpu,
        prefetch_factor=4 if workers else None,
    )
    bar: Any = progress((), what=what, shown=recipe.get("shown", False), total=steps)
    bar.update(step)
    waiting: list[dict[str, Tensor]] = []  # losses that were not read yet
    saved, unsaved = time.monotonic(), False

    def look(number: int, ends: bool) -> None:
        """Read the losses that wait; ``number`` is their last batch, ``ends`` if of its epoch."""
        nonlocal sound
        where, losses = f"{what}, epoch {len(epochs) + 1}", {}
        rows = torch.stack([torch.stack(list(each.values())) for each in waiting])
        for row in (total(rows.double()) / world()).tolist():
            losses = dict(zip(waiting[0], row, strict=True))
            sound = max(losses["total"], recipe.get("sound", 0.0)) if sound is None else sound
            if not math.isfinite(losses["total"]):
                check_loss(losses["total"], sound, where=where, learning_rate=rate)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
        waiting.clear()
        bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
        if ends:
            n = number % batches.a_pass + 1
            means = {name: value / n for name, value in sums.items()}
            check_loss(means["total"], sound, where=where, learning_rate=rate)
            sums.clear()
            network.eval()
            after_epoch(len(epochs), means)
            epochs.append(means)
            network.train()

    try:
        for parameter in still:
            parameter.requires_grad_(False)
        losses_of = accelerator.prepare(_Losses(network))
        network.train()
        with torch.random.fork_rng([device] if on_gpu else []), synchronised_norms(network):
            for number, tensors in enumerate(loader, step * parts):
                if number % parts == 0:
                    # of dropout; torch.manual_seed would remember each call for a GPU
                    torch.default_generator.manual_seed(seed * 1_000_003 + first + step)
                    if on_gpu:
                        torch.cuda.manual_seed(seed * 1_000_003 + first + step)
                    factor = rate_factor(step, falls, recipe)
                    for group in optimiser.param_groups:
                        group["lr"] = factor * group["peak"]
                    optimiser.zero_grad(set_to_none=True)
                last = (number + 1) % parts == 0 or number + 1 == count
                tensors = [tensor.to(device, non_blocking=True) for tensor in tensors]
                with nullcontext() if last else accelerator.no_sync(losses_of):
                    with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                        losses = losses_of(*tensors)
                    accelerator.backward(losses["total"] / parts)
                waiting.append({name: value.detach().float() for name, value in losses.items()})
                ends = (number + 1) % batches.a_pass == 0 or number + 1 == count
                if last:
                    if recipe.get("clip_norm"):
                        accelerator.clip_grad_norm_(losses_of.parameters(), recipe["clip_norm"])
                    optimiser.step()
                    if callable(after_step := getattr(network, "after_step", None)):
                        after_step(step)
                    step += 1
                    bar.update()
                if ends or not on_gpu or len(waiting) >= _READ_AFTER:
                    look(number, ends)
                unsaved = unsaved or ends or time.monotonic() - saved > SAVE_AFTER
                if checkpoint and last and unsaved and not waiting:
                    progress_made = {"step": step, "epochs": epochs, "sums": sums, "sound": sound}
                    checkpoint.save(network, optimiser, progress_made)
                    saved, unsaved = time.monotonic(), False
        if epochs and not any(each["total"] for each in epochs):
            warnings.warn(f"every loss of {what} was 0: the images taught nothing", stacklevel=4)
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
        network.eval()
        bar.close()
    return epochs
