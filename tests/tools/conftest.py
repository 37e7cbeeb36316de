"""Networks for the tests of tools."""

from pathlib import Path

import pytest

from tests.support.small_networks import write_network


@pytest.fixture(scope="session")
def pkl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RGB network of 16×16 without classes."""
    return write_network(tmp_path_factory.mktemp("networks") / "plain.pkl")


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A greyscale network of 16×16 with three classes."""
    return write_network(tmp_path_factory.mktemp("networks") / "conditional.pkl", c_dim=3, channels=1)
