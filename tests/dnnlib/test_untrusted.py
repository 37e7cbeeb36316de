import builtins
import errno
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from dnnlib.errors import Unavailable, UserError
from dnnlib.untrusted import MAX_NESTING, one_line, parse_json, parsing, read_bytes, read_json, reason

BUILTIN_ERRORS = (
    "ValueError TypeError KeyError IndexError AttributeError AssertionError EOFError OverflowError "
    "RecursionError MemoryError NotImplementedError RuntimeError SyntaxError OSError StopIteration "
    "ZeroDivisionError SystemError"
)
CONTENT_ERRORS = [
    *(getattr(builtins, name)("bad") for name in BUILTIN_ERRORS.split()),
    struct.error("bad"),
    zlib.error("bad"),
    zipfile.BadZipFile("bad"),
    OSError(errno.EINVAL, "bad"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
]


@pytest.mark.parametrize("error", CONTENT_ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_parser_raises_becomes_one_line_that_names_the_file(error: Any) -> None:
    with (
        pytest.raises(UserError, match=r"^a\.npz is damaged: .+; get it anew$") as caught,
        parsing("a.npz", "is damaged", "get it anew"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.ENOENT, errno.EMFILE])
def test_errors_of_the_disk_keep_their_own_words(number: Any) -> None:
    with pytest.raises(UserError) as caught, parsing("a.npz", "is damaged", "get it anew"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"cannot read a.npz: {os.strerror(number)}"


@pytest.mark.parametrize(
    "error",
    [
        UserError("as it is"),
        Unavailable("as it is"),
        NameError("a fault"),
        ImportError("a fault"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_no_fault_of_the_content_passes(error: Any) -> None:
    with pytest.raises(type(error)) as caught, parsing("a.npz"):
        raise error
    assert caught.value is error


def test_reasons_are_one_printable_line() -> None:
    assert reason(ValueError("one\n\ttwo  three")) == "one two three"
    assert reason(ValueError("\x1b[2J\x00\u202e\udc80")) == r"\x1b[2J\x00\u202e\udc80"
    assert reason(ValueError()) == "ValueError"
    assert reason(KeyError("w")) == "it lacks 'w'"
    assert reason(RecursionError("maximum recursion depth")) == "it is nested too deeply"
    assert reason(MemoryError()) == "it asks for more memory than there is"
    assert reason(ValueError("no image <_io.BytesIO object at 0x7f00>")) == "no image"
    assert len(one_line("x" * 10_000)) < 310


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("[" * (MAX_NESTING + 2) + "]" * (MAX_NESTING + 2), "nested deeper"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested deeper"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "too large a number"),
        ("[" + "9" * 5000 + "]", "is no valid JSON"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        ("{", "is no valid JSON"),
        ("", "is no valid JSON"),
        (b"\xff\xfe\x00", "is no valid JSON"),
        ("[" + "1," * 600 + "1]", "more than the 1000 that are read"),
    ],
    ids=lambda value: (
        None
        if isinstance(value, str) and value.startswith(("[[", "[1,1", "[99", '{"a":{'))
        else str(value)[:20]
    ),
)
def test_json_that_is_refused(document: Any, message: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_json(document, "stats.jsonl", limit=10**6 if len(document) > 1500 else 1000, advice="remove it")
    assert str(caught.value).startswith("stats.jsonl is no valid JSON: ")
    assert str(caught.value).endswith("; remove it")


def test_json_that_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "ä"], "b": {"c": []}}
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value
    assert parse_json("[" * MAX_NESTING + "]" * MAX_NESTING, "x") is not None
    assert parse_json("[Infinity, 1e999]", "x", finite=False) == [float("inf")] * 2


def test_only_ordinary_files_within_the_limit_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(11))
    for name, message in [
        ("pipe", "no ordinary file"),
        ("large", "has 11 bytes"),
        ("none", "No such file"),
        (".", "Is a directory"),
    ]:
        with pytest.raises(UserError, match=message):
            read_bytes(tmp_path / name, limit=10)
    assert read_bytes(tmp_path / "large", limit=11) == bytes(11)
