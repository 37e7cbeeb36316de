"""What is printed also goes to a file."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from dnnlib.errors import printable
from dnnlib.files import AppendFile, FolderLock, discard_output
from dnnlib.streams import forget_lost_output


class LogTee:
    """Inside, standard output is also appended to a file, whose folder is locked (:class:`FolderLock`).

    Progress bars go to standard error and so stay out of the file. When nobody reads standard output any
    more, the file alone is written. Control characters are escaped. Raises :class:`OSError` if the file can't
    be opened, and :class:`UserError` if another process holds the lock for more than ``patience`` seconds, or
    the file is a link out of its folder.
    """

    def __init__(self, path: Path, patience: float = 10.0) -> None:
        self._path = path
        self._lock = FolderLock(path.parent, patience)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            self._file = AppendFile(self._path)
            stack.pop_all()  # both stay until __exit__
        self._stdout: TextIO = sys.stdout
        sys.stdout = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout = self._stdout
        forget_lost_output()  # the file has it
        self._file.close()
        self._lock.release()

    def write(self, text: str) -> int:
        """Write to the file and to standard output."""
        text = printable(text, keep="\n\t\r")
        self._file.write(text)
        with self._without_reader():
            self._stdout.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush standard output; the file needs none."""
        with self._without_reader():
            self._stdout.flush()

    @contextmanager
    def _without_reader(self) -> Iterator[None]:
        """Discard standard output once its terminal or reader is gone; the file has everything."""
        try:
            yield
        except OSError:
            with suppress(OSError, ValueError):  # a stream that is no file
                discard_output(self._stdout.fileno())

    def isatty(self) -> bool:
        """Whether standard output is a terminal."""
        return self._stdout.isatty()
