"""Standard streams that are closed, without reader, on a full disk, or of a narrow encoding."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dnnlib.streams import _Outlet, _text

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import contextlib, os, sys, click
sys.path.insert(0, sys.argv.pop(1))
from dnnlib.cli import Command, friendly_errors

@click.command(cls=Command)
@friendly_errors
def main():
    with open("opened-later", "w") as stream:  # must not become one of the standard streams
        for number in range(3):
            print("out", number, flush=True)
            click.echo("echo")
            print("err", number, file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):  # as C code, which does not look
                os.write(2, b"written below Python\\n")
        assert sys.stdin.read() == "", "nothing to read"
        print("caf\\u00e9 \\udcff \\ud800")
        stream.write("done")

main()
"""


def run(redirection: Any, folder: Any, **environment: Any) -> Any:
    """The program's exit status and standard error, with the shell's redirections."""
    (folder / "program.py").write_text(PROGRAM)
    command = f'"{sys.executable}" program.py "{ROOT}" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert (folder / "opened-later").read_text() == "done"
    return done


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true", "2> /dev/full"]
)
def test_a_command_does_its_work_whatever_becomes_of_its_output(redirection: Any, tmp_path: Path) -> None:
    done = run(redirection, tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_output_that_is_lost_to_a_full_disk_is_told(tmp_path: Path) -> None:
    done = run("> /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(
        b"Error: standard output cannot be written (No space left on device); make room, or send it "
        b"elsewhere\n"
    )


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}],
    ids=str,
)
def test_a_name_that_the_terminal_cannot_show_is_escaped(environment: Any, tmp_path: Path) -> None:
    done = run("", tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last in (rb"caf\xe9 \udcff \ud800", "café \\udcff \\ud800".encode())


def outlet(path: Any) -> Any:
    return _Outlet(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def test_without_a_reader_output_goes_nowhere_and_that_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    found = _Outlet(write)
    assert found.write(b"abc") == 3
    assert os.readlink(f"/proc/self/fd/{write}") == os.devnull
    assert found.failure is None
    os.close(write)


def test_a_full_disk_is_remembered() -> None:
    found = outlet("/dev/full")
    assert found.write(b"abc") == 3
    assert found.failure is not None
    assert found.failure.errno == errno.ENOSPC
    os.close(found.fileno())


def test_a_descriptor_that_does_not_block_gets_everything() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(len(sys.stdin.buffer.read()))"],
        stdin=read,
        stdout=subprocess.PIPE,
    )
    os.close(read)
    found = _Outlet(write)
    found.write(bytes(1_000_000))
    os.close(write)
    assert child.communicate(timeout=30)[0] == b"1000000\n"


def test_the_text_layer_is_as_python_made_it(tmp_path: Path) -> None:
    for at_once in (False, True):
        with open(tmp_path / "a", "wb", buffering=0) as raw:
            stream = io.TextIOWrapper(raw, "latin-1", line_buffering=True, write_through=at_once)  # type: ignore[arg-type]
            text = _text(stream, _Outlet(raw.fileno()))
            assert (text.encoding, text.line_buffering, text.write_through) == ("latin-1", True, at_once)
            text.write("é…\n")
            assert (tmp_path / "a").read_bytes() == b"\xe9\\u2026\n"
