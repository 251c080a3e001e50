"""Fetching and unpacking: sources in turn, going on after a stop, and archives that mean harm."""

import hashlib
import http.server
import io
import os
import tarfile
import threading
import zipfile

import pytest

from wsss_kit.data.fetch import _BLOCK, Archive, fetch, unpack

CONTENT = bytes(range(256)) * 20_000  # five megabytes
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the path says how: whole, ranges, breaks off, or not at all."""

    asked: list = []  # noqa: RUF012

    def do_GET(self):
        begins = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").strip("-"))
        Handler.asked.append((self.path, begins))
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/plain":
            begins = 0
        if begins >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if begins else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begins))
        self.end_headers()
        end = begins + 1_500_000 if self.path == "/breaks" else len(CONTENT)
        self.wfile.write(CONTENT[begins:end])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def archive(*sources, checksum=SHA):
    return Archive("a.bin", sources, checksum)


def begun_in(folder):
    return (folder / "a.bin.part").stat().st_size


def test_the_first_source_that_answers_is_taken(host, tmp_path):
    Handler.asked.clear()
    gone, sources = str(tmp_path / "nowhere"), (f"{host}/missing", f"{host}/ranges")
    path = fetch(archive(gone, *sources), tmp_path, shown=False, retries=0)
    assert path.read_bytes() == CONTENT
    assert [name for name, _ in Handler.asked] == ["/missing", "/ranges"]
    Handler.asked.clear()
    assert fetch(archive(f"{host}/ranges"), tmp_path, shown=False) == path
    assert not Handler.asked and os.listdir(tmp_path) == ["a.bin"]
    local = fetch(archive(str(path)), tmp_path / "to", shown=False)  # a local file is a source too
    assert local.read_bytes() == CONTENT


def test_a_download_that_broke_off_is_resumed(host, tmp_path):
    begun = 0
    for _ in range(3):
        Handler.asked.clear()
        with pytest.raises(ConnectionError, match=r"breaks: .*IncompleteRead.*\nDownload it by"):
            fetch(archive(f"{host}/breaks"), tmp_path, shown=False, retries=0)
        assert Handler.asked == [("/breaks", begun)]
        came, begun = begun_in(tmp_path) - begun, begun_in(tmp_path)
        assert 0 <= 1_500_000 - came < _BLOCK  # the last block may be lost
        assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:begun]
    Handler.asked.clear()
    path = fetch(archive(f"{host}/ranges"), tmp_path, shown=False)
    assert path.read_bytes() == CONTENT and Handler.asked == [("/ranges", begun)]


def test_a_retry_resumes_too(host, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    Handler.asked.clear()
    path = fetch(archive(f"{host}/breaks"), tmp_path, shown=False, retries=3)
    assert path.read_bytes() == CONTENT and os.listdir(tmp_path) == ["a.bin"]
    begins = [begins for _, begins in Handler.asked]
    assert len(begins) == 4 and begins[0] == 0 and begins == sorted(set(begins))


@pytest.mark.parametrize(("begun", "source"), [(100, "plain"), (len(CONTENT), "ranges")])
def test_a_source_without_ranges_begins_again_and_a_whole_part_is_taken(
    host, tmp_path, begun, source
):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:begun])
    with pytest.raises(ConnectionError, match="404"):
        fetch(archive(f"{host}/missing"), tmp_path, shown=False, retries=0)
    assert begun_in(tmp_path) == begun  # an error page does not cost what has come
    assert fetch(archive(f"{host}/{source}"), tmp_path, shown=False).read_bytes() == CONTENT


def test_another_file_is_refused_and_removed(host, tmp_path):
    for checksum in ("0" * 64, f"md5:{'0' * 32}"):
        with pytest.raises(ValueError, match=r"a\.bin.* does not match the known hash"):
            fetch(archive(f"{host}/ranges", checksum=checksum), tmp_path, shown=False, retries=0)
        assert not list(tmp_path.iterdir())
    (tmp_path / "other").write_bytes(b"other")
    both = archive(str(tmp_path / "other"), f"{host}/ranges")  # the next source has it
    assert fetch(both, tmp_path / "two", shown=False).read_bytes() == CONTENT
    (tmp_path / "a.bin").write_bytes(b"old")
    assert fetch(archive(f"{host}/ranges"), tmp_path, shown=False).read_bytes() == CONTENT


def test_a_full_disk_is_no_fault_of_the_source(host, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(archive(f"{host}/ranges", f"{host}/plain"), tmp_path, shown=False)


# -- archives -------------------------------------------------------------------------------


def tar(path, entries, mode="w"):
    """Entries: name to content, or to a link's target with ->."""
    with tarfile.open(path, mode) as packed:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                packed.addfile(member)
            else:
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    return path


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            if isinstance(content, str):
                info.external_attr = 0o120777 << 16  # a link
            packed.writestr(info, content)
    return path


GOOD = {"VOCdevkit/VOC/JPEGImages/a.jpg": b"1", "VOCdevkit/VOC/Annotations/a.xml": b"22"}


@pytest.mark.parametrize("pack", [tar, zipped])
def test_files_come_out_without_their_leading_folders(pack, tmp_path):
    path = pack(tmp_path / "good", GOOD)
    unpack(path, tmp_path / "all", strip=2, shown=False)
    assert (tmp_path / "all" / "Annotations" / "a.xml").read_bytes() == b"22"
    unpack(path, tmp_path / "some", strip=2, only=("JPEG",), shown=False)
    result = [p.name for p in (tmp_path / "some").rglob("*") if p.is_file()]
    assert result == ["a.jpg"]


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize(
    "name", ["../out.txt", "in/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:out.txt", "link"]
)
def test_an_archive_that_means_harm_is_refused_whole(pack, name, tmp_path):
    path = pack(tmp_path / "bad", {"good.txt": b"x", name: "/etc" if name == "link" else b"x"})
    message = "a link or device" if name == "link" else "a name that leaves the folder"
    with pytest.raises(ValueError, match=message):
        unpack(path, tmp_path / "to" / "deep", shown=False)
    assert {p.name for p in tmp_path.rglob("*")} == {"bad"}


def test_what_is_no_archive_is_said(tmp_path):
    (tmp_path / "page.html").write_text("<html>quota exceeded</html>")
    whole = tar(tmp_path / "whole.tgz", {"a": bytes(range(256)) * 4000}, "w:gz")
    (tmp_path / "half.tgz").write_bytes(whole.read_bytes()[:2000])
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a", b"a" * 5000)
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    damaged[31:43] = b"\xff" * 12
    (tmp_path / "a.zip").write_bytes(damaged)
    for name in ("page.html", "half.tgz", "a.zip"):
        with pytest.raises(ValueError, match="is no whole tar or zip"):
            unpack(tmp_path / name, tmp_path / "to", shown=False)
