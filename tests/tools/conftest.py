"""Networks for the tests of tools, and a check of their messages."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.support.small_networks import write_network


@pytest.fixture(scope="session")
def pkl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RGB network of 16×16 without classes."""
    return write_network(tmp_path_factory.mktemp("networks") / "plain.pkl")


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A greyscale network of 16×16 with three classes."""
    return write_network(tmp_path_factory.mktemp("networks") / "conditional.pkl", c_dim=3, channels=1)


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
