"""What ``python -m wsss_kit`` runs: each command is a function with its arguments.

What they share stands here: the folder of a run, the masks in one, and the CLIP or backbone that an
option names.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsss_kit.checks import chosen_device
from wsss_kit.classes import Sample
from wsss_kit.clip import FrozenModel, load_clip
from wsss_kit.data import Dataset, LazyMasks
from wsss_kit.data.datasets import TITLES
from wsss_kit.data.exchange import open_foreign
from wsss_kit.data.images import read_mask
from wsss_kit.evaluation import Protocol
from wsss_kit.files import (
    call_function,
    check_classes,
    check_kinds,
    check_texts,
    expanded,
    read_card,
)
from wsss_kit.processes import place_in_run

PROTOCOL, MANIFEST = "protocol.json", "manifest.json"


@contextmanager
def run_folder(path: str | Path) -> Iterator[Path]:
    """Make a run's folder, see that it can be written to, and keep other runs out meanwhile.

    The lock belongs to the process and ends with it, however it ends. Of several processes of one
    run the first holds it.

    Args:
        path: of the folder; made where there is none.

    Yields:
        The folder.

    Raises:
        ValueError: if it is a file, cannot be written to, or another run is at work in it.
    """
    from filelock import FileLock, Timeout

    folder = expanded(path)
    if place_in_run()[0]:
        yield folder
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out is {folder}, a file; expected a folder, which is made if need be")
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        problem = f"another run is writing into {folder}, and the two would mix"
        raise ValueError(f"{problem}; wait for it, or give --out another folder") from None
    except OSError as error:
        problem = f"{folder} cannot be written to ({error.strerror or error})"
        raise ValueError(f"{problem}; give --out another folder") from error
    try:
        yield folder
    finally:
        lock.release()


def usual_batch(device: str) -> int:
    """Return how many images go through together on a device: 32 on CUDA, 1 elsewhere."""
    return 32 if chosen_device(device).type == "cuda" else 1


def clip_named(
    data: str,
    name: str | None,
    weights: str | Path | None,
    *,
    usual: str,
    device: str,
    precision: str = "float32",
) -> tuple[FrozenModel, str]:
    """Load the CLIP that a command names, the tiny one for the embedded world, or the usual one.

    Args:
        data: as on the command line.
        name: open_clip's, or None.
        weights: a file, or None for OpenAI's.
        usual: open_clip's name of the paper's.
        device: where it goes.
        precision: see `load_clip`.

    Returns:
        The model, and what a protocol calls it.
    """
    name = name or ("paper" if data == "paper" else usual)
    weights = weights or (None if name == "paper" else "openai")
    model = load_clip(name, weights=weights, device=device, precision=precision)
    return model, f"{name}, {Path(str(weights)).name}"


def backbone_named(text: str | None) -> Any:
    """Call ``FILE.py:FUNCTION``; return the name of a backbone, or None, as it is."""
    return call_function(text) if text is not None and ".py" in text else text


class Written(NamedTuple):
    """What a folder of masks holds.

    Args:
        masks: name -> (H, W) int64.
        failed: name -> why there is no mask.
    """

    masks: LazyMasks
    failed: dict[str, str]


def read_masks(folder: str | Path, classes: Sequence[str] | None = None) -> Written:
    """Read the masks that a finished run wrote.

    Args:
        folder: of the run.
        classes: what the values have to mean, in this order; None for whatever they mean.

    Raises:
        ValueError: if the manifest is none, or the masks have other classes.
        FileNotFoundError: if there is no manifest: the run has not ended, or the folder is none.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        problem = f"{folder} has no {MANIFEST}: the run has not ended (the same command goes on)"
        raise FileNotFoundError(f"{problem}, or this is not its folder")
    stored = read_card(folder / MANIFEST)
    kinds = {"lists": ("pictures", "classes"), "objects": ("failed",)}
    check_kinds({"classes": [], **stored}, str(folder / MANIFEST), **kinds)
    check_texts(stored["pictures"], f"{folder / MANIFEST} has pictures")
    if classes is not None and stored.get("classes"):
        check_classes(stored, classes, folder)
    return Written(open_folder(folder, stored["pictures"]), stored["failed"])


def read_maps(folder: str | Path, name: str) -> dict[int, Tensor]:
    """Read the soft maps of one image: class -> (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: if the run kept no maps of it.
        ValueError: if the file is damaged.
    """
    path = place_of(Path(folder), "maps", name, ".safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the run --maps to keep soft maps")
    try:
        stored = load_file(path)
        classes, maps = stored["classes"].tolist(), stored["maps"].float()
        if len(classes) != len(maps) or not maps.isfinite().all() or min(classes, default=0) < 0:
            raise ValueError("classes and maps do not fit")
    except (SafetensorError, KeyError, ValueError) as error:
        advice = "remove it, and the same `masks` command with --maps makes it anew"
        raise ValueError(f"{path} holds no maps ({error}); {advice}") from error
    return dict(zip(classes, maps, strict=True))


def place_of(folder: Path, subfolder: str, name: str, ending: str = ".png") -> Path:
    """Return the file of an image in a part of a folder of masks.

    Raises:
        ValueError: if the name leaves the folder.
    """
    if PurePath(name).anchor or ".." in PurePath(name).parts:
        raise ValueError(f"an image is called {name!r}, expected a name that stays in its folder")
    return folder / subfolder / f"{name}{ending}"


def masks_in(folder: Path, samples: Dataset) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Open the masks of a folder by image name; return also how they were made, if known.

    Args:
        folder: that ``masks`` wrote, or whatever `open_foreign` reads.
        samples: the images whose masks are needed; their classes are what values have to mean.

    Raises:
        ValueError: if the run that wrote the folder made no mask of one of them, with the reason,
            or its classes are others; or as `open_foreign` does.
        FileNotFoundError: if there is no folder, or its run has not ended.
    """
    names = samples.names
    card = folder / PROTOCOL
    if card.is_file():
        written, made_by = read_masks(folder, samples.classes), read_card(card)
        if missing := [name for name in names if name in written.failed]:
            problem = f"{len(missing)} of {len(names)} images have no mask, the first is"
            reason = f"{missing[0]!r}: {written.failed[missing[0]]}"
            raise ValueError(f"{problem} {reason}; mend them, or score a split without them")
        return written.masks, made_by
    return open_foreign(folder, samples), {}


def protocol_of(card: Mapping[str, Any], data: str, split: str | None) -> Protocol:
    """Return the protocol of masks, as far as the card of their folder states it."""
    stated: Any = {k: str(card[k]) for k in ("background", "refinement", "preset") if k in card}
    title = TITLES.get(data, "own data" if ".py:" in data else "own folder")
    return Protocol(title, split or "all", **stated)


def open_folder(folder: Path, names: Sequence[str]) -> LazyMasks:
    """Open the masks that a run wrote, by image name."""
    return LazyMasks(
        names, read=lambda name: read_mask(place_of(folder, "masks", name)), folder=folder / "masks"
    )
