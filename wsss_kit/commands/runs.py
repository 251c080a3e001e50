"""A folder that one run writes into at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsss_kit.processes import place_in_run


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

    folder = Path(path)
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
        raise ValueError(
            f"another run is writing into {folder}, and the two would mix; wait for it, or give "
            "--out another folder"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to ({error.strerror or error}); give --out another folder"
        ) from error
    try:
        yield folder
    finally:
        lock.release()
