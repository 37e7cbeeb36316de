"""dnnlib.foreground: programs that are waited for when they are asked to stop."""

import signal
import threading
import time
from pathlib import Path

import pytest

from dnnlib.foreground import run_program
from tests.support.signals import send_if_handled

ROOT = Path(__file__).resolve().parent.parent.parent

SAVES_WHEN_STOPPED = """
import pathlib, sys, time
from dnnlib.interrupt import InterruptFlag
folder = pathlib.Path(sys.argv[1])
with InterruptFlag() as interrupt:
    (folder / "ready").touch()
    while not interrupt.raised:
        time.sleep(0.01)
    time.sleep(float(sys.argv[2]))
    (folder / "saved").write_text(interrupt.received.name)
sys.exit(0)
"""


def send_when(file: Path, *numbers: signal.Signals) -> threading.Thread:
    """Signals to this process, a little apart, once a file is there."""

    def wait_and_send() -> None:
        while not file.exists():
            time.sleep(0.01)
        for number in numbers:
            send_if_handled(number)
            time.sleep(0.5)

    thread = threading.Thread(target=wait_and_send, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGUSR1, SystemExit)],
)
def test_a_signal_is_passed_on_and_the_end_waited_for(
    tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    thread = send_when(tmp_path / "ready", number)
    with pytest.raises(error) as caught:
        run_program(["-c", SAVES_WHEN_STOPPED, str(tmp_path), "0.7"], ROOT)
    assert (tmp_path / "saved").read_text() == number.name
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 128 + number
    thread.join()


def test_a_second_ctrl_c_does_not_wait_for_ever(tmp_path: Path) -> None:
    thread = send_when(tmp_path / "ready", signal.SIGINT, signal.SIGINT)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_program(["-c", SAVES_WHEN_STOPPED, str(tmp_path), "60"], ROOT)
    assert time.monotonic() - start < 30
    assert not (tmp_path / "saved").exists()
    thread.join()


def test_the_status_is_the_program_s(tmp_path: Path) -> None:
    assert run_program(["-c", "import sys; sys.exit(3)"]) == 3
    assert run_program(["-c", "import pathlib; pathlib.Path('here').touch()"], tmp_path) == 0
    assert (tmp_path / "here").exists()
