"""Files that appear as a whole, files that grow by whole pieces, full disks, locks."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dnnlib import files
from dnnlib.errors import UserError
from dnnlib.files import AppendFile, FolderLock, atomic_write, remove_temporaries, writing
from dnnlib.log import LogTee

ROOT = Path(__file__).resolve().parent.parent.parent


class FullDisk:
    """Takes the place of os.write for one file: so many bytes still fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: Any) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: Any, data: Any) -> Any:
        if fd < 3:
            return self._write(fd, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


def test_the_folder_is_synced_after_the_file_and_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order a machine that loses its power has the old or the new file."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (calls.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"), fsync(fd))[1],
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b))[1])
    with atomic_write(tmp_path / "a") as stream:
        stream.write(b"x" * 100_000)
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_folders_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: Any, fails: Any
) -> None:
    fsync = os.fsync

    def refuse(fd: Any) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(number, "no")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) if fails else writing(tmp_path), atomic_write(tmp_path / "a") as stream:  # noqa: PT011 - any
        stream.write(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_temporaries_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = (
        "import os\nfrom dnnlib.files import atomic_write\n"
        "with atomic_write('a.pt') as f: f.write(b'x'); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(files.__file__))}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    for name in (".hidden", "b.tmp", ".config.json"):
        (tmp_path / name).touch()
    (stale,) = remove_temporaries(tmp_path)
    assert stale.startswith(".a.pt.")
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "b.tmp", ".config.json"}


def test_writing_names_the_file() -> None:
    with (
        pytest.raises(UserError, match=r"cannot write /proc/x \(No such file or directory\); make room"),
        writing("folder"),
    ):
        Path("/proc/x").touch()
    with (
        pytest.raises(UserError, match=r"cannot write folder \(No space left on device\)"),
        writing("folder"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_does_not_fit_waits_and_no_half_line_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AppendFile(tmp_path / "a.jsonl")
    log.write("first\n")
    disk = FullDisk(monkeypatch, room=3)
    log.write("second\n")
    log.write("third\n")
    assert (tmp_path / "a.jsonl").read_text() == "first\n"
    assert capsys.readouterr().err.count("cannot write") == 1
    disk.room = 1000
    log.write("fourth\n")
    assert (tmp_path / "a.jsonl").read_text() == "first\nsecond\nthird\nfourth\n"
    disk.room = 0
    log.write("fifth\n")
    assert "No space left on device" in capsys.readouterr().err
    disk.room = 1000
    log.close()
    assert (tmp_path / "a.jsonl").read_text().endswith("fourth\nfifth\n")


def test_a_file_that_is_there_grows(tmp_path: Path) -> None:
    for text in ("a\n", "é\n"):
        log = AppendFile(tmp_path / "log")
        log.write(text)
        log.close()
    assert (tmp_path / "log").read_text(encoding="utf-8") == "a\né\n"


def other_process(folder: Any) -> Any:
    """Whether another process gets the lock."""
    code = "import sys\nfrom dnnlib.files import FolderLock\nwith FolderLock(sys.argv[1], 0.1): pass"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(files.__file__))}
    return (
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], env=environment, check=False, capture_output=True
        ).returncode
        == 0
    )


def no_folder_locks(*_: Any) -> None:
    raise OSError(errno.EBADF, "Bad file descriptor")


@pytest.mark.parametrize("on_network", [False, True])
def test_one_process_at_a_time(
    on_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if on_network:  # NFS locks files, and only those that are open for writing
        monkeypatch.setattr(files.fcntl, "flock", no_folder_locks)
    with FolderLock(tmp_path, 0):
        for path in tmp_path.iterdir():
            assert path.name == ".lock"
        if not on_network:
            assert not other_process(tmp_path)
    assert other_process(tmp_path)
    assert capsys.readouterr().err == ""


def test_the_lock_does_not_hang_on_a_file(tmp_path: Path) -> None:
    with LogTee(tmp_path / "log.txt"):
        (tmp_path / "log.txt").rename(tmp_path / "log.old")
        with (
            pytest.raises(UserError, match="another process is writing in"),
            LogTee(tmp_path / "log.txt", patience=0.1),
        ):
            pass
    with LogTee(tmp_path / "log.txt", patience=0):
        pass


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with FolderLock(tmp_path, 0):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent has tried
            os._exit(0)
    try:
        with FolderLock(tmp_path, 5):
            pass
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def test_links_out_of_the_folder_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "bashrc").write_text("mine")
    log = tmp_path / "run" / "log.txt"
    for aim in ("../bashrc", str(tmp_path / "bashrc"), "../not-there"):
        log.symlink_to(aim)
        with pytest.raises(UserError, match=r"log\.txt is a link out of its folder, to .*; remove the link"):
            AppendFile(log)
        log.unlink()
    assert (tmp_path / "bashrc").read_text() == "mine"
    assert not (tmp_path / "not-there").exists()
    log.symlink_to("today.txt")
    AppendFile(log).write("inside")
    assert (tmp_path / "run" / "today.txt").read_text() == "inside"


def test_what_is_no_file_is_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(UserError, match="no ordinary file"):
        AppendFile(tmp_path / "log")


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    for mode in (0o600, 0o644, 0o640):
        path.chmod(mode)
        with atomic_write(path, "w") as stream:
            assert os.fstat(stream.fileno()).st_mode & 0o777 == mode  # before the content is there to read
            stream.write("new")
        assert path.stat().st_mode & 0o777 == mode


def test_only_temporaries_of_this_program_are_removed(tmp_path: Path) -> None:
    others = [
        ".mynotes.tmp",
        ".a.0123456789abcdef.tmp.bak",
        ".a.0123456789ABCDEF.tmp",
        "a.0123456789abcdef.tmp",
        "..0123456789abcdef.tmp",
    ]
    for name in others:
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.0123456789abcdef.tmp").mkdir()
    (tmp_path / ".link.0123456789abcdef.tmp").symlink_to(others[0])
    (tmp_path / ".a.pkl.0123456789abcdef.tmp").write_text("half")
    assert remove_temporaries(tmp_path) == [".a.pkl.0123456789abcdef.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*others, ".folder.0123456789abcdef.tmp", ".link.0123456789abcdef.tmp"]
    )


def test_control_characters_are_escaped_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LogTee(tmp_path / "log.txt"):
        print("a\x1b[2Jb\udcff\n\tc")
    assert (tmp_path / "log.txt").read_text() == capsys.readouterr().out == "a\\x1b[2Jb\\udcff\n\tc\n"


def test_a_log_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom dnnlib.log import LogTee\n"
        "with LogTee(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(files.__file__))}
    command = [sys.executable, "-c", code, str(tmp_path / "log.txt")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        stdout = sys.stdout
        with (
            pytest.raises(UserError, match="another process is writing"),
            LogTee(tmp_path / "log.txt", patience=0.1),
        ):
            pass
        assert sys.stdout is stdout
        process.communicate("")
    with LogTee(tmp_path / "log.txt", patience=0):
        print("mine")
    assert (tmp_path / "log.txt").read_text() == "held\nmine\n"


def test_an_interrupt_just_after_the_file_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Any, mode: Any) -> None:
        Path(path).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "open", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_log_goes_on_when_nobody_reads_standard_output(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom dnnlib.log import LogTee\nwith LogTee(__import__('pathlib').Path(sys.argv[1])):\n"
        + (
            "    for i in range(3): print('line', i, flush=True)\n    sys.stdin.read()\n    for i in "
            "range(3, 6): print('line', i, flush=True)"
        )
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log.txt")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    buffered = {
        **os.environ,
        "PYTHONUNBUFFERED": "",
    }  # what stays in the buffer must not fail at the end either
    with subprocess.Popen(command, cwd=ROOT, env=buffered, text=True, **pipes) as process:
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        process.stdin.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (0, "")
    assert (tmp_path / "log.txt").read_text().splitlines() == [f"line {i}" for i in range(6)]


def test_a_device_or_pipe_is_never_replaced(tmp_path: Path) -> None:
    """As root, a rename would put a file in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link"):
        with pytest.raises(UserError, match="which no file may replace"), files.atomic_write(path):
            pass
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "pipe"]
