"""Download a file from the first source that answers, and unpack archives safely."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from wsss_kit.checks import check_count
from wsss_kit.files import expanded
from wsss_kit.processes import progress

if TYPE_CHECKING:
    from pooch import Pooch
    from requests import Response

_BLOCK = 1 << 16


class Archive(NamedTuple):
    """A file that can be downloaded.

    Args:
        name: file name.
        sources: URLs or local paths, tried in this order.
        checksum: sha256, or ``"md5:..."`` where only that is known; None if there is neither.
    """

    name: str
    sources: tuple[str, ...]
    checksum: str | None = None


def fetch(archive: Archive, folder: str | Path, *, shown: bool = True, retries: int = 2) -> Path:
    """Download a file, verify its checksum, and resume a download that was interrupted.

    An unfinished download stays in ``NAME.part``. A source that cannot resume sends the whole
    file. A file with the right checksum is not downloaded again.

    Args:
        archive: the file and its sources.
        folder: where the file goes.
        shown: whether to show a progress bar.
        retries: how often a URL is asked again after an error.

    Returns:
        The path of the file.

    Raises:
        ConnectionError: if no source has the file; the message holds the error of each source.
        ValueError: if every source has a file of another checksum, which is removed.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    path, failures, others = Path(folder) / archive.name, [], 0
    for source in archive.sources:
        store: Any = pooch.create(folder, "", urls={archive.name: source})
        store.registry[archive.name] = archive.checksum
        download: Any = _copy
        if "://" in source:
            store.retry_if_failed = retries
            download = partial(_resume, path.with_name(f"{archive.name}.part"), shown)
        try:
            return Path(store.fetch(archive.name, downloader=download))
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                raise  # another source would not help
            failures.append(f"{source}: {error}")
            others += not isinstance(error, OSError)  # another file than is known
    reasons = "\n  ".join([f"{archive.name} could not be downloaded:", *failures])
    problem = f"{reasons}\nDownload it by hand, put it into {folder}, and run again"
    raise (ValueError if 0 < others == len(failures) else ConnectionError)(problem)


def _copy(source: str, target: str, _: Pooch) -> None:
    """Copy a local file: a downloader for pooch."""
    shutil.copyfile(expanded(source), target)


def _resume(part: Path, shown: bool, url: str, target: str, store: Pooch) -> None:
    """Resume a download: pooch alone starts every download from zero."""
    from pooch import HTTPDownloader
    from requests import HTTPError

    with part.open("ab") as file:
        begun = file.tell()

        def start_again(answer: Response, **_: object) -> None:
            if answer.status_code == 200:  # the whole file, not only the rest (206)
                file.truncate(0)

        # Without "identity" some servers' archives would be decompressed on the way.
        headers = {"Accept-Encoding": "identity"}
        if begun:
            headers["Range"] = f"bytes={begun}-"
        options = {"headers": headers, "hooks": {"response": start_again}}
        try:
            HTTPDownloader(progressbar=shown, chunk_size=_BLOCK, **options)(url, file, store)
        except HTTPError as error:
            if not begun or getattr(error.response, "status_code", None) != 416:
                raise  # 416: the part is already the whole file
    os.replace(part, target)


def unpack(
    path: str | Path,
    folder: str | Path,
    *,
    only: Sequence[str] = (),
    strip: int = 0,
    shown: bool = True,
) -> Path:
    """Unpack the files of a tar or zip archive into a folder, and nothing outside it.

    All names are checked before the first file is written. ``tarfile``'s filters and pooch's
    processors check while they unpack, and accept links.

    Args:
        path: the archive.
        folder: where the files go.
        only: prefixes of the names to unpack, after ``strip``; empty for all.
        strip: number of leading folders to remove from each name.
        shown: whether to show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: if the file is no whole tar or zip, or if it holds a link, a device or a name
            that leaves the folder. Nothing is unpacked then.
    """
    check_count("strip", strip, least=0)
    path, folder = Path(path), Path(folder)
    opened: Any = zipfile.ZipFile if zipfile.is_zipfile(path) else tarfile.open
    try:
        with opened(path) as packed:
            is_zip = isinstance(packed, zipfile.ZipFile)
            members: Any = packed.infolist() if is_zip else packed.getmembers()
            read: Any = packed.open if is_zip else packed.extractfile
            files = []
            for place, member in [(_checked_place(path, member), member) for member in members]:
                inside = PurePosixPath(*place.parts[strip:])
                is_wanted = str(inside).startswith(tuple(only) or "")
                is_folder = member.is_dir() if is_zip else member.isdir()
                if is_wanted and not is_folder and len(place.parts) > strip:
                    files.append((folder / inside, member))
            for target, member in progress(files, what=path.name, shown=shown, total=len(files)):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.part")
                with read(member) as source, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
                os.replace(temporary, target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} is no whole tar or zip ({error}); download it again") from error
    return folder


def _checked_place(path: Path, member: tarfile.TarInfo | zipfile.ZipInfo) -> PurePosixPath:
    """Return the name of a member as a path; raise an error for a link or a way out."""
    if isinstance(member, tarfile.TarInfo):
        name, is_plain = member.name, member.isfile() or member.isdir()
    else:
        mode = stat.S_IFMT(member.external_attr >> 16)
        name, is_plain = member.filename, member.is_dir() or mode in (0, stat.S_IFREG)
    place = PurePosixPath(name.replace("\\", "/"))
    leaves = place.is_absolute() or ".." in place.parts or ":" in name
    if leaves or not is_plain:
        what = "a name that leaves the folder" if leaves else "a link or device"
        raise ValueError(f"{path} holds {name!r}, {what}; expected plain files, refused whole")
    return place
