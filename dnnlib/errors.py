"""The exception that means "the user can fix this", one kind of it, and what is told as one."""

import errno
import re

#: What PyTorch, the C++ library and the system's loader say in an exception of no class of its own when
#: memory does not suffice.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
)


def printable(text: str, keep: str = "") -> str:
    """``text`` with control characters and broken Unicode as escapes, but for those in ``keep``.

    Names and contents of files can hold them: escaped, they cannot move a terminal's cursor or forge a line
    of a log.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text
    )


class UserError(Exception):
    """Bad input. The message is one printable line: what is wrong, where, and what to do about it.

    Entry points print it after ``Error:`` and exit with status 1, without a traceback
    (see :func:`dnnlib.cli.friendly_errors`).
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split("\n"))))


class Unavailable(UserError):
    """What would have to be downloaded, and cannot be."""


def out_of_memory(error: BaseException) -> UserError | None:
    """The one line for an exception that means that memory does not suffice; None for any other."""
    lines = str(error).strip().splitlines() or ["no more can be had"]
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for that
        return UserError(
            f"the GPU's memory does not suffice: {lines[0][:200]}; use smaller batches (--batch-gpu) or "
            "networks"
        )
    text = str(error).lower()
    by_text = isinstance(error, RuntimeError | ImportError) and any(part in text for part in _NO_MEMORY)
    if (tried := re.search(r"tried to allocate [\d.]+ \w+", lines[0])) is not None:
        lines = [tried[0]]
    if (
        isinstance(error, MemoryError)
        or by_text
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    ):
        return UserError(
            f"the memory of this machine does not suffice ({lines[0][-200:]}); use smaller batches, networks "
            "or images"
        )
    return None
