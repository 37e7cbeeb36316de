"""Standard streams that do not end a command, whatever is at their other end.

A stream may be closed from the start, its reader or terminal may go away, its disk may be full, and its
encoding may not have the characters of a name.
"""

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any, TextIO

from dnnlib.files import discard_output

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: What a write fails with when nobody is there to read it.
NO_READER = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)


class _Outlet(io.FileIO):
    """A file descriptor for writing that takes everything.

    Without a reader, output goes nowhere from then on. What cannot be written for another reason is dropped,
    and ``failure`` keeps the first such error.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        view = memoryview(data).cast("B")
        rest = view
        while rest:
            try:
                written: Any = super().write(rest)
            except OSError as error:
                if error.errno in NO_READER:
                    discard_output(self.fileno())
                else:
                    self.failure = self.failure or error
                break
            if written is None:  # a descriptor that does not block, and is full
                select.select([], [self], [])
            else:
                rest = rest[written:]
        return len(view)


_outlets: dict[str, _Outlet] = {}


def steady_streams() -> None:
    """Make standard input, output and error usable, for this process and those that it starts.

    A closed one becomes the null device, so that no file that is opened later takes its number. The others
    keep their encoding; a character that it does not have is written as an escape. Streams that something
    else has put in place of the process's own stay as they are.
    """
    for descriptor in range(3):
        _open_descriptor(descriptor)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and name not in _outlets):
            _outlets[name] = _Outlet(descriptor)
            setattr(sys, name, _text(stream, _outlets[name]))


def lost_output() -> OSError | None:
    """The first error by which standard output lost something, or None. A missing reader is no error."""
    return _outlets["stdout"].failure if "stdout" in _outlets else None


def forget_lost_output() -> None:
    """What was lost of standard output is kept elsewhere."""
    if "stdout" in _outlets:
        _outlets["stdout"].failure = None


def _open_descriptor(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
        os.dup2(opened, descriptor)  # which also lets children inherit it
        if opened != descriptor:
            os.close(opened)


def _text(stream: TextIO | None, outlet: _Outlet) -> TextIO:
    """The text layer that Python gives ``stream``, over ``outlet``."""
    encoding, lines, at_once = "utf-8", True, False
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        encoding, lines, at_once = stream.encoding, stream.line_buffering, stream.write_through
    buffer: Any = outlet if at_once else io.BufferedWriter(outlet)
    return io.TextIOWrapper(
        buffer, encoding, "backslashreplace", newline="\n", line_buffering=lines, write_through=at_once
    )
