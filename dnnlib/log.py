"""What is printed also goes to a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from dnnlib.errors import UserError
from dnnlib.files import AppendFile, discard_output
from dnnlib.streams import forget_lost_output


class LogTee:
    """While open, everything written to standard output is also appended to a file, which no other :class:`LogTee` may have open.

    Progress bars go to standard error and so stay out of the file. When nobody reads standard output any more, the file alone is
    written. Raises :class:`OSError` if the file can't be opened, and
    :class:`UserError` if another process holds it for more than ``patience`` seconds.
    """

    def __init__(self, path: Path, patience: float = 10.0) -> None:
        self._path = path
        self._patience = patience

    def __enter__(self) -> Self:
        self._file = AppendFile(self._path)
        if not self._file.lock(self._patience):
            self._file.close()
            raise UserError(f"another process is writing {self._path}; stop that one first, or give another folder")
        self._stdout: TextIO = sys.stdout
        sys.stdout = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stdout = self._stdout
        forget_lost_output()  # the file has it
        self._file.close()

    def write(self, text: str) -> int:
        self._file.write(text)
        with self._without_reader():
            self._stdout.write(text)
        return len(text)

    def flush(self) -> None:
        with self._without_reader():
            self._stdout.flush()

    @contextmanager
    def _without_reader(self) -> Iterator[None]:
        """Where the terminal or the program at the other end is gone, the file has everything, and what is done goes on."""
        try:
            yield
        except OSError:
            with suppress(OSError, ValueError):  # a stream that is no file
                discard_output(self._stdout.fileno())

    def isatty(self) -> bool:
        return self._stdout.isatty()
