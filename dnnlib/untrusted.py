"""Reads files that somebody else may have made: every fault becomes one line that names the file."""

import contextlib
import errno
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dnnlib.errors import UserError, printable

MAX_REASON = 300  # characters of an exception's text
MAX_JSON = 2**24  # bytes of a document; parsed it takes up to 25 times as much
BLOCK = 2**20  # bytes that are unpacked at once
MAX_NESTING = 64  # lists and objects inside each other

#: Operating system errors that a file's content causes, by a senseless offset or length. All others are the
#: disk's.
_CONTENT_ERRORS = {None, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG}

#: Exceptions that only a fault of the program raises. They keep their traceback.
_PROGRAM_FAULTS = (ImportError, NameError)


@contextlib.contextmanager
def parsing(what: str, fault: str = "cannot be read", advice: str = "") -> Iterator[None]:
    """Turn whatever a parser raises in the block into ``{what} {fault}: reason; {advice}``.

    Parsers (Pillow, numpy, zipfile, lmdb, protobuf, ...) raise nearly any exception on damaged or hostile
    bytes, so the kinds are told apart by what they are not. A :class:`UserError` passes as it is. An error of
    the disk (no such file, no permission, no space, a read error) does not blame the content: it becomes
    ``cannot read {what}: reason``. A fault of the program (:class:`ImportError`, :class:`NameError`) keeps
    its traceback. Put as little as possible into the block: the parser and the checks of what it gave.

    Args:
        what: names the file, or the part of one, at the start of the line.
        fault: what is wrong with it.
        advice: what to do about it; empty for none.

    Raises:
        UserError: in place of what the block raised.
    """
    try:
        yield
    except UserError:
        raise
    except _PROGRAM_FAULTS:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _CONTENT_ERRORS:
            raise UserError(f"cannot read {what}: {reason(error)}") from error
        raise UserError(f"{what} {fault}: {reason(error)}" + (f"; {advice}" if advice else "")) from error


def reason(error: BaseException) -> str:
    """What an exception says, in one printable line, for the end of a message."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, MemoryError):
        return (
            f"it asks for more memory than there is ({one_line(text)})"
            if text
            else "it asks for more memory than there is"
        )
    if isinstance(error, KeyError):  # whose text is the bare key
        text = f"it lacks {text}"
    return one_line(_without_addresses(text)) or type(error).__name__


def one_line(text: str, limit: int = MAX_REASON) -> str:
    """``text`` on one line of at most ``limit`` characters, without control characters and broken Unicode.

    Use it for whatever a file holds before it reaches a terminal: escapes cannot move the cursor or forge a
    line.
    """
    line = " ".join(text[: 4 * limit].split())
    line = printable(line)
    return line if len(line) <= limit else line[:limit] + "..."


def parse_json(
    content: bytes | str, what: str, *, limit: int = MAX_JSON, finite: bool = True, advice: str = ""
) -> Any:
    """The value of a JSON document from outside, in bounded memory.

    Args:
        content: of the file; bytes are UTF-8 (or what :func:`json.loads` finds them to be).
        what: names the document in messages.
        limit: bytes (or characters) that it may have.
        finite: refuse ``NaN`` and ``Infinity``, and numbers too large for a float, which become infinite.
        advice: what to do about a faulty one.

    Raises:
        UserError: it is too large, no JSON, nested deeper than :data:`MAX_NESTING`, has a key twice in one
            object, or numbers that are not finite where they must be.
    """
    with parsing(what, "is no valid JSON", advice):
        if len(content) > limit:
            raise ValueError(f"it has {len(content)} bytes, more than the {limit} that are read")
        numbers: dict[str, Any] = (
            {"parse_constant": _refuse_constant, "parse_float": _finite_float} if finite else {}
        )
        value = json.loads(content, object_pairs_hook=_object, **numbers)
        _check_nesting(value)
    return value


def read_json(
    path: str | os.PathLike[str], *, limit: int = MAX_JSON, finite: bool = True, advice: str = ""
) -> Any:
    """The value of a JSON file, see :func:`parse_json`. Raises :class:`UserError`."""
    return parse_json(read_bytes(path, limit=limit), str(path), limit=limit, finite=finite, advice=advice)


def read_bytes(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """Read an ordinary file of at most ``limit`` bytes. Raises :class:`UserError`; never waits for a pipe."""
    with parsing(str(path)):
        with open_ordinary(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            content = stream.read(min(size, limit) + 1)  # a read takes the memory that it asks for
        if len(content) > limit:
            raise ValueError(f"it has {Path(path).stat().st_size} bytes, more than the {limit} that are read")
    return content


def open_ordinary(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading bytes.

    Raises :class:`OSError`, and :class:`ValueError` for a pipe, a device or a socket.
    """
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  the caller closes it
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise ValueError("it is no ordinary file")
    return stream


class BoundedReader(io.RawIOBase):
    """Reads up to ``limit`` bytes of what another stream unpacks: a small file may unpack to any size.

    Its methods raise :class:`ValueError` if the content is longer and more of it is requested.
    """

    def __init__(self, stream: io.BufferedIOBase, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    def readable(self) -> bool:
        """Always True."""
        return True

    def seekable(self) -> bool:
        """Always True; but not from the end."""
        return True

    def tell(self) -> int:
        """The position in the unpacked content."""
        return self._stream.tell()

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, counted from the start or from here."""
        target = position + (self.tell() if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END or target > self._limit:
            self._refuse()
        return self._stream.seek(target)

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes; all that are left without a size."""
        room = self._limit - self.tell()
        wanted = room + 1 if size is None or size < 0 else min(size, room + 1)
        blocks: list[bytes] = []
        # In blocks, because a read takes the memory that it asks for.
        while wanted > 0 and (block := self._stream.read(min(wanted, BLOCK))):
            blocks.append(block)
            wanted -= len(block)
            room -= len(block)
        if room < 0:
            self._refuse()
        return b"".join(blocks)

    def _refuse(self) -> None:
        raise ValueError(f"it unpacks to more than the {self._limit} bytes that are read")


def _without_waiting(path: str, flags: int) -> int:
    """For :func:`open`: opening a pipe with nobody at its other end does not wait."""
    return os.open(path, flags | os.O_NONBLOCK)


def _without_addresses(text: str) -> str:
    """Pillow names the file that it reads, which is one in memory: `` <_io.BytesIO object at 0x7f...>``."""
    before, found, after = text.partition("<_io.")
    return f"{before.rstrip()} {after.partition('>')[2].lstrip()}".strip() if found else text


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{one_line(text, 20)} is too large a number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return values


def _check_nesting(value: Any) -> None:
    """Level by level, since a recursive walk is what deep nesting breaks."""
    level, depth = [value], 0
    while level:
        if depth > MAX_NESTING:
            raise ValueError(f"it is nested deeper than {MAX_NESTING} levels")
        inner = (
            part.values() if isinstance(part, dict) else part
            for part in level
            if isinstance(part, dict | list)
        )
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        depth += 1
