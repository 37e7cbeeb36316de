"""What is printed also goes to a file."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO


class LogTee:
    """While open, everything written to standard output is also appended to a file.

    Progress bars go to standard error and so stay out of the file. Raises :class:`OSError` if the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = open(self._path, "a", encoding="utf-8")
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
        self._file.flush()
        self._stdout.flush()

    def isatty(self) -> bool:
        return self._stdout.isatty()
