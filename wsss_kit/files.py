"""Files that are written whole and read checked: safetensors with a JSON card beside them."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor


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
    """Return ``NAME.safetensors`` for a path with or without its ending; other dots stay."""
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


def read_card(path: str | Path) -> dict[str, Any]:
    """Read a card: a JSON object.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, cut off or no JSON object.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; save it again or copy it from where it was")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is no card: {error}; copy or save it again") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} holds {type(card).__name__}, expected a JSON object; save again")
    return card


def check_card(
    card: Mapping[str, Any], path: str | Path, *, method: str, version: int, keys: Sequence[str]
) -> None:
    """Raise an error for a card of another method, another version, or with a part missing.

    Args:
        card: as `read_card` or `load_model` gave it.
        path: where it came from, for the message.
        method: whose card is expected.
        version: of the card's layout that is expected.
        keys: what it must hold.

    Raises:
        ValueError: saying what arrived and what was expected.
    """
    if card.get("method") != method:
        problem = f"{path} is a card of {card.get('method', 'no method')}, expected one of {method}"
        raise ValueError(f"{problem}; load it by the class that saved it")
    if card.get("version") != version:
        problem = f"{path} has a card of version {card.get('version', 'none')}"
        raise ValueError(f"{problem}, expected {version} of this kit; fit and save it again")
    missing = ", ".join(key for key in keys if key not in card)
    if missing:
        raise ValueError(f"the card of {path} lacks {missing}; copy it, or fit and save it again")


def load_model(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_model` wrote, checked against its card.

    Returns:
        (tensors, card).

    Raises:
        FileNotFoundError: if the weights or the card are missing.
        ValueError: if the weights are not those of the card, as after a broken copy, the card is
            none, or the file is a pickle.
    """
    from safetensors.torch import load

    if Path(path).suffix in (".pth", ".pt", ".ckpt", ".pkl", ".bin"):
        raise ValueError(f"{path} is a pickle, which can run code; expected NAME.safetensors")
    path = weights_path(path)
    card_path = path.with_suffix(".json")
    old = path.with_name(path.name + ".old")
    if card_path.exists() and old.exists():  # a crash between the files of a pair
        if hashlib.sha256(old.read_bytes()).hexdigest() == read_card(card_path).get("sha256"):
            os.replace(old, path)
    for needed in (path, card_path):
        if not needed.exists():
            pair = f"a saved model is a pair of files, {path.name} and {card_path.name}"
            raise FileNotFoundError(f"{needed} is missing; {pair}: copy both, or save it again")
    card, data = read_card(card_path), path.read_bytes()
    for key in ("sha256", "bytes"):
        if key not in card:
            raise ValueError(f"{card_path} does not say the {key} of its weights; save them again")
    checksum = hashlib.sha256(data).hexdigest()
    if checksum != card["sha256"]:
        problem = f"{len(data)} bytes with sha256 {checksum[:12]}"
        expected = f"{card['bytes']} bytes with {card['sha256'][:12]}; it is truncated or changed"
        what = f"{path} is not the file that its card describes: {problem}, expected {expected}"
        raise ValueError(f"{what}, so copy or save it again")
    return load(data), card


def check_classes(card: Mapping[str, Any], classes: Sequence[str], where: str | Path) -> None:
    """Raise an error for a checkpoint of another class list.

    Raises:
        ValueError: naming the first difference.
    """
    stored, wanted = tuple(card["classes"]), tuple(classes)
    if stored == wanted:
        return
    equal = [one == other for one, other in zip(stored, wanted, strict=False)]
    place, names = [*equal, False].index(False), ", ".join(stored[:8])
    problem = f"{where} was trained for {len(stored)} classes ({names}), not for {len(wanted)}"
    raise ValueError(f"{problem}; they differ from class {place} on; use another checkpoint path")
