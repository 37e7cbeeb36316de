"""Run one of this project's programs in the foreground, and let it save when a signal comes."""

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
    """Run ``python arguments…`` in ``folder`` (default: the current one) and return its exit status.

    A signal to stop is passed on. The program may take as long as it needs to finish its step and save; after
    a second Ctrl-C it gets :data:`PATIENCE` seconds.

    Raises:
        KeyboardInterrupt: Ctrl-C came, whatever the program returned.
        SystemExit: another signal came; the status is 128 plus its number.
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
            process.kill()  # does nothing after its end
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
