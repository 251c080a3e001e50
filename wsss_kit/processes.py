"""Several processes on one training, as ``torchrun`` starts them, and what one process would do.

Every process holds the whole network and takes its own images of every batch: number ``rank``,
``rank + world`` and so on. Losses and gradients are sums over all of them, divided by what the
whole batch divides by, and batch normalisation sees the whole batch. So the losses of a run are
those of one process within the error of floats. A backbone's own dropout is the exception: its
choices depend on how many processes there are.

Alone, every function here returns at once.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

Item = TypeVar("Item")


def place_in_run() -> tuple[int, int]:
    """Return this process's number and how many there are, as set by ``torchrun``; alone (0, 1).

    Raises:
        ValueError: if the environment holds no such pair of numbers.
    """
    variables = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, variables)
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise ValueError(
            f"the environment has RANK {variables[0]} and WORLD_SIZE {variables[1]}, expected 0 to "
            "WORLD_SIZE - 1 as torchrun sets them; start the processes by torchrun"
        )
    return rank, world


def own_device(device: str = "auto") -> str:
    """Return this process's own GPU for ``"auto"`` and ``"cuda"`` if there are several processes.

    Args:
        device: the chosen device; any other is returned as it is.
    """
    if device in ("auto", "cuda") and place_in_run()[1] > 1 and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return device


@contextmanager
def joined(device: str = "auto") -> Iterator[str]:
    """Context manager: initialise the process group of a ``torchrun`` launch; alone do nothing.

    Every ``fit`` inside shares its batches. Files are written by the first process only.

    Args:
        device: of the work; ``"auto"`` gives every process its own GPU where there are some.

    Yields:
        The device for this process.

    Example:
        >>> with joined("cpu") as device:
        ...     print(device, rank(), world())
        cpu 0 1
    """
    device = own_device(device)
    if place_in_run()[1] == 1 or distributed.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Return the number of this process among those that share a training; 0 alone."""
    return distributed.get_rank() if _shared() else 0


def world() -> int:
    """Return how many processes share a training; 1 alone."""
    return distributed.get_world_size() if _shared() else 1


def _shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def own(items: Sequence[Item]) -> Sequence[Item]:
    """Return this process's part of a batch: every ``world``-th item from its ``rank`` on."""
    return items[rank() :: world()]


def own_views(
    numbers: Sequence[int], view: Callable[[int], Sequence[Tensor]], skip: Callable[[], object]
) -> list[Tensor]:
    """Return this process's views of a batch; random numbers go on as if it made all of them.

    Args:
        numbers: of the images of the whole batch, at least one.
        view: number to tensors, the image first, from as many random numbers as it needs.
        skip: draws as many random numbers as a view.

    Returns:
        The tensors of the views, each stacked (B, ...); B may be 0 in a short batch.

    Raises:
        ValueError: if the images differ in size.
    """
    views, none = [], len(numbers) <= rank()
    for place, number in enumerate(numbers):
        if place % world() == rank() or (none and place == 0):  # one, to know what none looks like
            views.append(view(number))
        else:
            skip()
    if len({image.shape for image, *_ in views}) > 1:
        raise ValueError(
            "the images of a batch differ in size; give fit a crop, for example "
            "crop=512, long_side=(320, 640)"
        )
    stacked = [torch.stack(tensors) for tensors in zip(*views, strict=True)]
    return [tensors[:0] for tensors in stacked] if none else stacked


def total(value: Tensor) -> Tensor:
    """Sum a tensor over the processes, without a graph; alone return the tensor itself."""
    if world() == 1:
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value


def totals(values: dict[str, float]) -> dict[str, float]:
    """Sum named numbers over the processes."""
    if world() == 1:
        return values
    summed = total(torch.tensor(list(values.values()), dtype=torch.float64))
    return dict(zip(values, summed.tolist(), strict=True))


def sum_gradients(optimiser: torch.optim.Optimizer) -> None:
    """Give every process the sum of all gradients of what an optimiser trains."""
    if world() == 1:
        return
    grads = [p.grad for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
    for group in dict.fromkeys((grad.dtype, grad.device) for grad in grads):
        alike = [grad for grad in grads if (grad.dtype, grad.device) == group]
        flat = total(torch.cat([grad.flatten() for grad in alike]))
        for grad, summed in zip(alike, flat.split([g.numel() for g in alike]), strict=True):
            grad.copy_(summed.view_as(grad))


@torch.no_grad()
def as_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process, so that all processes start equal."""
    if world() > 1:
        for tensor in tensors:
            agreed = tensor.detach().contiguous()
            distributed.broadcast(agreed, 0)
            tensor.copy_(agreed)


def settle() -> None:
    """Wait until every process is here."""
    total(torch.zeros(1))


def each(
    items: Sequence[Item],
    work: Callable[[Item], Tensor],
    *,
    bar: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Tensor:
    """Compute a row for every item by all processes together; every process gets all rows.

    Args:
        items: at least one, the same for all processes.
        work: an item to a tensor, of one shape for all items.
        bar: iterates over this process's numbers and shows the progress.

    Returns:
        The rows, stacked in the order of the items.
    """
    numbers = range(rank(), len(items), world())
    rows = torch.stack([work(items[number]) for number in bar(numbers)] or [work(items[0])])
    if world() == 1:
        return rows
    whole = rows.new_zeros(len(items), *rows.shape[1:])
    whole[rank() :: world()] = rows[: len(numbers)]
    return total(whole)


@contextmanager
def norms_of_whole_batches(module: nn.Module) -> Iterator[None]:
    """Context manager: layers that train normalise by the statistics of the whole batch.

    Args:
        module: whose layers of batch normalisation are meant.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    layers = [layer for layer in module.modules() if isinstance(layer, batch_norm) and world() > 1]
    for layer in layers:
        layer.forward = partial(_normalised, layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _total_with_graph(value: Tensor) -> Tensor:
    """Sum a tensor over the processes; its gradient is summed as well."""
    if world() == 1:
        return value
    from torch.distributed.nn import functional

    return functional.all_reduce(value)


def _normalised(layer: nn.modules.batchnorm._BatchNorm, values: Tensor) -> Tensor:
    """Compute a layer's output (B, C, ...) by mean and variance over all processes' images."""
    if not layer.training and layer.running_mean is not None:
        return type(layer).forward(layer, values)
    x = values.float()
    shape = (1, -1, *(1,) * (x.ndim - 2))
    over = [axis for axis in range(x.ndim) if axis != 1]
    count = total(x.new_tensor([x.numel() / x.shape[1]]))
    mean = _total_with_graph(x.sum(over)) / count  # (C,)
    centred = x - mean.view(shape)
    variance = _total_with_graph(centred.square().sum(over)) / count  # (C,)
    if layer.running_mean is not None:
        layer.num_batches_tracked.add_(1)
        # without a momentum: a plain average over all batches
        momentum = 1 / int(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        unbiased = variance.detach() * count / (count - 1).clamp(min=1)
        layer.running_mean.lerp_(mean.detach().to(layer.running_mean), momentum)
        layer.running_var.lerp_(unbiased.to(layer.running_var), momentum)
    out = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.weight is not None:
        out = out * layer.weight.view(shape) + layer.bias.view(shape)
    return out.to(values.dtype)
