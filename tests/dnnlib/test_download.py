"""Downloads from a server on the loopback address."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dnnlib import download as module
from dnnlib.download import cache_root, cached_path, fetch
from dnnlib.errors import UserError

CONTENT = bytes(range(256)) * 9000  # more than one block
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(HTTPServer):
    """Answers each request with the next of ``answers``: a status, or what to do with CONTENT."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Any] = []
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/net.pt"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.requests += 1
        answer = server.answers.pop(0)
        self.send_response(answer if isinstance(answer, int) else 200)
        if answer == "no length":
            self.end_headers()
            self.wfile.write(CONTENT)
        elif isinstance(answer, int) or answer == "empty":
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: 1 << 20] if answer == "short" else CONTENT if answer == "good" else CONTENT[::-1])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloads_once(server: Server, tmp_path: Path) -> None:
    server.answers = ["good"]
    path = fetch(server.url, tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-net.pt")
    assert fetch(server.url, tmp_path / "new" / "folder", sha256=DIGEST.upper()) == path
    assert server.requests == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_file_put_there_by_hand_is_used(server: Server, tmp_path: Path) -> None:
    cached_path(server.url, tmp_path).write_bytes(b"by hand")
    assert fetch(server.url, tmp_path).read_bytes() == b"by hand"
    assert server.requests == 0


@pytest.mark.parametrize("first", [500, 503, 429, "short", "empty", "reversed"])
def test_failures_that_may_pass_are_tried_again(server: Server, tmp_path: Path, first: Any) -> None:
    server.answers = [first, "good"]
    assert fetch(server.url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.requests == 2


def test_an_empty_answer_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.answers = ["empty", "good"]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([404], "404"),
        ([500] * 3, "the server answers 500"),
        (["short"] * 3, f"there is no connection|1048576 bytes came, {len(CONTENT)} were announced"),
        (["reversed"] * 3, f"expected {DIGEST}"),
    ],
)
def test_a_failure_names_address_and_place_and_leaves_nothing(server: Server, tmp_path: Path, answers: list[Any], reason: str) -> None:
    server.answers = list(answers)
    with pytest.raises(UserError, match=reason) as caught:
        fetch(server.url, tmp_path, sha256=DIGEST)
    assert server.url in str(caught.value)
    assert str(cached_path(server.url, tmp_path)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.requests == len(answers)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_announces_no_length(server: Server, tmp_path: Path) -> None:
    server.answers = ["no length"]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_cached_file_with_another_digest_is_replaced(server: Server, tmp_path: Path) -> None:
    server.answers = ["good"]
    cached_path(server.url, tmp_path).write_bytes(b"something else")
    assert fetch(server.url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_no_server(server: Server, tmp_path: Path) -> None:
    nobody = Server()
    nobody.server_close()
    with pytest.raises(UserError, match=r"no connection to the server.*put the file at"):
        fetch(nobody.url, tmp_path)


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot download"):
        fetch(server.url, tmp_path / "file" / "below")
    assert server.requests == 0


def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path))
    assert cache_root() == tmp_path
    first, second = cached_path("https://a.example/x/net.pt?v=1"), cached_path("https://b.example/x/net.pt")
    assert first.parent == second.parent == tmp_path / "downloads"
    assert first != second
    assert first.name.endswith("-net.pt")
    monkeypatch.delenv("GGDR_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "stylegan2-ada-ggdr"
