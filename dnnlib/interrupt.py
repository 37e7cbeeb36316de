"""Ctrl-C that lets the current piece of work finish."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class InterruptFlag:
    """While open, the first Ctrl-C only sets :attr:`raised`; a second one interrupts at once, as usual.

    It does nothing outside the main thread, where Python has no signals, and where Ctrl-C is ignored, as in a
    shell's background jobs.
    """

    def __init__(self) -> None:
        self.raised = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
        print("\nInterrupted: finishing the current step (press Ctrl-C again to stop at once)", flush=True)
