"""One file over HTTP: continued where it broke off, by one process at a time, checked when it is whole."""

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from dnnlib.files import atomic_write, file_sha256

TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
ATTEMPTS = 3  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
PATIENCE = 150.0  # seconds without a new byte until another process's download is no longer waited for
POLL = 0.2  # seconds between two looks at another process's download
BLOCK = 1 << 18


class DownloadError(Exception):
    """A download that failed for good; the message says why, without the address."""


class _Transient(Exception):
    """A failure that another attempt may cure."""


@dataclass(frozen=True)
class Expected:
    """What is known beforehand of a file: SHA-256 in lower-case hexadecimal, size in bytes; None where it is not."""

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
    """The beginning of a file, and beside it which version of the file at the server it is the beginning of."""

    path: Path

    @property
    def size(self) -> int:
        """In bytes; 0 when there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def version(self) -> str:
        """What the server calls the version (ETag or date); empty when it can't be continued."""
        return self._version_path.read_text(encoding="utf-8") if self._version_path.exists() else ""

    @property
    def _version_path(self) -> Path:
        return self.path.with_name(self.path.name + ".version")

    def begin(self, version: str) -> None:
        """Drop what there is, and note which version will come."""
        os.truncate(self.path, 0)
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


def part_path(target: Path) -> Path:
    """Where the beginning of ``target`` is kept."""
    return target.with_name(target.name + ".part")


@contextlib.contextmanager
def claimed_part(target: Path) -> Iterator[PartialFile]:
    """The beginning of ``target``, for this process alone, as soon as no other process is downloading it.

    The claim is a lock that the system drops with its process, so that none can be left behind. Where the process
    that has it hangs, and on file systems without locks, the part is a file of this process's own instead.
    Raises :class:`OSError` when the folder can't be written.
    """
    with contextlib.ExitStack() as stack:
        part = PartialFile(part_path(target))
        if not _lock(part.path, stack):
            part = PartialFile(target.with_name(f".{target.name}.{uuid.uuid4().hex}.part"))
            part.path.touch()
            stack.callback(part.remove)
        try:
            yield part
        finally:
            if part.size == 0:  # nothing came, or it has its name now
                part.remove()


def _lock(path: Path, stack: contextlib.ExitStack) -> bool:
    """Make the file at ``path`` if need be, and lock it until the stack unwinds; wait for another process that has it.

    False when the other process brings nothing for PATIENCE seconds, and where there are no locks.
    """
    size, since = -1, time.monotonic()
    while time.monotonic() - since <= PATIENCE:
        with contextlib.ExitStack() as attempt:
            stream = attempt.enter_context(open(path, "ab"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = os.fstat(stream.fileno()).st_size
                if found != size:
                    size, since = found, time.monotonic()
                time.sleep(POLL)
                continue
            except OSError:
                if os.fstat(stream.fileno()).st_size == 0:
                    path.unlink(missing_ok=True)
                return False
            # Otherwise the file was renamed or removed by its last owner, between our opening and locking it.
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                stack.push(attempt.pop_all())
                return True
    return False


def download(address: str, part: PartialFile, expected: Expected, title: str, progress: bool) -> None:
    """Bring ``part`` to its end and check it, in as many attempts as it takes while each brings something new.

    Raises :class:`DownloadError` (what came is kept in ``part`` unless it is wrong) and :class:`OSError`.
    """
    failures, most, reason = 0, part.size, ""
    while failures < ATTEMPTS:
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
        try:
            _receive(address, part, expected.size, title, progress)
            wrong = expected.mismatch(part.path)
            if wrong is None:
                return
            part.begin("")
            reason = wrong
        except requests.Timeout:
            reason = "the server does not answer"
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            reason = "there is no connection to the server, or it broke"
        except _Transient as error:
            reason = str(error)
        except requests.RequestException as error:
            raise DownloadError(" ".join(str(error).split())[:200]) from error
        failures, most = (1, part.size) if part.size > most else (failures + 1, most)
    raise DownloadError(reason)


def _receive(address: str, part: PartialFile, expected_size: int | None, title: str, progress: bool) -> None:
    """One request, for what is still missing if the version is known. Raises :class:`_Transient` when not all came."""
    start, version = part.size, part.version
    headers = {"Accept-Encoding": "identity"}  # without an encoding, the length announced is that of the file
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}  # RFC 9110, 13.1.5: all of it if it is another version by now
    with requests.get(address, stream=True, timeout=TIMEOUT, headers=headers) as response:
        if response.status_code == 416 or (response.status_code == 206 and not _continues(response, start, version)):
            part.begin("")
            raise _Transient("the server does not continue the download where it broke off")
        _refuse_failures(response)
        if response.status_code != 206:
            part.begin(_version(response))
            start = 0
        announced = None if _encoded(response) else response.headers.get("Content-Length")
        total = None if announced is None else start + int(announced)
        if None not in (total, expected_size) and total != expected_size:
            raise DownloadError(f"it has {total} bytes, expected {expected_size}")
        hidden = None if progress else True  # None: shown on a terminal only
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=f"download {title}", leave=False, disable=hidden)
        with bar, open(part.path, "ab", buffering=0) as stream:
            for block in response.iter_content(BLOCK):
                rest = memoryview(block)
                while rest:
                    rest = rest[stream.write(rest) :]
                bar.update(len(block))
    if part.size == 0 or (total is not None and part.size != total):
        raise _Transient(f"{part.size} bytes came, {total} were announced")


def _refuse_failures(response: requests.Response) -> None:
    status = response.status_code
    answer = f"the server answers {status} {response.reason}"
    if status >= 500 or status in (408, 429):
        raise _Transient(answer)
    if status not in (200, 206):
        raise DownloadError(answer)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError("the server sends a web page, not a file")


def _continues(response: requests.Response, start: int, version: str) -> bool:
    """Whether a partial answer begins at ``start`` of the version that was asked for; not every server heeds If-Range."""
    begins = re.match(rf"bytes {start}-", response.headers.get("Content-Range", ""))
    return begins is not None and _version(response) in ("", version) and not _encoded(response)


def _version(response: requests.Response) -> str:
    """What can stand in If-Range: the ETag unless it is a weak one, else the date of the last change."""
    if _encoded(response):
        return ""
    etag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag


def _encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity") != "identity"
