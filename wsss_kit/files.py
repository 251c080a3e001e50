"""Files that are written whole and read checked: safetensors with a card in their metadata."""

import hashlib
import importlib.util
import inspect
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor


def digest_of(*parts: bytes) -> str:
    """Return a hash of bytes, sixteen letters."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Return a number of NumPy's as Python's own, which every library takes; others as they are.

    Example:
        >>> import numpy as np
        >>> plain(np.int64(3)), plain("three")
        (3, 'three')
    """
    return value.item() if hasattr(value, "dtype") and not getattr(value, "ndim", 1) else value


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder for ``~``; one of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))


def files_below(folder: Path) -> list[Path]:
    """List the files below a folder, also by way of links to folders, each folder once."""
    found, seen = [], set()
    for at, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(at)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(at, name) for name in names]
    return sorted(found)


def composed(name: str | PurePath) -> str:
    """Return a name with every accent joined to its letter; some systems write them apart."""
    return unicodedata.normalize("NFC", str(name))


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write a file beside its place and rename it there: a reader sees all of it or the old one.

    It is on the disk before it is renamed, so that a power cut leaves no empty file.

    Raises:
        OSError: if the disk refuses; the old file, if any, is untouched.
    """
    path = expanded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    short = digest_of(path.name.encode("utf-8", "surrogatepass"))  # a long name leaves no room
    temporary = path.with_name(f".{short}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def weights_path(path: str | Path) -> Path:
    """Return ``NAME.safetensors`` for a path with or without its ending; other dots stay."""
    path = Path(path)
    stem = path.stem if path.suffix in (".safetensors", ".json") else path.name
    return path.with_name(stem + ".safetensors")


def is_saved(path: str | Path) -> bool:
    """Return whether there is a saved model: a file, or the card of an old pair."""
    return weights_path(path).exists() or weights_path(path).with_suffix(".json").exists()


def save_model(path: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> Path:
    """Write ``NAME.safetensors`` with a card in its metadata.

    Args:
        path: with or without the ending.
        tensors: name -> tensor.
        card: JSON-able description; the sha256 of the weights' bytes is added to it.

    Returns:
        The path of the file.
    """
    from safetensors.torch import save

    path = weights_path(path)
    data = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    header, weights = _parts(data)
    sums = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    header["__metadata__"] = {"card": json.dumps({**card, **sums}, default=plain)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return write_whole(path, b"".join([len(text).to_bytes(8, "little"), text, weights]))


def _parts(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Split a safetensors file into its header and the bytes of its tensors."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]


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
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or a bomb
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
    lists = [name for name in ("classes", "losses") if name in keys]
    texts = [name for name in ("backbone", "preset", "kind") if card.get(name) is not None]
    check_kinds(card, f"the card of {path}", lists=lists, texts=texts)


def check_kinds(
    card: Mapping[str, Any],
    what: str,
    *,
    lists: Iterable[str] = (),
    objects: Iterable[str] = (),
    texts: Iterable[str] = (),
) -> None:
    """Raise an error for an entry of another type than this kit writes; null and none are others.

    Args:
        card: what a file holds.
        what: the file, for the message.
        lists: names of entries that are lists.
        objects: of those that are objects.
        texts: of those that are text.

    Raises:
        ValueError: naming the entry.
    """
    for names, kind, word in (
        (lists, list, "list"),
        (objects, dict, "object"),
        (texts, str, "text"),
    ):
        for name in names:
            if not isinstance(card.get(name), kind):
                problem = f"{what} has {name} {card.get(name)!r}, expected {word}"
                raise ValueError(f"{problem}; copy the file, or make it again")
            if name == "classes":
                check_texts(card[name], f"{what} has classes")


def check_texts(names: Sequence[Any], what: str) -> None:
    """Raise `ValueError` if one of the names is no text; ``what`` begins the message."""
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} {str(names)[:60]}, expected names; make the file again")


def load_model(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_model` wrote, checked against its card.

    Of versions before 0.3 the card is the file NAME.json beside the weights.

    Returns:
        (tensors, card).

    Raises:
        FileNotFoundError: if the file is missing, or the card of an old pair.
        ValueError: if the weights are not those of the card, as after a broken copy, there is no
            card, or the file is a pickle.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if Path(path).suffix in (".pth", ".pt", ".ckpt", ".pkl", ".bin"):
        raise ValueError(f"{path} is a pickle, which can run code; expected NAME.safetensors")
    path = weights_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; copy it, or save it again")
    data = path.read_bytes()
    try:
        header, weights = _parts(data)
        card = json.loads(header.get("__metadata__", {}).get("card", "null"))
    except (ValueError, TypeError, AttributeError):  # no JSON, no UTF-8, or JSON of other types
        header, card, weights = {}, None, b""
    broken = f"{path} is no whole safetensors file; it is truncated or changed"
    broken += ", so copy or save it again"
    if not header or not isinstance(card, dict | None):
        raise ValueError(broken)
    if card is None:  # an old pair
        if not (card_path := path.with_suffix(".json")).exists():
            problem = f"{path} has no card in its metadata, and {card_path.name} is missing"
            raise FileNotFoundError(f"{problem}; copy it too, or save the model again")
        card, weights = read_card(card_path), data
    for key in ("sha256", "bytes"):
        if key not in card:
            raise ValueError(f"the card of {path} does not say the {key} of its weights")
    checksum = hashlib.sha256(weights).hexdigest()
    if checksum != card["sha256"]:
        problem = f"{len(weights)} bytes with sha256 {checksum[:12]}"
        stated = str(card["sha256"])[:12]
        expected = f"{card['bytes']} bytes with {stated}; it is truncated or changed"
        what = f"{path} is not the file that its card describes: {problem}, expected {expected}"
        raise ValueError(f"{what}, so copy or save it again")
    try:
        return load(data), card
    except SafetensorError as error:
        raise ValueError(f"{broken} ({error})") from error


def check_classes(card: Mapping[str, Any], classes: Sequence[str], where: str | Path) -> None:
    """Raise an error for a checkpoint, or masks, of another class list.

    Raises:
        ValueError: naming the first difference.
    """
    stored, wanted = tuple(card["classes"]), tuple(classes)
    if stored == wanted:
        return
    equal = [one == other for one, other in zip(stored, wanted, strict=False)]
    place, names = [*equal, False].index(False), ", ".join(stored[:8])
    problem = f"{where} was made for {len(stored)} classes ({names}), not for {len(wanted)}"
    raise ValueError(f"{problem}; they differ from class {place} on; give another path")


_CODE: dict[str, list[Path]] = {}
"""``FILE.py:FUNCTION`` -> the file and those beside it that it imported."""


def digest_of_code(text: str) -> str:
    """Return a hash of the files that `call_function` last read for ``FILE.py:FUNCTION``."""
    return digest_of(*(file.read_bytes() for file in _CODE[text]))


def _imported_beside(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Find the modules that came from a folder, but for this package: name -> file."""
    found = {}
    for name in names:
        file, first = getattr(sys.modules[name], "__file__", None), name.partition(".")[0]
        is_beside = (folder / first).is_dir() or (folder / f"{first}.py").is_file()
        if file and is_beside and folder in Path(file).parents and first != "wsss_kit":
            found[name] = Path(file)
    return found


def call_function(text: str, **given: Any) -> Any:
    """Call ``FILE.py:FUNCTION``, a function or a class of a user's file, and return what it makes.

    Args:
        text: the file and the name in it.
        **given: arguments for the function; those that it does not take are left out.

    Raises:
        ValueError: if the text has another form, the file has no such function, or it fails.
        FileNotFoundError: if there is no such file.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"{text!r} is no name that is known here; expected FILE.py:FUNCTION")
    if not Path(file).exists():
        raise FileNotFoundError(f"{file} is missing; {text} names a Python file and a function")
    spec: Any = importlib.util.spec_from_file_location(f"wsss_kit_own_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, beside := str(Path(file).resolve().parent))  # modules that lie beside it
    known = set(sys.modules)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, name, None)
        takes = inspect.signature(make).parameters if callable(make) and given else ()
        made: Any = make(**{k: given[k] for k in takes if k in given}) if callable(make) else None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{text} failed ({type(error).__name__}: {error}); mend it") from error
    finally:
        sys.path[:] = [path for path in sys.path if path is not beside]  # whatever the file did
        own = _imported_beside(Path(beside), {*sys.modules} - known)
        for imported in own:  # another file may have modules of the same names beside it
            del sys.modules[imported]
        _CODE[text] = [Path(file), *sorted(own.values())]
    if not callable(make):
        raise ValueError(f"{file} has no function {name!r}")
    if hasattr(made, "__dict__"):
        made.own_code = text  # errors name it
    return made
