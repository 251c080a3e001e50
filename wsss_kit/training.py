"""The training loop that all trained methods share: epochs, schedules, augmentation, progress."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from wsss_kit.checks import check_labels
from wsss_kit.classes import Sample
from wsss_kit.processes import as_first, norms_of_whole_batches, rank, sum_gradients, totals

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], *, what: str, shown: bool = True, total: int | None = None
) -> Iterable[Item]:
    """Show a progress bar around an iterable; of several processes only the first shows it."""
    from tqdm.auto import tqdm

    hidden = not shown or rank() > 0
    return tqdm(items, desc=what, disable=hidden, total=total, leave=False, dynamic_ncols=True)


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


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state, for a backbone's dropout, by seed, epoch and process.

    A resumed run then drops the same values as an uninterrupted one. The global state is restored
    afterwards.

    Args:
        seed: of the run.
        epoch: from 0.
        device: whose random state is seeded, beside the CPU's.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + epoch + 7_000_003 * rank())
        yield


def train_epochs(
    step: Callable[..., dict[str, float]],
    data: Any,
    network: nn.Module,
    optimiser: Optimizer,
    recipe: Mapping[str, Any],
    *,
    what: str,
    after_epoch: Callable[[int, dict[str, float]], object] = lambda epoch, losses: None,
    done: int = 0,
    before: int = 0,
    decay: Callable[..., LambdaLR] | None = None,
    fixed: Iterable[nn.Module] = (),
) -> None:
    """Train epoch by epoch; equal seeds give equal weights, resumed or not.

    Args:
        step: of the optimiser, called with images, targets and a random generator; returns named
            losses of the whole batch, ``"total"`` among them.
        data: has a length and ``batch(numbers, random)``, which returns images and targets.
        network: goes to training mode; its batch normalisation sees the batches of all processes.
        optimiser: with its moments where a run is resumed.
        recipe: numbers of the run: ``epochs``, ``batch_size``, ``seed``, ``learning_rate`` (for the
            advice if the loss runs away), ``shown`` (whether to show bars) and perhaps
            ``schedule``, the epochs after which the learning rate is 0.
        what: name of the bar.
        after_epoch: called with the number of the epoch and its mean losses, to log and to save.
        done: epochs done before, of a resumed run.
        before: epochs of earlier parts of the run, so that each has an order of its own.
        decay: of the learning rate; None for `polynomial_decay`.
        fixed: modules that stay in evaluation mode.

    Raises:
        Diverged: if the loss runs away; the last epoch is then neither logged nor saved.
    """
    seed, epochs, began = recipe["seed"], recipe["epochs"], None
    steps = -(-len(data) // recipe["batch_size"])
    whole = steps * (recipe.get("schedule") or epochs)
    schedule = (decay or polynomial_decay)(optimiser, whole, first=done * steps)
    learning = [p for group in optimiser.param_groups for p in group["params"]]
    as_first(dict.fromkeys([*network.parameters(), *network.buffers(), *learning]))
    for epoch in range(done, epochs):
        network.train()
        for module in fixed:
            module.eval()
        sums: dict[str, float] = {}
        order, random = (
            torch.Generator().manual_seed(seed * 1_000_003 + before + epoch) for _ in range(2)
        )
        rows = torch.randperm(len(data), generator=order).split(recipe["batch_size"])
        named = f"{what}, epoch {epoch + 1}"
        bar = progress(rows, what=f"{named} of {epochs}", shown=recipe["shown"])
        with seeded(seed, before + epoch, device_of(network)), norms_of_whole_batches(network):
            for numbers in bar:
                losses = step(*data.batch(numbers.tolist(), order), random)
                schedule.step()
                began = losses["total"] if began is None else began
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value / steps
                bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
        check_loss(sums["total"], began, where=named, learning_rate=recipe["learning_rate"])
        after_epoch(epoch, sums)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's weights; the CPU for one without weights."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the layers of batch normalisation, to keep their statistics or weights fixed."""
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def descend(losses: Mapping[str, Tensor], optimiser: Optimizer) -> dict[str, float]:
    """Take one optimiser step on ``losses["total"]``; return the losses summed over processes."""
    optimiser.zero_grad(set_to_none=True)
    losses["total"].backward()
    sum_gradients(optimiser)
    optimiser.step()
    return totals({name: value.item() for name, value in losses.items()})


def polynomial_decay(
    optimiser: Optimizer, steps: int, *, power: float = 0.9, every: int = 1, **options: int
) -> LambdaLR:
    """Multiply learning rates by ``(1 - step / steps) ** power``.

    Args:
        optimiser: whose groups are scheduled.
        steps: length of the run; the rate reaches 0 at its end.
        power: of the polynomial; the papers use 0.9.
        every: steps between two changes (DeepLab's code: 10).
        **options: ``warmup``, steps of a linear rise to the full rate, and ``first``, the steps
            that a resumed run has done before.

    Returns:
        A scheduler to step after every optimiser step.
    """
    return _scheduled(
        optimiser, lambda step: max(0.0, 1 - step // every * every / steps) ** power, **options
    )


def cosine_decay(optimiser: Optimizer, steps: int, **options: int) -> LambdaLR:
    """Multiply learning rates by half a cosine that ends at 0; see `polynomial_decay`."""
    return _scheduled(
        optimiser, lambda step: 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)), **options
    )


def _scheduled(
    optimiser: Optimizer, fall: Callable[[int], float], warmup: int = 0, first: int = 0
) -> LambdaLR:
    """Schedule rates that rise for ``warmup`` steps and fall by a factor on the first ones."""
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(
        optimiser,
        lambda step: fall(step) * (min(1.0, (step + 1) / warmup) if warmup else 1.0),
        last_epoch=first - 1,
    )


def augment(
    image: Tensor,
    generator: torch.Generator,
    *,
    crop: int | None,
    long_side: tuple[int, int] | None,
) -> Tensor:
    """Return a random view of an image for training.

    Args:
        image: (3, H, W) RGB in [0, 1].
        generator: of the random choices.
        crop: side of the square crop, zero padded where the image is smaller; None keeps the
            image's size and shifts it by up to a tenth, mirrored at the border.
        long_side: range in pixels that the longer side is resized to before cropping; None keeps
            the size.

    Returns:
        (3, crop, crop), or (3, H, W) without a crop.
    """

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    if integer(0, 1):
        image = image.flip(-1)
    if long_side is not None:
        factor = integer(*long_side) / max(image.shape[-2:])
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    H, W = image.shape[-2:]
    if crop is None:
        dy, dx = H // 10, W // 10
        padded = F.pad(image[None], (dx, dx, dy, dy), mode="reflect")[0] if dy and dx else image
        top, left = integer(0, padded.shape[-2] - H), integer(0, padded.shape[-1] - W)
        return padded[:, top : top + H, left : left + W]
    y, x = integer(0, abs(H - crop)), integer(0, abs(W - crop))
    top, left = (-y if crop < H else y), (-x if crop < W else x)
    return F.pad(image, (left, crop - W - left, top, crop - H - top))  # below 0 it cuts off


def skip_augment(generator: torch.Generator, *, long_side: tuple[int, int] | None) -> None:
    """Draw the random numbers of `augment`, for an image that another process sees."""
    torch.randint(2, (3 if long_side is None else 4,), generator=generator)


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """Return the checked image-level labels of all samples; lazy samples are not decoded.

    Args:
        samples: M images with labels.

    Returns:
        (M, C) float32 of 0 and 1.

    Raises:
        ValueError: naming the first sample whose labels are of another number than the first
            one's, or anything but 0 and 1.
    """
    if hasattr(samples, "image_labels"):
        names, rows = samples.names, list(samples.image_labels())
    else:
        names, rows = zip(*((sample.name, sample.labels) for sample in samples), strict=True)
    for name, row in zip(names, rows, strict=True):
        if row.ndim != 1 or row.shape != rows[0].shape:
            wanted = f"{tuple(rows[0].shape)} as those of {names[0]!r}" if row.ndim == 1 else "(C,)"
            raise ValueError(
                f"labels of {name!r} have shape {tuple(row.shape)}, expected {wanted}: one number "
                "a class"
            )
    labels = torch.stack(rows)
    odd = ((labels != 0) & (labels != 1)).any(1)
    if odd.any():
        first = int(odd.nonzero()[0])
        check_labels(labels[first], f"labels of {names[first]!r}")
    return labels.float()


class Diverged(RuntimeError):
    """The error for a training whose loss is NaN, infinite or far above its first value."""


def check_loss(loss: float, first: float, *, where: str, learning_rate: float) -> None:
    """Raise an error if a training diverges.

    Args:
        loss: mean over an epoch or some steps.
        first: loss of the first step of all.
        where: of the training, such as ``"epoch 3"``.
        learning_rate: for the advice.

    Raises:
        Diverged: if the loss is NaN, infinite or more than ten times the first one.
    """
    if loss <= 10 * max(first, 1e-6):  # NaN fails
        return
    raise Diverged(
        f"training diverged in {where}: its loss is {loss:.3g} and began at {first:.3g}; "
        f"try a learning rate below {learning_rate:g}, pretrained weights, or look for images "
        "that are not RGB in [0, 1]"
    )


def classes_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the class names of a data set, or ``class 1`` and so on if it names none.

    Raises:
        ValueError: if the first sample has another number of labels than there are names.
    """
    n_labels = labels_of([next(iter(samples))]).shape[1]
    names = getattr(samples, "classes", None)
    if names is None:
        return tuple(f"class {c + 1}" for c in range(n_labels))
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"the samples name {twice[0]!r} twice, expected different classes")
    if n_labels != len(names):
        raise ValueError(
            f"the samples name {len(names)} classes but the first has {n_labels} labels; "
            "expected one label a class"
        )
    return tuple(names)
