"""Fetching a file from the first source that answers, and unpacking it where it cannot do harm."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from wsss_kit.checks import check_count
from wsss_kit.training import progress

_BLOCK = 1 << 20
_TIMEOUT = 30  # seconds without an answer


class Archive(NamedTuple):
    """A file that can be fetched.

    Args:
        name: of the file.
        sources: URLs or local paths, tried in this order.
        sha256: of the whole file, or None where nobody states it.
        size: in bytes, or None.
        md5: what stands in for the sha256 where that is not known: good against damage, no more.
    """

    name: str
    sources: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None
    md5: str | None = None


def fetch(archive: Archive, folder: str | Path, *, shown: bool = True) -> Path:
    """Fetch a file, go on where an earlier try was stopped, and check it.

    What has come so far lies in ``NAME.part``; a source that cannot go on from there is asked for
    the whole. A file that is there already, whole, is not fetched again.

    Args:
        archive: what and from where.
        folder: to put it into.
        shown: whether to show a bar.

    Returns:
        Its path.

    Raises:
        ConnectionError: if no source has it, with what each of them said.
        ValueError: if what came is another file than expected; it is removed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.exists():
        _verify(path, archive)
        return path
    failures = []
    for source in archive.sources:
        try:
            _receive(source, part, shown=shown)
        except (OSError, urllib.error.URLError) as error:
            if isinstance(error, OSError) and error.errno in (28, 30, 13):  # of this disk
                raise
            failures.append(f"{source}: {error}")
            continue
        _verify(part, archive)
        os.replace(part, path)
        return path
    said = "\n  ".join(failures)
    raise ConnectionError(
        f"{archive.name} could not be fetched:\n  {said}\nFetch it by hand, put it into {folder}, "
        "and give the same command again"
    )


def _receive(source: str, part: Path, *, shown: bool) -> None:
    """Write what a source has behind what is there already."""
    if "://" not in source:
        shutil.copyfile(Path(source).expanduser(), part)
        return
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(source, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing comes after what is there
            return
        raise
    with answer:
        goes_on = have and getattr(answer, "status", None) == 206
        length = answer.headers.get("Content-Length")
        blocks = None if length is None else -(-int(length) // _BLOCK)
        with part.open("ab" if goes_on else "wb") as file:
            stream = progress(_blocks(answer), what=part.stem, shown=shown, total=blocks)
            received = 0
            for block in stream:
                file.write(block)
                received += len(block)
    if length is not None and received < int(length):
        raise ConnectionError(f"it stopped after {received:,} of {int(length):,} bytes")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _verify(path: Path, archive: Archive) -> None:
    """Compare size and checksum; another file is removed, so that the next try begins anew."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        path.unlink()
        raise ValueError(
            f"{archive.name} has {size:,} bytes, expected {archive.size:,}; it was removed, fetch "
            "it again"
        )
    kind, expected = ("sha256", archive.sha256) if archive.sha256 else ("md5", archive.md5)
    if expected is None:
        return
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
    if digest.hexdigest() != expected:
        path.unlink()
        raise ValueError(
            f"{archive.name} has the {kind} {digest.hexdigest()}, expected {expected}; it was "
            "removed, fetch it again"
        )


def unpack(
    path: str | Path,
    folder: str | Path,
    *,
    only: Sequence[str] = (),
    strip: int = 0,
    shown: bool = True,
) -> Path:
    """Unpack a tar or zip of plain files and folders into a folder, and nothing outside it.

    Args:
        path: of the archive.
        folder: to unpack into.
        only: beginnings of the names to take, after ``strip``; empty for all.
        strip: leading folders to leave away.
        shown: whether to show a bar.

    Returns:
        The folder.

    Raises:
        ValueError: if the archive is damaged or of another kind, or holds a link, a device or a
            name that leaves the folder; nothing of it is unpacked then.
    """
    check_count("strip", strip, least=0)
    path, folder = Path(path), Path(folder)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                members = [(i.filename, _zip_kind(i), i) for i in packed.infolist()]
                return _unpack(path, folder, members, packed.open, only, strip, shown)
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as packed:
                members = [(m.name, _tar_kind(m), m) for m in packed.getmembers()]
                return _unpack(path, folder, members, packed.extractfile, only, strip, shown)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is no whole archive ({error}); fetch it again") from error
    raise ValueError(f"{path} is neither a tar nor a zip, expected such an archive")


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if info.is_dir():
        return "folder"
    return "file" if not stat.S_IFMT(mode) or stat.S_ISREG(mode) else "link"


def _tar_kind(member: tarfile.TarInfo) -> str:
    return "folder" if member.isdir() else "file" if member.isfile() else "link"


def _unpack(path, folder, members, opened, only, strip, shown) -> Path:  # noqa: ANN001
    """Check all names first, then write the files one by one."""
    taken = []
    for name, kind, member in members:
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in name or kind == "link":
            what = "a link or device" if kind == "link" else "a name that leaves the folder"
            raise ValueError(f"{path} holds {name!r}, {what}; expected plain files, refused whole")
        inside = PurePosixPath(*place.parts[strip:])
        wanted = not only or any(str(inside).startswith(beginning) for beginning in only)
        if kind == "file" and len(place.parts) > strip and wanted:
            taken.append((inside, member))
    for inside, member in progress(taken, what=path.name, shown=shown, total=len(taken)):
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        with opened(member) as source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
        os.replace(temporary, target)
    return folder
