"""Requests to stop that let the current piece of work finish."""

import ctypes
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, Self

from dnnlib.files import discard_output

#: Ctrl-C; the end that a scheduler or a system sends; the warning that a scheduler can send before it (SLURM:
#: ``--signal=USR1@120``); and a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def end_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A function for a child to call between fork and exec: its parent's end will send it ``number``.

    The kernel does that, however the parent ends. It works on Linux; elsewhere nothing happens. Everything is
    looked up here, because a child at that point must do as little as possible.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1  # PR_SET_PDEATHSIG

    def ask() -> None:
        prctl(set_parent_death_signal, number)

    return ask


@contextmanager
def unwinding(*, announce: bool = True) -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the program by an exception, as Ctrl-C does, so that it cleans up.

    The exception is :class:`SystemExit` with the status that a shell gives such an end. Outside the main
    thread nothing changes.

    Args:
        announce: say so on standard error.
    """
    previous: dict[signal.Signals, Any] = {}

    def leave(number: int, frame: FrameType | None) -> None:
        if announce:
            line = f"\nStopped by {signal.Signals(number).name}; what was not finished is removed\n"
            with suppress(OSError):  # a terminal that is gone
                os.write(2, line.encode())
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class Interrupted(BaseException):
    """A request to stop came while there was nothing to finish (:meth:`InterruptFlag.at_once`)."""


def end_processes(processes: Iterable[BaseProcess], seconds: float = 5.0) -> list[BaseProcess]:
    """Kill child processes, and wait until they are gone, ``seconds`` at most in all.

    Returns:
        those that are still there: a process that waits for a file system or a device ends when that answers.
    """
    ending = list(processes)
    for process in ending:
        process.kill()
    deadline = time.monotonic() + seconds
    for process in ending:
        process.join(max(deadline - time.monotonic(), 0))
    stuck = [process for process in ending if process.is_alive()]
    # At its end Python waits for these children, and there is no public way to stop it.
    multiprocessing.process._children.difference_update(stuck)  # type: ignore[attr-defined]  # noqa: SLF001
    return stuck


class StoppedInOrder(KeyboardInterrupt):
    """Ctrl-C, after every rank has finished the same step and the program has reported where it stopped."""


class InterruptFlag:
    """Inside, a signal of :data:`SIGNALS` is only recorded; a second Ctrl-C interrupts at once, as usual.

    It does nothing outside the main thread, where Python handles no signals. A signal that is ignored, such
    as Ctrl-C in a shell's background jobs, stays ignored.

    Args:
        announce: say on standard error that the current step is being finished.

    Attributes:
        received: the first signal that came, or None.
    """

    def __init__(self, *, announce: bool = True) -> None:
        self._announce = announce
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._limit: float | None = None
        self._terminals: list[int] = []

    @property
    def raised(self) -> bool:
        """Whether to stop."""
        return self.received is not None

    def at_once(self) -> AbstractContextManager[None]:
        """Inside, a signal raises :class:`Interrupted`, for work that need not be finished.

        A signal that came before does so too.
        """
        return self.within(0)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Inside, a signal raises :class:`Interrupted` so many seconds later: for a wait that may never end.

        An earlier signal counts from the start of the block.
        """
        self._limit = seconds
        try:
            if self.raised:
                self._end_wait_later()
            yield
        finally:
            self._limit = None
            if self.raised and threading.current_thread() is threading.main_thread():
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _end_wait_later(self) -> None:
        if not self._limit:
            raise Interrupted
        signal.signal(signal.SIGALRM, self._end_wait)
        signal.setitimer(signal.ITIMER_REAL, self._limit)

    def _end_wait(self, number: int, frame: FrameType | None) -> None:
        if self._limit is not None:
            raise Interrupted

    def __enter__(self) -> Self:
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None is a handler that was not set by Python.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = signal.Signals(number)
        for descriptor in self._terminals:
            # A terminal that was closed, as SIGHUP may tell: output must not end the run.
            if not os.isatty(descriptor):
                discard_output(descriptor)
        if self._announce:
            advice = " (press Ctrl-C again to stop at once)" if number == signal.SIGINT else ""
            # Not print(): the signal may have come in the middle of one, and streams cannot be entered twice.
            with suppress(OSError):  # a pipe whose reader is gone
                os.write(2, f"\n{self.received.name}: finishing the current step{advice}\n".encode())
        if self._limit is not None:
            self._end_wait_later()
