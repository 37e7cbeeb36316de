"""Files that are either wholly there or not there at all, and files that grow by whole pieces."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dnnlib.errors import UserError

#: Names that :func:`atomic_write` gives: ``.{the file's name}.{16 hexadecimal digits}.tmp``.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` for writing; flush it and rename it over ``path`` on success.

    The content is on the disk before the name changes, and the name before this returns, so that even a
    machine that loses its power has either the old file or the new one. On any exception,
    ``KeyboardInterrupt`` included, the temporary file is removed and ``path`` is untouched; only a killed
    process leaves one (:func:`remove_temporaries`). A file that is replaced passes its permissions on.
    ``kwargs`` go to :func:`open`.

    Raises:
        UserError: ``path`` is a device, a pipe or a socket: renaming would put a file in its place.
        OSError: as :func:`open` does.
    """
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        raise UserError(
            f"{path} is a device, a pipe or a socket, which no file may replace; give another path"
        )
    name = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
    try:  # with the file's creation in it: an interrupt may come right after
        with open(name, mode.replace("w", "x"), **kwargs) as stream:
            _keep_mode(target, stream.fileno())
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
    """Turn a failure to write in the block into a :class:`UserError` that names the file, else ``folder``."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename or folder  # the second is the new name of a renaming
        raise UserError(
            f"cannot write {name} ({error.strerror}); make room on the disk, or give a folder that can be "
            "written"
        ) from error


def discard_output(descriptor: int) -> None:
    """Discard what is written to a file descriptor from now on, because its terminal or pipe is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def remove_temporaries(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left of :func:`atomic_write` in a folder; returns the names.

    Nobody else may be writing in the folder.
    """
    names = [
        entry.name
        for entry in os.scandir(folder)
        if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
    ]
    for name in names:
        (Path(folder) / name).unlink(missing_ok=True)
    return sorted(names)


def open_inside(path: str | os.PathLike[str], flags: int) -> int:
    """Open an ordinary file to write to it, by the flags of :func:`os.open`; gives the descriptor.

    Raises:
        UserError: the path is a link that leads out of its folder, or something other than a file.
        OSError: it can't be opened.
    """
    folder, real = Path(path).parent.resolve(), Path(os.path.realpath(path))
    if not real.is_relative_to(folder):
        raise UserError(
            f"{path} is a link out of its folder, to {real}, and is not written to; remove the link"
        )
    if real.exists() and not real.is_file():
        raise UserError(f"{path} is no ordinary file and cannot be written to; move it away")
    return os.open(real, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _keep_mode(target: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # there is none yet, or the file system has no permissions
        before = os.lstat(target)
        if stat.S_ISREG(before.st_mode):
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


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

    A piece that can't be written, because the disk is full, is kept in memory and tried again before the next
    one, so that the disk never holds half of it; standard error is told once. Raises :class:`OSError` if the
    file can't be opened, and :class:`UserError` for a link out of its folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = open_inside(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._waiting: list[bytes] = []
        self._told = False

    def write(self, text: str) -> None:
        """Append a piece."""
        self._waiting.append(text.encode("utf-8", "backslashreplace"))
        while self._waiting:
            try:
                self._append(self._waiting[0])
            except OSError as error:
                if not self._told:
                    print(
                        f"Warning: cannot write {self.path} ({error.strerror}); kept in memory and tried "
                        "again",
                        file=sys.stderr,
                    )
                self._told = True
                return
            del self._waiting[0]
        self._told = False

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


class FolderLock:
    """Keeps other processes from locking a folder while this one does, for a ``with`` block.

    The lock lies on the folder itself, so it holds when files in it are removed, moved or replaced. (A lock
    on a file, such as filelock's, would not.) It ends with the process, however that ends, and forked
    processes do not keep it. On a file system that locks files only (NFS), it is a file ``.lock``.

    Args:
        folder: that exists.
        patience: seconds to wait for another process's lock.

    Raises:
        UserError: on entry, when another process still holds it.
        OSError: on entry, when the folder can't be opened.
    """

    def __init__(self, folder: str | os.PathLike[str], patience: float = 10.0) -> None:
        self.folder = Path(folder)
        self._patience = patience
        self._fd = -1

    def __enter__(self) -> Self:
        self._open(os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        deadline = time.monotonic() + self._patience
        while not self._try():
            if time.monotonic() >= deadline:
                self.release()
                raise UserError(
                    f"another process is writing in {self.folder}; stop that one first, or give another "
                    "folder"
                )
            time.sleep(min(0.2, self._patience))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock back; nothing happens where there is none."""
        if self._fd in _locked:
            _locked.remove(self._fd)
            os.close(self._fd)

    def _open(self, descriptor: int) -> None:
        self._fd = descriptor
        _locked.add(descriptor)

    def _try(self) -> bool:
        """Whether the lock is had, or the file system has no locks."""
        is_folder = stat.S_ISDIR(os.fstat(self._fd).st_mode)
        try:
            (fcntl.flock if is_folder else fcntl.lockf)(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if is_folder:
                self.release()
                self._open(open_inside(self.folder / ".lock", os.O_WRONLY | os.O_CREAT))
                return self._try()
            print(
                f"Warning: cannot lock {self.folder} ({error.strerror}); start no second process on it",
                file=sys.stderr,
            )
        return True


#: Descriptors of all :class:`FolderLock` objects.
_locked: set[int] = set()


def _give_up_locks() -> None:
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


os.register_at_fork(after_in_child=_give_up_locks)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises :class:`OSError` as :func:`open` does."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
