"""What is printed also goes to a file."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from dnnlib.errors import UserError
from dnnlib.files import AppendFile


class LogTee:
    """While open, everything written to standard output is also appended to a file, which no other :class:`LogTee` may have open.

    Progress bars go to standard error and so stay out of the file. Raises :class:`OSError` if the file can't be opened, and
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
        self._file.close()

    def write(self, text: str) -> int:
        self._file.write(text)
        return self._stdout.write(text)

    def flush(self) -> None:
        self._stdout.flush()

    def isatty(self) -> bool:
        return self._stdout.isatty()
