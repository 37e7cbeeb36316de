"""Durations, lists of numbers, option spelling, atomic files, the log."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dnnlib.cli import ClassNumber, Command, friendly_errors, parse_int_list
from dnnlib.durations import format_duration
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.log import LogTee


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (200, "3m 20s"),
        (18100, "5h 01m 40s"),
        (184500, "2d 03h 15m"),
    ],
)
def test_durations(seconds: Any, text: Any) -> None:
    assert format_duration(seconds) == text


def test_lists_of_numbers() -> None:
    assert parse_int_list("1,2,5-7, 3") == [1, 2, 5, 6, 7, 3]
    for text in ("", "a", "1,", "-1", "5-", "7-5", "1.5", "9" * 5000, "²", "0-1000000", "0-600000,0-600000"):
        with pytest.raises(UserError):
            parse_int_list(text)


@pytest.mark.parametrize("text", ["0.2,0.7,1", "cat", "1.5"])
def test_a_class_is_a_number(text: Any) -> None:
    assert ClassNumber().convert("3", None, None) == 3
    with pytest.raises(
        click.BadParameter,
        match=f"'{text}' is not a class number such as 0. Labels that are lists of numbers",
    ):
        ClassNumber().convert(text, None, None)


@click.command(cls=Command)
@click.option("--reg_type")
@click.option("--allow-tf32")
@click.option("-n", "--dry-run", is_flag=True)
@friendly_errors
def command(reg_type: Any, allow_tf32: Any, dry_run: Any) -> None:
    if reg_type == "bad":
        raise UserError("this is\nbad")
    click.echo(f"{reg_type} {allow_tf32} {dry_run}")


@pytest.mark.parametrize(
    "args",
    [["--reg_type=a_b", "--allow-tf32=1", "-n"], ["--reg-type", "a_b", "--allow_tf32", "1", "--dry_run"]],
)
def test_options_take_either_dash(args: Any) -> None:
    assert CliRunner().invoke(command, args).output == "a_b 1 True\n"


def test_user_errors_are_one_line_and_status_1() -> None:
    result = CliRunner().invoke(command, ["--reg_type=bad"])
    assert (result.exit_code, result.output) == (1, "Error: this is bad\n")


def test_atomic_write_replaces_or_leaves_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path, "w") as stream:
        stream.write("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_write(path, "w") as stream:  # noqa: PT012
        stream.write("second")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_log_tee_writes_to_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with LogTee(tmp_path / "log.txt"):
        print("hello")
    assert sys.stdout is before
    assert (tmp_path / "log.txt").read_text() == "hello\n"
    assert capsys.readouterr().out == "hello\n"


def test_messages_are_one_printable_line() -> None:
    assert (
        str(UserError("a\nb \x1b[31mred\x1b[0m é 日本 \u202e\udc80"))
        == r"a b \x1b[31mred\x1b[0m é 日本 \u202e\udc80"
    )


class OutOfMemoryError(RuntimeError):
    """Stands for torch's."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "the memory of this machine does not suffice"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 9"
            ),
            "the memory of this machine does not suffice",
        ),
        (RuntimeError("std::bad_alloc"), "the memory of this machine does not suffice"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the memory of this machine does not suffice"),
        (
            ImportError("libx.so: failed to map segment from shared object"),
            "the memory of this machine does not suffice",
        ),
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
            "the GPU's memory does not suffice: CUDA out of memory. Tried",
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (OSError(errno.ENOENT, "No such file"), None),
        (ValueError("not enough memory of the past"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_memory_that_does_not_suffice_is_one_line(error: Any, message: Any) -> None:
    @click.command(cls=Command)
    @friendly_errors
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing)
    assert result.exit_code == 1
    if message is None:
        assert result.exception is error
    else:
        assert result.output.startswith(f"Error: {message}")
        assert result.output.count("\n") == 1
