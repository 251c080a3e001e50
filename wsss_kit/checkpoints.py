"""Checkpoints: save and resume a training; refuse the checkpoint of another one."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsss_kit.checks import check_count
from wsss_kit.classes import Sample, labels_of
from wsss_kit.files import (
    check_classes,
    check_kinds,
    is_saved,
    load_model,
    plain,
    save_model,
    weights_path,
    write_whole,
)
from wsss_kit.processes import rank, settle

CHECKPOINT = "checkpoint"
"""Name of what a resumable run leaves in its folder."""
_PREFIX = "optimiser."


@dataclass
class Checkpoint:
    """Where the state of a training is kept.

    Beside it ``NAME.losses.csv`` has the mean losses of every epoch, a row each.

    Args:
        path: of the file, with or without ending.
        run: what has to agree for a stored state to be of the same run, JSON-able.
        part: number of the training where a method has several, one after the other.
        before: losses of the earlier parts.
    """

    path: str | Path
    run: Mapping[str, Any]
    part: int = 0
    before: Sequence[Any] = ()

    @cached_property
    def stored(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state, if there is one, read once; all processes read before one writes again.

        Returns:
            (weights and moments, card), or None.

        Raises:
            ValueError: if it is damaged or of another run.
        """
        loaded = load_model(self.path) if is_saved(self.path) else None
        settle()
        if loaded is not None:
            card, what = {"run": {}, "sums": {}, **loaded[1]}, f"the checkpoint {self.path}"
            check_kinds(card, what, lists=("epochs", "before"), objects=("run", "sums"))
            if not isinstance(card.get("sound", 0.0), float | int | None):
                raise ValueError(f"{what} has sound {card['sound']!r}, expected a number")
            for name in ("part", "step"):
                check_count(f"{name} of {what}", card.get(name), least=0)
            check_same_run(card["run"], self.run, self.path)
        return loaded

    @property
    def stored_part(self) -> int:
        """Number of the part that the state is of; -1 where there is none."""
        return self.stored[1]["part"] if self.stored else -1

    def load(self, network: nn.Module, steps: int) -> dict[str, Any]:
        """Load the state of this part into a network.

        Args:
            network: gets the weights.
            steps: of the whole part.

        Returns:
            What `save` was given, and ``tensors`` with the moments; nothing where there is none.

        Raises:
            ValueError: as `stored`, and if more steps are done than are asked for.
        """
        if self.stored_part != self.part:
            return {}
        tensors, card = self.__dict__.pop("stored")  # it is not kept while the training goes on
        if card["step"] > steps:
            raise ValueError(
                f"{self.path} has done {len(card['epochs'])} epochs ({card['step']} steps), and "
                f"{steps} steps are asked for; use another path, or ask for at least as many"
            )
        load_weights(network, tensors, self.path)
        _check_moments(network, tensors, self.path)
        return {**card, "tensors": tensors}

    def save(self, network: nn.Module, optimiser: Optimizer, progress: Mapping[str, Any]) -> None:
        """Write weights, moments and progress, from the first process.

        Args:
            network: whose weights are written.
            optimiser: whose moments go along.
            progress: ``step``, ``epochs`` and what else is to be known again, JSON-able.
        """
        if rank():
            return
        card = {**progress, "run": self.run, "part": self.part, "before": list(self.before)}
        save_model(self.path, {**network.state_dict(), **optimiser_tensors(optimiser)}, card)
        epochs, text = [*self.before, *progress["epochs"]], io.StringIO()
        table = csv.DictWriter(
            text, ["epoch", *(epochs[-1] if epochs else ())], lineterminator="\n"
        )
        table.writeheader()
        table.writerows({"epoch": n, **each} for n, each in enumerate(epochs, 1))
        write_whole(weights_path(self.path).with_suffix(".losses.csv"), text.getvalue())


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a network's weights from a file's tensors, those of an optimiser left out.

    Raises:
        ValueError: if they are of another network.
    """
    try:
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_PREFIX)})
    except RuntimeError as error:
        raise ValueError(
            f"{path} has the weights of another network or backbone: {error}; give the module that "
            "it was saved with"
        ) from error


def _check_moments(network: Any, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise `ValueError` if an optimiser's moments are not those of the network's parameters."""
    learning = [each for group in network.parameter_groups() for each in group["params"]]
    sizes = {str(number): tuple(each.shape) for number, each in enumerate(learning)}
    moments: dict[str, dict[str, tuple[int, ...]]] = {}
    for key in [key for key in tensors if key.startswith(_PREFIX)]:
        number, _, name = key.removeprefix(_PREFIX).partition(".")
        moments.setdefault(number, {})[name] = tuple(tensors[key].shape)
    for number, held in moments.items():
        size = sizes.get(number)
        sgd, adamw = {"momentum_buffer": size}, {"step": (), "exp_avg": size, "exp_avg_sq": size}
        if size is None or held not in (sgd, adamw):
            problem = f"{path} has {_PREFIX}{number} with {held}, expected {sgd} or {adamw}"
            raise ValueError(f"{problem}; copy the file again, or begin again in another folder")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, .safetensors or .pth with ``weights_only``.

    Of a trainer's checkpoint the entry ``state_dict`` or ``model`` is taken, and the prefix
    ``module.`` of a distributed training is left out.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is damaged, of another format or holds more than weights.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; give None, 'imagenet' or a state dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own exceptions
        raise ValueError(f"{path} {unread(error)}") from error
    for key in ("model", "state_dict") * 2:
        state = state[key] if isinstance(state, dict) and key in state else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds {type(state).__name__}, expected a state dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def unread(error: Exception) -> str:
    """Write why a file of weights cannot be read, and what to do."""
    if "weights_only" in str(error):  # torch names its argument where a pickle holds objects
        advice = "if you trust it, load it with weights_only=False and save its state dict alone"
        return f"holds more than weights, and loading it could run code; {advice}"
    reason = str(error).partition("\n")[0]
    return f"is not a whole file of weights ({reason}); it is truncated or of another format"


def load_all(net: nn.Module, state: Mapping[str, Tensor], path: str | Path, *, what: str) -> None:
    """Load a state dict that has all weights.

    Raises:
        ValueError: if weights are missing, unknown or of other shapes.
    """
    try:
        missing, unexpected = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another network: {error}") from error
    lost = [k for k in missing if "num_batches" not in k]
    if lost or unexpected:
        raise ValueError(
            f"{path} does not hold the weights of {what}: {len(lost)} are missing "
            f"({', '.join(lost[:3])}) and {len(unexpected)} are unknown "
            f"({', '.join(unexpected[:3])}); give a state dict of it"
        )


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's moments, to be saved beside the weights.

    Args:
        optimiser: any of torch's.

    Returns:
        ``"optimiser.NUMBER.NAME"`` -> tensor, copied to the CPU; plain numbers as 0-d tensors.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> sgd.step()
        >>> optimiser_tensors(sgd)
        {'optimiser.0.momentum_buffer': tensor([1.])}
    """
    return {
        f"{_PREFIX}{number}.{name}": torch.as_tensor(value).detach().cpu().clone()
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the moments that `optimiser_tensors` returned; other tensors are ignored."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_PREFIX):
            number, name = key.removeprefix(_PREFIX).split(".")
            state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def check_same_run(stored: Mapping[str, Any], run: Mapping[str, Any], where: str | Path) -> None:
    """Raise an error if a checkpoint is of another run.

    Args:
        stored: what the checkpoint says of its run.
        run: settings of the current run, under the same names.
        where: path of the checkpoint, for the message.

    Raises:
        ValueError: naming the first difference.
    """
    for key, wanted in json.loads(json.dumps(run, default=plain)).items():
        if key == "classes" and key in stored:
            check_classes(stored, wanted, where)
        if stored.get(key) != wanted:
            raise ValueError(
                f"{where} is a checkpoint of a run with {key} {stored.get(key)!r}, and this one "
                f"asks for {wanted!r}; use another path for another run, or the same {key}"
            )


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return a hash of a training set, sixteen letters.

    It covers the names, their order, the sizes of the image files, the first image's pixels and,
    where no image has to be decoded for them, the labels.

    Args:
        samples: M images with labels, at least one.
    """
    names = getattr(samples, "names", None) or [sample.name for sample in samples]
    digest = hashlib.sha256("\n".join(names).encode())
    file_of: Any = getattr(samples, "path", None)
    for name in names if callable(file_of) else ():
        path = file_of(name)
        digest.update(str(path.stat().st_size if path.is_file() else None).encode())
    digest.update(samples[0].image.detach().cpu().contiguous().numpy().tobytes())
    if hasattr(samples, "image_labels") or isinstance(samples, (list, tuple)):
        digest.update(labels_of(samples).numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_weights(network: nn.Module) -> str:
    """Return a hash of a network's weights, sixteen letters."""
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def fingerprint_masks(masks: Mapping[str, Tensor]) -> str:
    """Return a hash of a set of masks, sixteen letters.

    Args:
        masks: name to (H, W) integers. All names count, and the pixels of up to 64 masks.
    """
    names = sorted(masks)
    digest = hashlib.sha256("\n".join(names).encode())
    for name in names[:: max(1, len(names) // 64)]:
        digest.update(masks[name].to(torch.uint8).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
