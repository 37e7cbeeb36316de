"""Files that are either wholly there or not there at all, and files that grow by whole pieces."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dnnlib.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` for writing; flush it and rename it over ``path`` on success.

    The content is on the disk before the name changes, and the name before this returns, so that even a machine that
    loses its power has either the old file or the new one. On any exception, ``KeyboardInterrupt`` included, the temporary
    file is removed and ``path`` is untouched; only a killed process leaves one (:func:`remove_temporaries`).
    ``kwargs`` go to :func:`open`. Raises :class:`OSError` as :func:`open` does.
    """
    target = Path(path)
    name = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
    try:  # with the file's creation in it: an interrupt may come right after
        with open(name, mode.replace("w", "x"), **kwargs) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):  # it may never have come to be
            os.unlink(name)
        raise
    sync_folder(target.parent)


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Around what cannot go on without writing to a folder: a failure becomes a :class:`UserError` that names it."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename or folder  # the second is the new name of a renaming
        raise UserError(f"cannot write {name} ({error.strerror}); make room on the disk, or give a folder that can be written") from error


def discard_output(descriptor: int) -> None:
    """Let what is written to a file descriptor go nowhere from now on: its terminal or pipe is gone, and every write would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def remove_temporaries(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left of :func:`atomic_write` in a folder that nobody else writes to; gives the names."""
    stale = sorted(path for path in Path(folder).glob(".*.tmp") if path.is_file())
    for path in stale:
        path.unlink(missing_ok=True)
    return [path.name for path in stale]


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk. Raises :class:`OSError`."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems on which folders can't be synced
            raise
    finally:
        os.close(fd)


class AppendFile:
    """A text file that only ever grows, by whole pieces.

    A piece that can't be written, because the disk is full, is kept in memory and tried again before the next one, so that
    the disk never holds half of it; standard error is told once. Raises :class:`OSError` if the file can't be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._waiting: list[bytes] = []
        self._told = False

    def write(self, text: str) -> None:
        """Append a piece."""
        self._waiting.append(text.encode(errors="backslashreplace"))  # a path may hold what is no character
        while self._waiting:
            try:
                self._append(self._waiting[0])
            except OSError as error:
                if not self._told:
                    print(f"Warning: cannot write {self.path} ({error.strerror}); kept in memory and tried again", file=sys.stderr)
                self._told = True
                return
            del self._waiting[0]
        self._told = False

    def lock(self, patience: float = 10.0) -> bool:
        """Keep other processes from locking this file while it is open; False where one does, still after ``patience`` seconds.

        The lock ends with the process, however that ends, and processes that it forks do not inherit it.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    print(f"Warning: cannot lock {self.path} ({error.strerror}); start no second process on this run", file=sys.stderr)
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)

    def close(self) -> None:
        """Close the file, with a last attempt at what is waiting."""
        if self._waiting:
            self.write("")
        os.close(self._fd)

    def _append(self, piece: bytes) -> None:
        size, done = os.fstat(self._fd).st_size, 0
        try:
            while done < len(piece):
                done += os.write(self._fd, piece[done:])
        except OSError:
            os.ftruncate(self._fd, size)
            raise


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises :class:`OSError` as :func:`open` does."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
