"""What every trained method shares: augmentation, schedule, progress, files written whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.classes import Sample

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], *, what: str, shown: bool = True, total: int | None = None
) -> Iterable[Item]:
    """A progress bar in a terminal or a notebook around an iterable."""
    from tqdm.auto import tqdm

    return tqdm(items, desc=what, disable=not shown, total=total, leave=False, dynamic_ncols=True)


def polynomial_decay(
    optimiser: torch.optim.Optimizer,
    steps: int,
    *,
    power: float = 0.9,
    warmup: int = 0,
    first: int = 0,
) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rates times ``(1 - step / steps) ** power``, after a linear warm-up.

    Args:
        optimiser: whose groups are scheduled.
        steps: length of the run; the rate reaches 0 at its end.
        power: of the polynomial; the papers use 0.9.
        warmup: steps until the full rate.
        first: steps that a resumed run has done before.

    Returns:
        A scheduler to step after every optimiser step.
    """

    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return rising * max(0.0, 1 - step / steps) ** power

    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor, last_epoch=first - 1)


def augment(
    image: Tensor,
    generator: torch.Generator,
    *,
    crop: int | None,
    long_side: tuple[int, int] | None,
) -> Tensor:
    """A random view of a picture for training.

    Args:
        image: (3, H, W) RGB in [0, 1].
        generator: source of the choices.
        crop: side of the square crop, zero padded where the picture is smaller; None keeps the
            picture's size and shifts it by up to a tenth, mirrored at the border.
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
    canvas = image.new_zeros(3, crop, crop)
    y, x = integer(0, abs(H - crop)), integer(0, abs(W - crop))
    height, width = min(H, crop), min(W, crop)
    source_y, source_x = (y if crop < H else 0), (x if crop < W else 0)
    target_y, target_x = (0 if crop < H else y), (0 if crop < W else x)
    piece = image[:, source_y : source_y + height, source_x : source_x + width]
    canvas[:, target_y : target_y + height, target_x : target_x + width] = piece
    return canvas


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """Image-level labels of all samples as (M, C) float32."""
    return torch.stack([sample.labels for sample in samples]).float()


def classes_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Class names of a data set, or ``class 1`` and so on where it does not say."""
    names = getattr(samples, "classes", None)
    if names is not None:
        return tuple(names)
    return tuple(f"class {c + 1}" for c in range(len(samples[0].labels)))


# -- files ----------------------------------------------------------------------------------


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write a file beside its place and rename it there: a reader sees all of it or the old one.

    Raises:
        OSError: if the disk refuses; the old file, if any, is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def weights_path(path: str | Path) -> Path:
    """``NAME.safetensors`` for a path with or without its ending; other full stops stay."""
    path = Path(path)
    stem = path.stem if path.suffix in (".safetensors", ".json") else path.name
    return path.with_name(stem + ".safetensors")


def save_model(path: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> Path:
    """Write ``NAME.safetensors`` and, beside it, its card ``NAME.json``.

    Args:
        path: with or without the ending.
        tensors: name -> tensor.
        card: JSON-able description; the sha256 of the weights is added to it.

    Returns:
        The path of the weights.
    """
    from safetensors.torch import save

    path = weights_path(path)
    data = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    card = {**card, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    old = path.with_name(path.name + ".old")  # what the card describes until it is replaced
    if path.exists():
        os.replace(path, old)
    write_whole(path, data)
    write_whole(path.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    old.unlink(missing_ok=True)
    return path


def load_model(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_model` wrote, checked against its card.

    Returns:
        (tensors, card).

    Raises:
        FileNotFoundError: if the weights or the card are missing.
        ValueError: if the weights are not those of the card, as after a broken copy.
    """
    from safetensors.torch import load

    path = weights_path(path)
    card_path = path.with_suffix(".json")
    old = path.with_name(path.name + ".old")
    if card_path.exists() and old.exists():  # a crash between the files of a pair
        wanted = json.loads(card_path.read_text(encoding="utf-8"))["sha256"]
        if hashlib.sha256(old.read_bytes()).hexdigest() == wanted:
            os.replace(old, path)
    for needed in (path, card_path):
        if not needed.exists():
            raise FileNotFoundError(
                f"{needed} is missing; a saved model is a pair of files, {path.name} and "
                f"{card_path.name}: copy both, or train and save it again"
            )
    card, data = json.loads(card_path.read_text(encoding="utf-8")), path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != card["sha256"]:
        raise ValueError(
            f"{path} is not the file that its card describes: {len(data)} bytes with sha256 "
            f"{found[:12]}, expected {card['bytes']} bytes with {card['sha256'][:12]}; it is "
            "truncated or changed, so copy it again or train and save it again"
        )
    return load(data), card


def check_classes(card: Mapping[str, Any], classes: Sequence[str], where: str | Path) -> None:
    """Refuse a checkpoint of another class list.

    Raises:
        ValueError: naming the first difference.
    """
    stored, wanted = tuple(card["classes"]), tuple(classes)
    if stored == wanted:
        return
    place = next(
        (i for i, pair in enumerate(zip(stored, wanted, strict=False)) if pair[0] != pair[1]),
        min(len(stored), len(wanted)),
    )
    raise ValueError(
        f"{where} was trained for {len(stored)} classes ({', '.join(stored[:8])}"
        f"{', ...' if len(stored) > 8 else ''}) but {len(wanted)} are asked for; they differ from "
        f"class {place} on. Use samples with the same class list, or another checkpoint path"
    )
