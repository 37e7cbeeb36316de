"""Makes the repository's packages, its entry points and the tests' helpers importable, installed or not."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.support.signals import send_if_handled

# The tests' tensors are small: one thread is faster, and does not spin for a core that another process has.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Plain PyTorch where a test does not ask for compiled ops: the processes that tests start need not build or
# load them.
os.environ.setdefault("GGDR_OPS", "ref")

# A shell's background job ignores Ctrl-C, and so would the processes that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise what nohup starts


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network's exports, made once: see :func:`small_networks.write_exports`."""
    from tests.support.small_networks import write_exports

    return write_exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture(autouse=True)
def downloads_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--offline`` sets this variable for the rest of its process; each test begins and ends without it."""
    monkeypatch.setenv("GGDR_OFFLINE", "")


@pytest.fixture
def succeed() -> Callable[..., str]:
    """Run a command in this process and return what it prints."""

    def run(command: click.Command, *args: Any) -> str:
        result = CliRunner().invoke(command, [str(arg) for arg in args])
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.fixture
def complaint() -> Callable[..., str]:
    """Run a command that must fail in this process; its one line of error."""

    def run(command: click.Command, args: Sequence[Any]) -> str:
        result = CliRunner().invoke(command, [str(arg) for arg in args])
        assert result.exit_code != 0
        errors = [line for line in result.output.splitlines() if line.startswith("Error:")]
        assert len(errors) == 1, result.output
        assert "Traceback" not in result.output
        return errors[0]

    return run


@pytest.fixture
def unusable_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU's device file, and a PyTorch that cannot use it."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr("torch_utils.device.DEVICE_FILES", tmp_path)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def signal_soon() -> Iterator[Callable[[signal.Signals], None]]:
    """Sends this process a signal after a second, if the test still runs."""
    timers: list[threading.Timer] = []

    def start(number: signal.Signals) -> None:
        timers.append(threading.Timer(1, send_if_handled, [number]))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.cancel()
        timer.join()
