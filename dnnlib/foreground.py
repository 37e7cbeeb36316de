"""One of this project's programs, run in the foreground and ended in good order."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dnnlib.interrupt import InterruptFlag, end_with_parent

#: Seconds that a program has after a second Ctrl-C.
PATIENCE = 10


def run_program(arguments: Sequence[str], folder: Path | None = None) -> int:
    """Run ``python arguments…`` in ``folder``, or where this program runs, and return its exit status.

    A signal that asks to stop is passed on, and the program is waited for however long it takes to finish its
    step and save; after a second Ctrl-C it gets :data:`PATIENCE` seconds. Where a signal came, nothing that
    follows should run, whatever the program returned:

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: after another signal, with 128 and its number.
    """
    with InterruptFlag(announce=False) as interrupt:
        # A session of its own: Ctrl-C reaches it through this process alone, once.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGTERM),
        )
        try:
            _wait(process, interrupt)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            raise
        finally:
            process.kill()  # does nothing where it has ended
            process.wait()
    if interrupt.received == signal.SIGINT:
        raise KeyboardInterrupt
    if interrupt.received is not None:
        raise SystemExit(128 + interrupt.received)
    return process.returncode


def _wait(process: "subprocess.Popen[bytes]", interrupt: InterruptFlag) -> None:
    passed_on = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return
        if interrupt.received is not None and not passed_on:
            process.send_signal(interrupt.received)
            passed_on = True
