"""The compiled ops, built once and kept for the next session of tests: the folder is keyed by what a build
depends on."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from torch_utils.ops import dispatch


@pytest.fixture(scope="session")
def build_cache() -> Path:
    """A folder of builds that outlives the session."""
    folder = Path(tempfile.gettempdir()) / f"ggdr-test-builds-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiled_ops(build_cache: Path) -> str:
    """Compiled ops in this process; the status line of their build. Fails where they cannot be built."""
    line = dispatch.prepare("native", cache=build_cache, device="cpu")
    dispatch._state.mode = None
    return line


@pytest.fixture
def ops_mode(compiled_ops: str) -> Iterator[None]:
    """Puts the mode back after a test that sets it."""
    before = dispatch._state.mode
    yield
    dispatch._state.mode = before
