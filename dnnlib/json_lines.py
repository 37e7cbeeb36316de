"""Files with a JSON document in each line, as runs write them and as anybody may have changed them."""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.checked import accepted
from dnnlib.errors import UserError
from dnnlib.untrusted import parse_json, parsing

MAX_LINE = 2**20  # bytes; the records of a run have some thousand


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: from 1.
        content: its bytes with their end; cut off behind :data:`MAX_LINE`.
        value: what it says; None for what is no JSON, and what is longer than that.
    """

    number: int
    content: bytes
    value: Any


def read_lines(path: str | os.PathLike[str]) -> Iterator[Line]:
    """Every line of a file that is not empty, one at a time; none where there is no file.

    Raises :class:`UserError` for something other than an ordinary file, and when it can't be read.
    """
    if not Path(path).exists():
        return
    with parsing(str(path)):
        stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - closed below
    with stream:
        with parsing(str(path)):
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ValueError("it is no ordinary file")
        for number, content in enumerate(_lines(stream, str(path)), start=1):
            if content.strip():
                yield Line(number, content, _value(content))


def read_records(path: str | os.PathLike[str], hint: Any, kind: str) -> list[Any]:
    """The records of a JSON lines file that :func:`dnnlib.checked.check` accepts as ``hint``, in order.

    All other lines are left out, with one warning on standard error. ``kind`` says there what a line should
    have been. Raises :class:`UserError` as :func:`read_lines` does.
    """
    records, left_out = [], []
    for line in read_lines(path):
        if accepted(line.value, hint):
            records.append(line.value)
        else:
            left_out.append(line.number)
    if left_out:
        print(_warning(path, left_out, kind), file=sys.stderr)
    return records


def _lines(stream: Any, what: str) -> Iterator[bytes]:
    while True:
        with parsing(what):
            content = stream.readline(MAX_LINE + 1)
            rest = content
            while len(rest) > MAX_LINE and not rest.endswith(b"\n"):  # over the rest of one that is too long
                rest = stream.readline(MAX_LINE + 1)
        if not content:
            return
        yield content


def _value(content: bytes) -> Any:
    try:
        return parse_json(content, "the line", limit=MAX_LINE, finite=False)
    except UserError:
        return None


def _warning(path: str | os.PathLike[str], numbers: Sequence[int], kind: str) -> str:
    first = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    lines, verb = (f"line {first}", "is no") if len(numbers) == 1 else (f"lines {first}", "are no")
    return f"Warning: {lines} of {path} {verb} {kind} and {verb.split()[0]} left out"
