"""Checkpoints: save and resume a training; refuse the checkpoint of another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.classes import Sample
from wsss_kit.files import check_card, check_classes, load_model, save_model, weights_path
from wsss_kit.processes import rank, settle
from wsss_kit.training import labels_of

CHECKPOINT = "checkpoint"
"""Name of what a resumable run leaves in its folder."""
_PREFIX = "optimiser."


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
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


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the moments that `optimiser_tensors` returned; other tensors are ignored."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_PREFIX):
            number, name = key.removeprefix(_PREFIX).split(".")
            state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def save_checkpoint(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    card: Mapping[str, Any],
    *,
    epoch: int,
    run: Mapping[str, Any],
) -> None:
    """Write weights, moments and epoch of a training as a pair of files, from the first process.

    Args:
        path: of the weights, with or without ending.
        tensors: the weights.
        optimiser: whose moments go along.
        card: of the method.
        epoch: epochs done.
        run: what has to agree for a later training to be the same run.
    """
    if rank():
        return
    card = {**card, "epoch": epoch, "run": run, "optimiser": type(optimiser).__name__}
    save_model(path, {**tensors, **optimiser_tensors(optimiser)}, card)


def load_checkpoint(
    path: str | Path,
    *,
    method: str,
    version: int,
    keys: Sequence[str],
    classes: Sequence[str],
    run: Mapping[str, Any],
    epochs: int,
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save_checkpoint` wrote, if it is of this run; all read before one writes again.

    Args:
        path: as given to `save_checkpoint`.
        method: whose card is expected.
        version: of the card.
        keys: what the card must hold, beside what `save_checkpoint` adds.
        classes: names that it has to be for.
        run: what has to agree.
        epochs: as many as are asked for.

    Returns:
        (tensors, card), or None where there is no checkpoint.

    Raises:
        ValueError: if it is damaged, of another method, version, class list or run, or has done
            more epochs than are asked for.
    """
    found = load_model(path) if weights_path(path).with_suffix(".json").exists() else None
    settle()
    if found is None:
        return None
    tensors, card = found
    added = ("epoch", "run", "optimiser")
    check_card(card, path, method=method, version=version, keys=(*keys, *added))
    check_classes(card, classes, path)
    check_same_run(card["run"], run, path)
    if card["epoch"] > epochs:
        raise ValueError(
            f"{path} has done {card['epoch']} epochs, and {epochs} are asked for; use another "
            "path, or ask for at least as many"
        )
    return tensors, card


def resume(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    path: str | Path | None,
    **asked: Any,
) -> int:
    """Load weights, moments and ``losses_`` of a checkpoint into a module; return its epochs.

    Args:
        module: with ``losses_``.
        optimiser: of the training.
        path: as given to `save_checkpoint`; None for a training without one.
        **asked: what `load_checkpoint` checks, beside the keys.

    Returns:
        The epochs done; 0 where there is no checkpoint.

    Raises:
        ValueError: as `load_checkpoint`.
    """
    keys = ("losses", "classes")
    stored = None if path is None else load_checkpoint(path, keys=keys, **asked)
    if stored is None:
        return 0
    tensors, card = stored
    module.load_state_dict({name: tensors[name] for name in module.state_dict() if name in tensors})
    restore_optimiser(optimiser, tensors)
    module.losses_ = list(card["losses"])
    return card["epoch"]


def run_of(
    samples: Sequence[Sample],
    card: Mapping[str, Any],
    recipe: Mapping[str, Any],
    *,
    free: Sequence[str],
) -> dict[str, Any]:
    """Return the settings that must be equal for a checkpoint to belong to a run.

    Args:
        samples: the training set.
        card: of the method, for the network and the preset.
        recipe: of the training.
        free: parts of the recipe that may differ; how maps are read out and whether bars are shown
            always may.
    """
    free = ("shown", "scales", "flip", *free)
    return {
        **{key: card[key] for key in ("backbone", "weights", "stride", "preset")},
        **{key: value for key, value in recipe.items() if key not in free},
        "pictures": len(samples),
        "data": fingerprint(samples),
    }


def check_same_run(stored: Mapping[str, Any], asked: Mapping[str, Any], where: str | Path) -> None:
    """Raise an error if a checkpoint is of another run.

    Args:
        stored: what the checkpoint says of its run.
        asked: what is asked for now, under the same names.
        where: path of the checkpoint, for the message.

    Raises:
        ValueError: naming the first difference.
    """
    for key, wanted in json.loads(json.dumps(asked)).items():
        if stored.get(key) != wanted:
            raise ValueError(
                f"{where} is a checkpoint of a run with {key} {stored.get(key)!r}, and this one "
                f"asks for {wanted!r}; use another path for another run, or the same {key}"
            )


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return a hash of a training set, sixteen letters.

    It covers the names, their order, the first image's pixels and, where no image has to be decoded
    for them, the labels.

    Args:
        samples: M images with labels, at least one.
    """
    found = hashlib.sha256()
    names = getattr(samples, "names", None)
    if names is None:
        names = [sample.name for sample in samples]
    found.update("\n".join(names).encode())
    first = samples[0]
    found.update(first.image.detach().cpu().contiguous().numpy().tobytes())
    if hasattr(samples, "image_labels") or isinstance(samples, (list, tuple)):
        found.update(labels_of(samples).numpy().tobytes())
    return found.hexdigest()[:16]


def fingerprint_masks(masks: Mapping[str, Tensor]) -> str:
    """Return a hash of a set of masks, sixteen letters.

    Args:
        masks: name to (H, W) integers. All names count, and the pixels of up to 64 masks.
    """
    names = sorted(masks)
    found = hashlib.sha256("\n".join(names).encode())
    for name in names[:: max(1, len(names) // 64)]:
        found.update(masks[name].to(torch.uint8).cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
