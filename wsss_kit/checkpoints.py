"""Checkpoints: save and resume a training; refuse the checkpoint of another one."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from wsss_kit.classes import Sample
from wsss_kit.files import check_card, check_classes, load_model, save_model, weights_path
from wsss_kit.processes import rank, settle
from wsss_kit.training import labels_of

CHECKPOINT = "checkpoint"
"""Name of what a resumable run leaves in its folder."""
_PREFIX = "optimiser."


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


def save_checkpoint(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    optimiser: Optimizer,
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
    loaded = load_model(path) if weights_path(path).with_suffix(".json").exists() else None
    settle()
    if loaded is None:
        return None
    tensors, card = loaded
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


def check_same_run(stored: Mapping[str, Any], run: Mapping[str, Any], where: str | Path) -> None:
    """Raise an error if a checkpoint is of another run.

    Args:
        stored: what the checkpoint says of its run.
        run: settings of the current run, under the same names.
        where: path of the checkpoint, for the message.

    Raises:
        ValueError: naming the first difference.
    """
    for key, wanted in json.loads(json.dumps(run)).items():
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
    names = getattr(samples, "names", None) or [sample.name for sample in samples]
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(samples[0].image.detach().cpu().contiguous().numpy().tobytes())
    if hasattr(samples, "image_labels") or isinstance(samples, (list, tuple)):
        digest.update(labels_of(samples).numpy().tobytes())
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


Place = tuple[str | Path, Mapping[str, Any]]
"""Path of a training's checkpoint, and what has to agree for a later one to be the same run."""


class Resumable:
    """What is trained and saved: weights, a card that describes them, and ``losses_``.

    A subclass that is an ``nn.Module`` names its method and its card's values. Another one also
    says by `_tensors` and `_take` what its weights are.
    """

    METHOD: ClassVar[str]
    VERSION: ClassVar[int] = 1
    SAVED: ClassVar[tuple[str, ...]] = ()
    """Further keys of the card, attributes unless `card` says otherwise."""
    losses_: list[Any]

    def card(self) -> dict[str, Any]:
        """Return the description that is saved beside the weights."""
        saved = {name: getattr(self, name, None) for name in self.SAVED}
        return {"method": self.METHOD, "version": self.VERSION, **saved, "losses": self.losses_}

    def save(self, path: str | Path) -> Path:
        """Write ``NAME.safetensors`` and ``NAME.json``; return the first.

        Raises:
            RuntimeError: if it has learned nothing yet.
        """
        if not hasattr(self, "losses_"):
            raise RuntimeError("nothing to save yet; call fit first")
        return save_model(path, self._tensors(), self.card())

    @classmethod
    def _keys(cls) -> tuple[str, ...]:
        """Return the keys that a card must have."""
        return (*cls.SAVED, "losses")

    @classmethod
    def _read(cls, path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read weights and card."""
        tensors, card = load_model(path)
        check_card(card, path, method=cls.METHOD, version=cls.VERSION, keys=cls._keys())
        return tensors, card

    def _tensors(self) -> dict[str, Tensor]:
        """Return the weights to save."""
        return self.state_dict()

    def _state(self) -> dict[str, Tensor]:
        """Return the weights of a checkpoint."""
        return self._tensors()

    def _take(self, tensors: Mapping[str, Tensor], card: Mapping[str, Any], path: Any) -> None:
        """Load what `_state` and the card have of a training."""
        try:
            self.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_PREFIX)})
        except RuntimeError as error:
            name = card.get("network", card["backbone"])
            raise ValueError(
                f"{path} has the weights of another network than {name} ({error}); give the module "
                "that it was saved with"
            ) from error
        self.losses_ = list(card["losses"])

    def _resume(self, place: Place | None, epochs: int) -> tuple[dict[str, Tensor], int]:
        """Load the checkpoint of a run: its tensors and epochs; nothing and 0 without one."""
        if place is None:
            return {}, 0
        path, run = place
        same = {"method": self.METHOD, "version": self.VERSION, "keys": (*self._keys(), "classes")}
        classes = self.card().get("classes", ())
        loaded = load_checkpoint(path, **same, classes=classes, run=run, epochs=epochs)
        if loaded is None:
            return {}, 0
        self._take(*loaded, path)
        return loaded[0], loaded[1]["epoch"]

    def _save_state(self, place: Place | None, optimiser: Optimizer, epoch: int) -> None:
        """Write a checkpoint after ``epoch`` epochs, if there is a place for it."""
        if place is not None:
            path, run = place
            card = {"classes": [], **self.card()}
            save_checkpoint(path, self._state(), optimiser, card, epoch=epoch, run=run)

    def _after_epoch(
        self, place: Place | None, optimiser: Optimizer, before: int = 0
    ) -> Callable[[int, dict[str, float]], None]:
        """Return a function for `train_epochs` that keeps losses and writes a checkpoint."""

        def after_epoch(epoch: int, losses: dict[str, float]) -> None:
            self.losses_.append(losses if len(losses) > 1 else losses["total"])
            self._save_state(place, optimiser, before + epoch + 1)

        return after_epoch
