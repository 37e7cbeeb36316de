"""Signals that ask to stop: noted, announced, obeyed at once where there is nothing to finish."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dnnlib.interrupt import SIGNALS, Interrupted, InterruptFlag, end_processes

ROOT = Path(__file__).resolve().parent.parent.parent


def send(number: Any) -> None:
    signal.raise_signal(number)  # to this thread, so that it is handled before the next line


def handlers() -> Any:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number: Any, capfd: pytest.CaptureFixture[str]) -> None:
    before = handlers()
    with InterruptFlag() as flag:
        assert not flag.raised
        send(number)
        assert flag.raised
        assert flag.received == number
    assert handlers() == before
    assert f"{number.name}: finishing the current step" in capfd.readouterr().err


def test_signals_are_those_of_terminals_systems_and_schedulers() -> None:
    assert {number.name for number in SIGNALS} == {"SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"}


def test_a_second_ctrl_c_interrupts(capfd: pytest.CaptureFixture[str]) -> None:
    with InterruptFlag() as flag:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert flag.received == signal.SIGINT
    assert capfd.readouterr().err.count("press Ctrl-C again") == 1


def test_further_requests_of_a_scheduler_are_let_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with InterruptFlag() as flag:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            send(number)
        assert flag.received == signal.SIGUSR1
        with pytest.raises(KeyboardInterrupt):  # by hand, somebody who is in a hurry
            send(signal.SIGINT)
    assert "Ctrl-C" not in capfd.readouterr().err


@pytest.mark.parametrize("number", SIGNALS)
def test_ignored_signals_stay_ignored(number: Any) -> None:
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        with InterruptFlag() as flag:
            send(number)
            assert not flag.raised
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, previous)


def test_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with InterruptFlag(announce=False) as flag:
        with pytest.raises(Interrupted), flag.at_once():
            send(signal.SIGTERM)
        with pytest.raises(Interrupted), flag.at_once():
            raise AssertionError("one that came before counts too")
    with InterruptFlag() as flag:
        with flag.at_once():
            pass
        send(signal.SIGTERM)
        assert flag.raised
    assert capfd.readouterr().err.count("SIGTERM") == 1


def test_a_wait_ends_so_long_after_the_signal() -> None:
    with InterruptFlag(announce=False) as flag:
        with flag.within(0.2):
            send(signal.SIGTERM)
            assert flag.raised, "it may still come to its end"
        start = time.monotonic()
        with pytest.raises(Interrupted), flag.within(0.2):
            time.sleep(30)
        assert 0.15 < time.monotonic() - start < 10
        time.sleep(0.3)  # nothing comes later


def blocked(ready: Any) -> None:
    """Takes no notice of any signal that can be ignored, as C code that holds Python's lock."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    ready.set()
    time.sleep(600)


def test_blocked_processes_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=blocked, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(30)
    process.terminate()
    process.join(0.3)
    assert process.is_alive(), "SIGTERM is not enough"
    with monkeypatch.context() as patched:
        patched.setattr(type(process), "kill", lambda self: None)  # as one that the kernel does not end
        assert end_processes([process], seconds=0.1) == [process]
    assert process not in multiprocessing.active_children(), "Python does not wait for it at its end"
    assert end_processes([process]) == []


def test_outside_the_main_thread_nothing_changes() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with InterruptFlag():
            seen.extend(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before


TERMINAL = """
import os, signal, sys, time
from pathlib import Path
from tqdm import tqdm
from dnnlib.interrupt import InterruptFlag
from dnnlib.log import LogTee
folder = Path(sys.argv[1])
with LogTee(folder / "log.txt"), InterruptFlag() as flag, tqdm(total=9) as bar:
    (folder / "ready").touch()
    while not flag.raised:
        time.sleep(0.01)
    bar.update()
    bar.refresh()
    print("to the terminal", file=sys.stderr, flush=True)
    print("saved", flush=True)
(folder / "ended").write_text(flag.received.name)
"""


# In a process of its own, as a fork is best made where there is one thread.
DRIVER = """
import os, pty, sys, time
from pathlib import Path
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
deadline = time.monotonic() + 60
while not Path(sys.argv[2], "ready").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """SIGHUP comes with it, and every write to it fails from then on."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, TERMINAL, str(tmp_path)], cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "ended").read_text() == "SIGHUP"
    assert (tmp_path / "log.txt").read_text() == "saved\n"
