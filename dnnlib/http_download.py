"""One file over HTTP: continued where it broke off, by one process at a time, checked when it is whole."""

import contextlib
import os
import queue
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from dnnlib.files import atomic_write, file_sha256
from dnnlib.untrusted import one_line

T = TypeVar("T")

TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
MAX_SECONDS = 7200.0  # for one file, all attempts together
MAX_BYTES = 8 << 30  # of one file; the largest StyleGAN2 pickles have 0.4 GiB, the largest detector 0.6 GiB
MAX_UNANNOUNCED = 1 << 29  # bytes of a file whose length the server does not announce
MAX_REDIRECTS = 10
MAX_VERSION = 1000  # characters of an ETag or a date that are kept
ATTEMPTS = 3  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
PATIENCE = 150.0  # seconds without a new byte until another process's download is no longer waited for
POLL = 0.2  # seconds between two looks at another process's download
BLOCK = 1 << 18


class DownloadError(Exception):
    """A download that failed for good; the message says why, without the address."""


class _TooLong(DownloadError):
    """The time is up, and a thread still waits for the server."""


class _Transient(Exception):
    """A failure that another attempt may cure."""


@dataclass(frozen=True)
class Expected:
    """What is known of a file beforehand: SHA-256 in lower-case hexadecimal and size in bytes, or None."""

    sha256: str | None = None
    size: int | None = None

    def mismatch(self, path: Path) -> str | None:
        """How a file differs from what is expected of it; None if it does not."""
        found = path.stat().st_size
        if self.size is not None and found != self.size:
            return f"it has {found} bytes, expected {self.size}"
        if self.sha256 is not None and (digest := file_sha256(path)) != self.sha256:
            return f"its SHA-256 is {digest}, expected {self.sha256}"
        return None


@dataclass(frozen=True)
class PartialFile:
    """The beginning of a file, and beside it a record of the server's version that it belongs to."""

    path: Path

    @property
    def size(self) -> int:
        """In bytes; 0 when there is none."""
        return self.path.lstat().st_size if self.path.exists() else 0

    @property
    def version(self) -> str:
        """The server's name of the version (ETag or date); empty if unknown or damaged: start anew then."""
        try:
            with open(self._version_path, encoding="ascii", opener=_own_file) as stream:
                version = stream.read(MAX_VERSION + 1)
        except (OSError, UnicodeDecodeError):
            return ""
        return version if _is_header_value(version) else ""

    @property
    def _version_path(self) -> Path:
        return self.path.with_name(self.path.name + ".version")

    def is_usable(self) -> bool:
        """Whether the name is free, or that of an ordinary file without other names."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return True
        return stat.S_ISREG(found.st_mode) and found.st_nlink == 1

    def begin(self, version: str) -> None:
        """Drop what there is, and record which version will come."""
        with open(self.path, "ab", opener=_own_file) as stream:
            stream.truncate(0)
        with atomic_write(self._version_path, "w", encoding="utf-8") as stream:
            stream.write(version)

    def remove(self) -> None:
        """Remove both files, as far as they are there."""
        for path in (self._version_path, self.path):
            path.unlink(missing_ok=True)

    def rename(self, target: Path) -> None:
        """The file is whole: give it its name."""
        with open(self.path, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, target)


def _own_file(path: str, flags: int) -> int:
    """Opener for :func:`open` that takes ordinary files with one name only. It never waits.

    Raises :class:`OSError` for a link, a pipe or a device.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(f"{path} is no file of its own")
    return descriptor


def _is_header_value(text: str) -> bool:
    return 0 < len(text) <= MAX_VERSION and text.isascii() and text.isprintable() and text == text.strip()


def part_path(target: Path) -> Path:
    """Where the beginning of ``target`` is kept."""
    return target.with_name(target.name + ".part")


@contextlib.contextmanager
def claimed_part(target: Path) -> Iterator[PartialFile]:
    """The beginning of ``target``, for this process alone, as soon as no other process is downloading it.

    The claim is a lock that the system drops with its process. This process gets a file of its own instead if
    the process with the lock brings nothing new, if the file system has no locks, or if something other than
    an ordinary file has the part's name (a link, a pipe).

    Raises:
        OSError: the folder can't be written.
    """
    part = PartialFile(part_path(target))
    with contextlib.ExitStack() as stack:
        if not (_lock(target, part, stack) and part.is_usable()):
            part = PartialFile(target.with_name(f".{target.name}.{uuid.uuid4().hex}.part"))
            stack.callback(part.remove)
        try:
            yield part
        finally:
            if part.size == 0:  # nothing came, or the file was renamed to its name
                part.remove()


def _lock(target: Path, part: PartialFile, stack: contextlib.ExitStack) -> bool:
    """Lock ``target`` until the stack unwinds, when no other process holds it any more.

    Returns:
        False if the other process brings nothing for PATIENCE seconds, or the file system has no locks.
    """
    # A soft lock would stay behind when its process is killed.
    lock = FileLock(target.with_name(f".{target.name}.lock"), poll_interval=POLL, fallback_to_soft=False)
    size, since = -1, time.monotonic()

    def is_stuck() -> bool:
        nonlocal size, since
        if part.size != size:
            size, since = part.size, time.monotonic()
        return time.monotonic() - since > PATIENCE

    try:
        stack.enter_context(lock.acquire(timeout=MAX_SECONDS, cancel_check=is_stuck))
    except (
        OSError
    ):  # filelock's Timeout among them; a folder that can't be written shows when the part is made
        return False
    return True


def download(address: str, part: PartialFile, expected: Expected, title: str, *, progress: bool) -> None:
    """Complete ``part`` and check it, in as many attempts as bring something new.

    All attempts together take at most MAX_SECONDS. Raises :class:`DownloadError` (what came is kept in
    ``part`` unless it is wrong) and :class:`OSError`.
    """
    failures, most, reason = 0, part.size, ""
    deadline = time.monotonic() + MAX_SECONDS
    while failures < ATTEMPTS:
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
        try:
            _receive(address, part, expected.size, title, deadline, progress=progress)
            wrong = expected.mismatch(part.path)
            if wrong is None:
                return
            part.begin("")
            reason = wrong
        except requests.Timeout:
            reason = "the server does not answer"
        except requests.exceptions.SSLError:
            raise DownloadError(
                "the server's certificate is not one that this machine trusts, or the encryption failed"
            ) from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            reason = "there is no connection to the server, or it broke"
        except _Transient as error:
            reason = str(error)
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise DownloadError(_in_words(error)) from error
        failures, most = (1, part.size) if part.size > most else (failures + 1, most)
    raise DownloadError(reason)


def _in_words(error: Exception) -> str:
    """Why a request failed for good. The error's own text may quote the address, so it is left out."""
    if isinstance(error, requests.TooManyRedirects):
        return f"it redirects more than {MAX_REDIRECTS} times"
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return "the answer is not encoded as it says"
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "the answer has a header of an invalid form"
    return "the address, or one that the server redirects to, is not valid"


class _Session(requests.Session):
    """Follows redirects to http(s) only, and from https to https only."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = MAX_REDIRECTS

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The address that an answer redirects to, or None.

        Raises :class:`DownloadError` for a redirection that is not followed.
        """
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        before, after = (
            urlsplit(address).scheme.lower() for address in (resp.url, urljoin(resp.url, target))
        )
        if after not in ("http", "https") or (before, after) == ("https", "http"):
            resp.close()
        if after not in ("http", "https"):
            raise DownloadError(f"it redirects to {one_line(after, 20)}://, which is not followed")
        if (before, after) == ("https", "http"):
            raise DownloadError(
                "it redirects from https to http, which anybody on the way could change; that is not followed"
            )
        return target


def _by(deadline: float, function: Callable[[], T]) -> T:
    """The result of a call that waits for the server. Raises :class:`DownloadError` at ``deadline``.

    The library's own limits are of the time between two bytes; a server that sends one now and then never
    reaches them.
    """
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            results.put((function(), None))
        except BaseException as error:  # noqa: BLE001 -- raised again below, in the thread that waits
            results.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        result, error = results.get(timeout=max(deadline - time.monotonic(), 0.001))
    except queue.Empty:
        raise _TooLong(f"it took longer than {MAX_SECONDS:g} seconds") from None
    try:
        if error is not None:
            raise error
    finally:
        error = None  # its traceback has this frame, which would keep the answer and its socket
    return result


@contextlib.contextmanager
def _closing(response: requests.Response) -> Iterator[None]:
    """Close an answer after the block, unless a thread still reads it: closing would wait for that."""
    waiting = False
    try:
        yield
    except _TooLong:
        waiting = True
        raise
    finally:
        if not waiting:
            response.close()


def _receive(
    address: str,
    part: PartialFile,
    expected_size: int | None,
    title: str,
    deadline: float,
    *,
    progress: bool,
) -> None:
    """Make one request, for the missing rest if the version is known.

    Raises :class:`_Transient` if not all comes.
    """
    start, version = part.size, part.version
    headers = {"Accept-Encoding": "identity"}  # without an encoding, the length announced is that of the file
    if start and version:
        headers |= {
            "Range": f"bytes={start}-",
            "If-Range": version,
        }  # RFC 9110, 13.1.5: all of it if it is another version by now
    with _Session() as session:
        response = _by(deadline, lambda: session.get(address, stream=True, timeout=TIMEOUT, headers=headers))
        with _closing(response):
            if response.status_code == 416 or (
                response.status_code == 206 and not _continues(response, start, version)
            ):
                part.begin("")
                raise _Transient("the server does not continue the download where it broke off")
            _refuse_failures(response)
            if response.status_code != 206:
                part.begin(_version(response))
                start = 0
            announced = _length(response)
            total = None if announced is None else start + announced
            _check_size(part, start, total, expected_size)
            hidden = None if progress else True  # None: shown on a terminal only
            bar = tqdm(
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=f"download {title}",
                leave=False,
                disable=hidden,
            )
            with bar:
                _store(response, part, total, bar, deadline)
    if part.size == 0 or (total is not None and part.size != total):
        raise _Transient(f"{part.size} bytes came, {total} were announced")


def _store(
    response: requests.Response, part: PartialFile, total: int | None, bar: "tqdm[Any]", deadline: float
) -> None:
    """Append an answer's body to the part, up to ``total`` or MAX_UNANNOUNCED bytes.

    Raises :class:`DownloadError` for more.
    """
    blocks, limit = response.iter_content(BLOCK), MAX_UNANNOUNCED if total is None else total
    with open(part.path, "ab", buffering=0, opener=_own_file) as stream:
        while block := _by(deadline, lambda: next(blocks, b"")):
            if part.size + len(block) > limit:
                part.begin("")
                raise DownloadError(
                    f"more than {limit} bytes came"
                    + (", without an announced length" if total is None else "")
                )
            rest = memoryview(block)
            while rest:
                rest = rest[stream.write(rest) :]
            bar.update(len(block))


def _length(response: requests.Response) -> int | None:
    """Bytes that the server announces, or None. Raises :class:`DownloadError` for an invalid length."""
    text = response.headers.get("Content-Length")
    if text is None or _encoded(response):
        return None
    values = {
        value.strip() for value in text.split(",")
    }  # RFC 9110, 8.6: the same one may come several times
    if len(values) != 1 or not re.fullmatch("[0-9]{1,18}", only := values.pop()):
        raise DownloadError(f"the server announces a length that is none, '{one_line(text, 40)}'")
    return int(only)


def _check_size(part: PartialFile, start: int, total: int | None, expected_size: int | None) -> None:
    """Raise :class:`DownloadError` for an unexpected size, or one too large for the program or the disk."""
    if total is None:
        return
    if expected_size is not None and total != expected_size:
        raise DownloadError(f"it has {total} bytes, expected {expected_size}")
    if total > MAX_BYTES:
        raise DownloadError(f"it has {total} bytes, more than the {MAX_BYTES} that are downloaded")
    free = shutil.disk_usage(part.path.parent).free
    if total - start > free:
        raise DownloadError(f"it has {total - start} bytes to come, and the disk has {free} left")


def _refuse_failures(response: requests.Response) -> None:
    status = response.status_code
    answer = f"the server answers {status} {one_line(str(response.reason), 60)}"
    if status >= 500 or status in (408, 429):
        raise _Transient(answer)
    if status not in (200, 206):
        raise DownloadError(answer)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError("the server sends a web page, not a file")
    if _encoded(response) and _encoding(response) not in ("gzip", "deflate"):
        raise DownloadError(
            f"the server sends it encoded ({one_line(_encoding(response), 40)}), which was not asked for"
        )


def _continues(response: requests.Response, start: int, version: str) -> bool:
    """Whether a partial answer begins at ``start`` of the right version; not all servers heed If-Range."""
    begins = re.match(rf"bytes {start}-", response.headers.get("Content-Range", ""))
    return start > 0 and begins is not None and _version(response) in ("", version) and not _encoded(response)


def _version(response: requests.Response) -> str:
    """What can stand in If-Range: the ETag unless it is a weak one, else the date of the last change."""
    if _encoded(response):
        return ""
    etag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    return version if _is_header_value(version) else ""


def _encoding(response: requests.Response) -> str:
    return response.headers.get("Content-Encoding", "identity").strip().lower()


def _encoded(response: requests.Response) -> bool:
    return _encoding(response) != "identity"
