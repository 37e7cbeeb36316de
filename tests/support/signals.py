"""Signals that tests send to their own process."""

import os
import signal


def send_if_handled(number: signal.Signals) -> None:
    """Send this process a signal if the code under test handles it. Otherwise it would end all tests."""
    if signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):
        os.kill(os.getpid(), number)
