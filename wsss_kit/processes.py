"""Several processes on one training or one set of masks, started by torchrun or accelerate.

Every process holds the whole network and takes its own images of every batch: number ``rank``,
``rank + world`` and so on. `engine.fit` averages gradients over them. A loss that is a mean over
pairs or pixels divides by `mean_count`, so that the average is the mean over the whole batch.

Alone, every function here returns at once.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

Item = TypeVar("Item")


def place_in_run() -> tuple[int, int]:
    """Return this process's number and how many there are, as the launcher set them; alone (0, 1).

    Raises:
        ValueError: if the environment holds no such pair of numbers.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    variables = os.environ.get("RANK", "0" if world == "1" else "none"), world
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


def usual_workers(device: torch.device) -> int:
    """Return how many processes read images: up to 8 beside a GPU, none on a CPU.

    On a CPU they would share its cores with the computation.
    """
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0


def join(device: str = "auto") -> None:
    """Join the processes of a ``torchrun``, ``accelerate`` or notebook launch; alone do nothing.

    Args:
        device: of this process.
    """
    if place_in_run()[1] == 1 or distributed.is_initialized():
        return
    on_gpu = own_device(device).startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(own_device(device))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    from accelerate import PartialState

    PartialState(cpu=not on_gpu)  # what accelerate knows of the processes from here on


@contextmanager
def joined(device: str = "auto") -> Iterator[str]:
    """Context manager: `join` the other processes, and leave them at the end.

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
    was_joined = world() > 1
    join(device)
    try:
        yield own_device(device)
        settle()  # nobody leaves while another one still sends
    finally:
        if world() > 1 and not was_joined:
            from accelerate.state import AcceleratorState

            gc.collect()  # wrapped networks would use the group when the interpreter ends
            distributed.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)


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


def plan_batches(
    names: Sequence[str],
    size_of: Callable[[str], tuple[int, int]],
    batch_size: int,
    *,
    side: int = 1,
) -> list[list[int]]:
    """List the images of every batch by number: of equal size, in the order of the data set.

    Args:
        names: of the images.
        size_of: name to (H, W).
        batch_size: at most so many together.
        side: sizes are rounded up to multiples of it first.

    Returns:
        Batches in the order of their first image; one whose size cannot be read is alone.
    """
    if batch_size == 1:  # no size has to be read
        return [[number] for number in range(len(names))]
    open_batches: dict[Any, list[int]] = {}
    batches: list[list[int]] = []
    for number, name in enumerate(names):
        try:
            size: Any = tuple(-(-length // side) for length in size_of(name))
        except (OSError, ValueError):
            size = number  # its own batch, where reading it says why
        if len(open_batches.get(size, ())) in (0, batch_size):
            open_batches[size] = []
            batches.append(open_batches[size])
        open_batches[size].append(number)
    return batches


def total(value: Tensor) -> Tensor:
    """Sum a tensor over the processes, without a graph; alone return the tensor itself."""
    if world() == 1:
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value


def mean_count(count: Tensor) -> Tensor:
    """Average a count over the processes: a process's sum divided by it is its part of a mean.

    Args:
        count: of this process's images, pairs or pixels in a batch.

    Returns:
        The average, not less than 1 over the number of processes.
    """
    return (total(count) / world()).clamp(min=1 / world())


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


class LenientStream:
    """A text stream that loses what it cannot write: the disk is full, or nobody reads the pipe."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        """Return what the stream itself has."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text if the stream takes it."""
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if it takes what it holds."""
        with suppress(OSError):
            self.stream.flush()


def progress(
    items: Iterable[Item], *, what: str, shown: bool = True, total: int | None = None
) -> Iterable[Item]:
    """Show a progress bar around an iterable; of several processes only the first shows it."""
    from tqdm.auto import tqdm

    hidden = not shown or rank() > 0 or sys.stderr is None  # pythonw has no standard error
    return tqdm(items, desc=what, disable=hidden, total=total, leave=False, dynamic_ncols=True)


@contextmanager
def synchronised_norms(module: nn.Module) -> Iterator[None]:
    """Context manager: batch normalisation takes the statistics of all processes' images.

    On a GPU the layers are torch's ``SyncBatchNorm`` meanwhile, which a CPU does not have.

    Args:
        module: whose layers are meant; they keep their weights, and their class afterwards.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    layers: list[Any] = [m for m in module.modules() if isinstance(m, batch_norm) and world() > 1]
    classes = [type(layer) for layer in layers]
    for layer in layers:
        on_gpu = layer.running_mean is not None and layer.running_mean.is_cuda
        layer.__class__ = nn.SyncBatchNorm if on_gpu else _SyncBatchNormCPU
        layer.process_group = None
    try:
        yield
    finally:
        for layer, its_class in zip(layers, classes, strict=True):
            layer.__class__ = its_class
            del layer.process_group


class _Sum(torch.autograd.Function):
    """Sum a tensor over the processes, and its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(*gradients)


class _SyncBatchNormCPU(nn.modules.batchnorm._BatchNorm):
    """What ``nn.SyncBatchNorm`` computes, by sums over the processes."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...) by mean and variance over all processes' images."""
        if not self.training:
            return super().forward(input)
        shape = (1, -1, *(1,) * (input.ndim - 2))
        over = [axis for axis in range(input.ndim) if axis != 1]
        count = total(input.new_tensor([input.numel() / input.shape[1]]))
        mean = _Sum.apply(input.sum(over)) / count  # (C,)
        centred = input - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(over)) / count  # (C,)
        if self.running_mean is not None and self.running_var is not None:
            batches: Any = self.num_batches_tracked
            batches.add_(1)
            # without a momentum: a plain average over all batches
            momentum = 1 / int(batches) if self.momentum is None else self.momentum
            unbiased = variance.detach() * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(unbiased, momentum)
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out
