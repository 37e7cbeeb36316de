"""Downloads from a server on the loopback address."""

import contextlib
import errno
import gc
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from filelock import FileLock

from dnnlib import download, http_download
from dnnlib.download import (
    cache_root,
    cached_path,
    downloads_forbidden,
    fetch,
    forbid_downloads,
    is_address,
    local_file,
)
from dnnlib.errors import UserError
from dnnlib.http_download import part_path

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 4500  # more than four blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CUT = 600_000  # where an answer of the kind "cut" breaks off


class Server(ThreadingHTTPServer):
    """Answers requests with ``answers``, each a status or what to do with ``content``; then with "good"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Any] = []
        self.content = CONTENT
        self.marks: dict[str, str] = {"ETag": '"one"'}
        self.ranges: list[tuple[str | None, str | None]] = []
        self.release = threading.Event()

    @property
    def requests(self) -> int:
        return len(self.ranges)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/net.pt"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.ranges.append((wanted, condition))
        answer = server.answers.pop(0) if server.answers else "good"
        if answer == "silent":
            server.release.wait(20)
        elif isinstance(answer, int):
            self.head(answer, {"Location": "/files/other.pt"} if answer == 302 else {"Content-Length": "0"})
        elif answer == "no length":
            self.head(200, {})
            self.wfile.write(server.content)
        elif answer == "page":
            self.head(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": "5"})
            self.wfile.write(b"<html")
        elif answer == "wrong place":
            self.head(
                206,
                {**server.marks, "Content-Length": "10", "Content-Range": f"bytes 0-9/{len(server.content)}"},
            )
            self.wfile.write(server.content[:10])
        else:
            self.send_content(answer, wanted, condition)

    def send_content(self, answer: str, wanted: str | None, condition: str | None) -> None:
        server = self.server
        content = (
            b"" if answer == "empty" else server.content[::-1] if answer == "reversed" else server.content
        )
        current = server.marks.get("ETag") or server.marks.get("Last-Modified")
        heeded = wanted and answer != "no ranges" and (condition == current or answer == "ignores If-Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and heeded else 0  # type: ignore[index]
        place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if heeded else {}
        self.head(
            206 if heeded else 200, {**server.marks, **place, "Content-Length": str(len(content) - start)}
        )
        if answer in ("cut", "slow"):
            self.wfile.write(content[start : start + CUT])
            self.wfile.flush()
            if answer == "cut":
                return
            server.release.wait(20)
            start += CUT
        self.wfile.write(content[start:])

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, no proxy, and downloads allowed."""
    monkeypatch.setattr(http_download, "PAUSE", 0.001)
    monkeypatch.setattr(http_download, "POLL", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "GGDR_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def leave_part(server: Server, folder: Path, length: int = CUT, version: str = '"one"') -> Path:
    """What a process that was killed leaves."""
    part = part_path(cached_path(server.url, folder))
    part.write_bytes(CONTENT[:length])
    part.with_name(part.name + ".version").write_text(version)
    return part


def names(folder: Path) -> set[str]:
    """What is in a folder of downloads, without the digits of the addresses and the lock files."""
    found = (path.name for path in folder.iterdir() if path.suffix != ".lock")
    return {name.partition("-")[2] or name for name in found}


def test_downloads_once_and_records_the_origin(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url, tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-net.pt")
    assert fetch(server.url, tmp_path / "new" / "folder", sha256=DIGEST.upper()) == path
    assert fetch(f"{server.url}#sha256={DIGEST}", tmp_path / "new" / "folder") == path
    assert server.requests == 1
    assert names(path.parent) == {"net.pt", "net.pt.json"}
    record = json.loads(path.with_name(path.name + ".json").read_text())
    assert (record["address"], record["sha256"], record["size"]) == (server.url, DIGEST, len(CONTENT))


def test_a_file_put_there_by_hand_is_used(server: Server, tmp_path: Path) -> None:
    cached_path(server.url, tmp_path).write_bytes(b"by hand")
    assert fetch(server.url, tmp_path).read_bytes() == b"by hand"
    assert server.requests == 0


def test_a_file_that_changed_since_its_download_is_noticed(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url, tmp_path)
    path.write_bytes(b"changed")
    with pytest.raises(
        UserError, match=rf"{path} is not what was downloaded from {server.url} .*expected {DIGEST}.*delete"
    ):
        fetch(server.url, tmp_path)
    assert fetch(server.url, tmp_path, sha256=hashlib.sha256(b"changed").hexdigest()) == path
    path.with_name(path.name + ".json").unlink()
    assert fetch(server.url, tmp_path).read_bytes() == b"changed"
    assert fetch(server.url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.requests == 2


def test_an_empty_file_in_the_cache_is_none(server: Server, tmp_path: Path) -> None:
    cached_path(server.url, tmp_path).touch()
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_record_never_belongs_to_an_earlier_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between the new file and its record."""
    fetch(server.url, tmp_path)
    server.content, server.marks = b"new", {}

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(download, "atomic_write", fail)
        with pytest.raises(UserError, match="Input/output error"):
            fetch(server.url, tmp_path, sha256=hashlib.sha256(b"new").hexdigest())
    assert fetch(server.url, tmp_path).read_bytes() == b"new"


@pytest.mark.parametrize("first", [500, 503, 429, 408, "empty", "reversed"])
def test_failures_that_may_pass_are_tried_again(server: Server, tmp_path: Path, first: Any) -> None:
    server.answers = [first]
    assert fetch(server.url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.requests == 2
    assert server.ranges[1] == (None, None)


@pytest.mark.parametrize(
    ("marks", "condition"),
    [
        ({"ETag": '"one"', "Last-Modified": "yesterday"}, '"one"'),
        ({"Last-Modified": "yesterday"}, "yesterday"),
        ({"ETag": 'W/"one"', "Last-Modified": "yesterday"}, "yesterday"),
        ({"ETag": 'W/"one"'}, None),
        ({}, None),
    ],
)
def test_a_download_that_broke_off_is_continued_where_the_version_is_known(
    server: Server, tmp_path: Path, marks: dict[str, str], condition: str | None
) -> None:
    server.marks, server.answers = marks, ["cut"]
    if marks.get("ETag", "").startswith("W/") and condition:
        server.marks = {"Last-Modified": "yesterday"}  # the server compares with its date
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    (wanted, asked) = server.ranges[1]
    assert asked == condition
    start = int(wanted[6:-1]) if wanted else 0
    assert (0 < start <= CUT) if condition else wanted is None


def test_a_connection_that_ends_early_without_an_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = requests.Response.iter_content, []

    def iter_content(response: requests.Response, size: int) -> Iterator[bytes]:
        calls.append(size)
        yield from plain(response, size) if len(calls) > 1 else [CONTENT[:1000]]

    monkeypatch.setattr(requests.Response, "iter_content", iter_content)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges[1:] == [("bytes=1000-", '"one"')]


def test_as_many_attempts_as_bring_something(server: Server, tmp_path: Path) -> None:
    """Each answer but the last breaks off a little later: five attempts, though three in vain end it."""
    server.content = CONTENT * 3
    server.answers = ["cut"] * 4
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT * 3
    starts = [int(wanted[6:-1]) for wanted, _ in server.ranges[1:] if wanted]
    assert len(starts) == 4
    assert starts == sorted(set(starts))


def test_a_killed_process_is_continued(server: Server, tmp_path: Path) -> None:
    leave_part(server, tmp_path)
    assert fetch(server.url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.ranges == [(f"bytes={CUT}-", '"one"')]
    assert names(tmp_path) == {"net.pt", "net.pt.json"}


@pytest.mark.parametrize("answer", ["good", "no ranges", "ignores If-Range", "wrong place", 416])
def test_a_part_that_cannot_be_continued_is_begun_anew(server: Server, tmp_path: Path, answer: Any) -> None:
    """The file has changed at the server, or the server has no ranges."""
    leave_part(server, tmp_path)
    part_path(cached_path(server.url, tmp_path)).write_bytes(b"old" * 1000)
    server.marks = {"ETag": '"one"' if answer == "wrong place" else '"two"'}
    server.answers = [answer]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.requests == (1 if answer in ("good", "no ranges") else 2)


def test_a_part_of_no_known_version_is_begun_anew(server: Server, tmp_path: Path) -> None:
    leave_part(server, tmp_path, version="")
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [(None, None)]


def test_a_part_that_turns_out_wrong_is_not_continued(server: Server, tmp_path: Path) -> None:
    part = leave_part(server, tmp_path)
    part.write_bytes(b"x" + CONTENT[1:CUT])
    assert fetch(server.url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert [wanted for wanted, _ in server.ranges] == [f"bytes={CUT}-", None]


@pytest.mark.parametrize(
    ("answers", "reason", "requests"),
    [
        ([404], "the server answers 404", 1),
        ([403], "the server answers 403", 1),
        ([500] * 3, "the server answers 500", 3),
        (["empty"] * 3, "0 bytes came", 3),
        (["reversed"] * 3, f"expected {DIGEST}", 3),
        (["page"], "a web page, not a file", 1),
        ([302] * 40, "redirects more than 10 times", 11),
    ],
)
def test_a_failure_names_address_and_place_and_leaves_nothing(
    server: Server, tmp_path: Path, answers: list[Any], reason: str, requests: int
) -> None:
    server.answers = list(answers)
    with pytest.raises(UserError, match=reason) as caught:
        fetch(server.url, tmp_path, sha256=DIGEST)
    message = str(caught.value)
    assert server.url in message
    assert f"put the file at {cached_path(server.url, tmp_path)}" in message
    assert "\n" not in message
    assert "kept" not in message
    assert server.requests == requests
    assert names(tmp_path) == set()


def test_what_came_before_giving_up_is_kept(server: Server, tmp_path: Path) -> None:
    server.answers = ["cut", 500, 500, 500]
    with pytest.raises(UserError, match=r"the server answers 500.*the part that has come is kept"):
        fetch(server.url, tmp_path)
    assert part_path(cached_path(server.url, tmp_path)).stat().st_size > 0
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1][1] == '"one"'


def test_a_file_of_another_size_is_not_even_downloaded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"it has {len(CONTENT)} bytes, expected 7"):
        fetch(server.url, tmp_path, size=7)
    assert server.requests == 1
    assert fetch(server.url, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT


def test_without_an_announced_length_the_size_is_checked_afterwards(server: Server, tmp_path: Path) -> None:
    server.answers = ["no length"] * 4
    with pytest.raises(UserError, match=f"it has {len(CONTENT)} bytes, expected 7"):
        fetch(server.url, tmp_path, size=7)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.answers = [302]
    path = fetch(server.url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-net.pt")


def test_a_cached_file_that_is_not_the_expected_one_is_replaced(server: Server, tmp_path: Path) -> None:
    cached_path(server.url, tmp_path).write_bytes(b"something else")
    assert fetch(server.url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert fetch(server.url, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT
    assert server.requests == 1


def test_no_server(tmp_path: Path) -> None:
    nobody = Server()
    nobody.server_close()
    with pytest.raises(UserError, match=r"no connection to the server.*put the file at"):
        fetch(nobody.url, tmp_path)


def test_a_server_that_does_not_answer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "TIMEOUT", (5, 0.1))
    server.answers = ["silent"] * 3
    with pytest.raises(UserError, match="the server does not answer"):
        fetch(server.url, tmp_path)
    server.answers = ["slow"]  # goes silent in the middle
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1][1] == '"one"'


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot download"):
        fetch(server.url, tmp_path / "file" / "below")
    assert server.requests == 0


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        """A file of which the disk takes a few bytes at a time, and 1,000,000 in all."""

        def write(self, data: Any) -> int:
            if self.tell() + 4000 > 1_000_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[:4000])

    def open_full(path: Path, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return Full(path, mode) if mode == "ab" and buffering == 0 else open(path, mode, buffering, **kwargs)

    monkeypatch.setattr(http_download, "open", open_full, raising=False)
    with pytest.raises(UserError, match=r"No space left on device.*the part that has come is kept"):
        fetch(server.url, tmp_path)
    monkeypatch.undo()
    kept = part_path(cached_path(server.url, tmp_path)).stat().st_size
    assert kept > 900_000
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges[1] == (f"bytes={kept}-", '"one"')


@pytest.mark.parametrize("digest", ["12", "g" * 64])
def test_a_digest_that_is_none(server: Server, tmp_path: Path, digest: str) -> None:
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        fetch(f"{server.url}#sha256={digest}", tmp_path)
    assert server.requests == 0


def test_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**options: Any) -> None:
        with pytest.raises(
            UserError, match=r"switched off by --offline or GGDR_OFFLINE.*put the file at"
        ) as caught:
            fetch(server.url, tmp_path, **options)
        assert server.url in str(caught.value)
        assert str(cached_path(server.url, tmp_path)) in str(caught.value)

    monkeypatch.setenv("GGDR_OFFLINE", "0")
    assert not downloads_forbidden()
    forbid_downloads()
    assert downloads_forbidden()
    refused()
    assert server.requests == 0
    monkeypatch.setenv("GGDR_OFFLINE", "no")
    path = fetch(server.url, tmp_path)
    monkeypatch.setenv("GGDR_OFFLINE", "1")
    assert fetch(server.url, tmp_path) == path
    refused(sha256="0" * 64)


def lock_of(server: Server, folder: Path) -> FileLock:
    """The lock that a process holds while it downloads."""
    return FileLock(folder / f".{cached_path(server.url, folder).name}.lock")


def in_thread(*arguments: Any, **options: Any) -> tuple[threading.Thread, list[Path]]:
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(fetch(*arguments, **options)))
    thread.start()
    return thread, found


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_one_downloads_and_the_others_wait(server: Server, tmp_path: Path) -> None:
    server.answers = ["slow"]
    others = [in_thread(server.url, tmp_path) for _ in range(4)]
    part = part_path(cached_path(server.url, tmp_path))
    wait_for(lambda: part.exists() and part.stat().st_size >= CUT // 2)
    time.sleep(0.1)
    server.release.set()
    for thread, found in others:
        thread.join(20)
        assert found[0].read_bytes() == CONTENT
    assert server.requests == 1
    assert names(tmp_path) == {"net.pt", "net.pt.json"}


def test_several_processes(server: Server, tmp_path: Path) -> None:
    source = (
        "import sys; from dnnlib.download import fetch; _, url, folder, digest = sys.argv; "
        "print(fetch(url, folder, sha256=digest))"
    )
    command = [sys.executable, "-c", source, server.url, str(tmp_path), DIGEST]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate(timeout=60)[0].strip() for process in running} == {
        str(cached_path(server.url, tmp_path))
    }
    assert server.requests == 1


def test_who_waits_in_vain_downloads_by_itself(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has the lock and hangs: nothing new comes."""
    monkeypatch.setattr(http_download, "PATIENCE", 0.1)
    part = leave_part(server, tmp_path)
    with lock_of(server, tmp_path):
        assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert part.read_bytes() == CONTENT[:CUT]
    assert server.ranges == [(None, None)]
    assert names(tmp_path) == {"net.pt", "net.pt.json", "net.pt.part", "net.pt.part.version"}


def test_a_waiting_process_is_patient_while_something_comes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "PATIENCE", 0.3)
    part = leave_part(server, tmp_path, length=10)
    with open(part, "ab", buffering=0) as stream, lock_of(server, tmp_path):
        thread, found = in_thread(server.url, tmp_path)
        for _ in range(8):
            time.sleep(0.1)
            stream.write(b"x")
        assert server.requests == 0
        os.truncate(part, 10)
    thread.join(20)
    assert found[0].read_bytes() == CONTENT
    assert server.ranges == [("bytes=10-", '"one"')]


def test_a_file_system_without_locks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(stream: Any, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    server.answers = ["cut", 500, 500, 500]
    with pytest.raises(UserError, match="500"):
        fetch(server.url + "2", tmp_path)
    assert names(tmp_path) == {"net.pt", "net.pt.json"}


def test_a_lock_ends_with_its_process(server: Server, tmp_path: Path) -> None:
    part = leave_part(server, tmp_path)
    source = (
        "import sys, time; from pathlib import Path; from dnnlib.http_download import claimed_part\n"
        "with claimed_part(Path(sys.argv[1])) as part: print(part.size, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", source, str(part.with_suffix(""))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == f"{CUT}\n"
        holder.kill()
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [(f"bytes={CUT}-", '"one"')]


def test_local_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "net.pkl"
    path.write_bytes(CONTENT)
    assert local_file(path) == local_file(str(path), sha256=DIGEST.upper(), size=len(CONTENT)) == path
    assert local_file(server.url).read_bytes() == CONTENT
    for source, options, message in [
        (
            tmp_path / "none.pkl",
            {},
            r"none\.pkl' does not exist; give the path of a file or an http\(s\) address",
        ),
        (tmp_path, {}, "is a folder, not a file"),
        ("s3://bucket/net.pkl", {}, "'s3://bucket/net.pkl' can't be read: s3:// is not supported"),
        (path, {"size": 3}, f"is not the expected file: it has {len(CONTENT)} bytes, expected 3"),
        (path, {"sha256": "0" * 64}, "is not the expected file: its SHA-256 is"),
    ]:
        with pytest.raises(UserError, match=message):
            local_file(source, **options)


def test_addresses() -> None:
    assert is_address("http://a/b")
    assert is_address("HTTPS://a/b")
    assert not is_address("a/http://b")
    assert not is_address(Path("https:/a"))


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path))
    assert cache_root() == tmp_path
    first, second = cached_path("https://a.example/x/net.pt?v=1"), cached_path("https://b.example/x/net.pt")
    assert first.parent == second.parent == tmp_path / "downloads"
    assert first != second
    assert first.name.endswith("-net.pt")
    assert cached_path("https://a.example/x/net.pt?v=1#sha256=00") == first
    assert len(cached_path(f"https://a.example/{'x' * 300}.pt").name) < 120
    monkeypatch.delenv("GGDR_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "stylegan2-ada-ggdr"


class Raw:
    """A server that sends the same bytes to everybody."""

    def __init__(self, reply: bytes | Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.reply = reply
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self.listener.accept()[0] as connection, contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    connection.sendall(self.reply) if isinstance(self.reply, bytes) else self.reply(
                        connection
                    )

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def answer(*headers: str, status: str = "200 OK", body: bytes = b"abc") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode("latin-1") + body


@pytest.mark.parametrize(
    "headers",
    [
        *(
            ["Content-Length: abc"],
            ["Content-Length: -3"],
            ["Content-Length: +3"],
            ["Content-Length: \xb2"],
            ["Content-Length: 3, 4"],
        ),
        *(
            ["Content-Length: " + "9" * 17],
            ["Content-Length: " + "9" * 5000],
            ["Content-Encoding: zstd"],
            ["Content-Encoding: gzip"],
        ),
        ["Transfer-Encoding: chunked"],
        ["X: " + "y" * 100_000],
        [f"X{number}: y" for number in range(300)],
        *(
            ["!Location: " + target]
            for target in (
                "file:///etc/passwd",
                "ftp://h/x",
                "http://[::1/x",
                "http://..a/x",
                "http://a:999999/x",
            )
        ),
        *(["!Location: " + target] for target in ("/\xff\xfe", "http://a\0b/", "", "http://" + "a" * 300)),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # urllib3 leaves sockets of bad answers to the collector
def test_odd_answers_are_one_line(tmp_path: Path, headers: list[str]) -> None:
    redirect = headers[0].startswith("!")
    reply = answer(
        *(header.removeprefix("!") for header in headers), status="302 F" if redirect else "200 OK"
    )
    with Raw(reply) as server, pytest.raises(UserError, match="cannot download") as caught:
        fetch(f"{server.address}/a.pkl?token=s3cret", tmp_path)
    assert str(caught.value).isprintable()
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".part", ".version", ".lock")]
    del caught
    gc.collect()


def test_what_the_server_says_cannot_move_the_cursor(tmp_path: Path) -> None:
    with (
        Raw(answer("Content-Length: 0", status="404 \x1b[31mNot\x07")) as server,
        pytest.raises(UserError) as caught,
    ):
        fetch(f"{server.address}/a.pkl", tmp_path)
    assert r"404 \x1b[31mNot\x07" in str(caught.value)


def test_https_stays_https() -> None:
    response = requests.Response()
    response.status_code, response.url, response.raw = 302, "https://host/a", io.BytesIO()
    for target, message in (
        ("http://host/b", "from https to http"),
        ("//host/b", None),
        ("/b", None),
        ("ftp://host/b", "ftp://, which"),
    ):
        response.headers["Location"] = target
        with http_download._Session() as session:
            if message is None:
                assert session.get_redirect_target(response) == target
            else:
                with pytest.raises(http_download.DownloadError, match=message):
                    session.get_redirect_target(response)


def test_a_file_that_is_too_large(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_download, "MAX_BYTES", 1_000_000)
    with pytest.raises(UserError, match=f"it has {len(CONTENT)} bytes, more than the 1000000"):
        fetch(server.url, tmp_path)
    monkeypatch.setattr(http_download, "MAX_UNANNOUNCED", 500_000)
    server.answers = ["no length"]
    with pytest.raises(UserError, match="more than 500000 bytes came, without an announced length"):
        fetch(server.url, tmp_path)
    monkeypatch.setattr(http_download, "MAX_BYTES", 1 << 40)
    monkeypatch.setattr(
        http_download.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000)
    )
    with pytest.raises(UserError, match="the disk has 1000 left"):
        fetch(server.url, tmp_path)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX: ", answer("Content-Length: 1000"), answer("Transfer-Encoding: chunked")]
)
def test_a_server_that_trickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """A byte now and then, in the headers or in the body, never reaches the limit of the time without one."""
    monkeypatch.setattr(http_download, "MAX_SECONDS", 0.3)
    done = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(start)
        while not done.wait(0.02):
            connection.sendall(b"1")

    with Raw(trickle) as server, pytest.raises(UserError, match=r"it took longer than 0\.3 seconds"):
        fetch(f"{server.address}/a.pkl", tmp_path)
    done.set()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder", "dangling"])
def test_a_part_is_an_ordinary_file_or_not_used(server: Server, tmp_path: Path, kind: str) -> None:
    part = part_path(cached_path(server.url, tmp_path / "cache"))
    part.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    {
        "link": lambda: part.symlink_to(victim),
        "hard link": lambda: os.link(victim, part),
        "pipe": lambda: os.mkfifo(part),
        "folder": part.mkdir,
        "dangling": lambda: part.symlink_to(tmp_path / "made"),
    }[kind]()
    assert fetch(server.url, tmp_path / "cache").read_bytes() == CONTENT
    assert victim.read_text() == "precious"
    assert not (tmp_path / "made").exists()
    assert os.path.lexists(part)


@pytest.mark.parametrize("version", [b"\xff\xfe", b"a\nb", b" a", "界".encode(), b"a" * 100_000, b""])
def test_a_version_that_is_damaged_begins_anew(server: Server, tmp_path: Path, version: bytes) -> None:
    part = leave_part(server, tmp_path)
    part.with_name(part.name + ".version").write_bytes(version)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [(None, None)]


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"sha256": 5}',
        b'{"sha256": null}',
        b"\xff",
        b"[" * 100_000,
        b'{"sha256": "x"}',
    ],
)
def test_a_damaged_record_is_repaired(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], record: bytes
) -> None:
    path = fetch(server.url, tmp_path)
    beside = path.with_name(path.name + ".json")
    beside.write_bytes(record)
    assert fetch(server.url, tmp_path) == path
    assert (
        capsys.readouterr().err
        == f"Warning: {beside} is damaged; it is written anew for the file as it is now\n"
    )
    assert json.loads(beside.read_text())["sha256"] == DIGEST
    assert fetch(server.url, tmp_path) == path
    assert capsys.readouterr().err == ""


def test_credentials_are_kept_out_of_the_cache(server: Server, tmp_path: Path) -> None:
    whole = server.url.replace("//", "//me:s3cret@") + "?token=s3cret"
    with pytest.raises(UserError, match=r"kept without its query, and no file in .* came from it"):
        fetch(f"{server.url}?...", tmp_path)
    path = fetch(whole, tmp_path)
    assert json.loads(path.with_name(path.name + ".json").read_text())["address"] == f"{server.url}?..."
    assert cached_path(whole.replace("me:s3cret", "you:other"), tmp_path) == path
    assert fetch(f"{server.url}?...", tmp_path) == path  # what a run that goes on knows of it
    other = fetch(f"{server.url}?token=other", tmp_path)
    assert other != path
    with pytest.raises(UserError, match=r"2 files in .* came from such addresses; give the whole address"):
        fetch(f"{server.url}?...", tmp_path)
    server.answers = [404]
    with pytest.raises(UserError, match="404") as caught:
        fetch(whole.replace("net", "missing"), tmp_path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["..", "a/..", "%2e%2e%2fx", "x" * 5000, "界" * 100, "a\\..\\b", "?a=../../x", ""]
)
def test_the_cached_name_stays_in_the_cache(tmp_path: Path, name: str) -> None:
    path = cached_path(f"http://host/{name}", tmp_path)
    assert path.parent == tmp_path
    assert len(os.fsencode(path.name)) < 120
