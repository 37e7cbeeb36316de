"""Compiled ops for tests: built once and kept for the next session, keyed by what a build depends on."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from torch_utils.ops import dispatch
from torch_utils.ops.build import BuildOptions


@pytest.fixture(scope="session")
def build_cache() -> Path:
    """A folder of builds that outlives the session."""
    folder = Path(tempfile.gettempdir()) / f"ggdr-test-builds-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiled_ops(build_cache: Path) -> None:
    """Compiled ops in this process. Fails if they cannot be built."""
    with dispatch.using_mode(None):
        dispatch.prepare("native", device="cpu", options=BuildOptions(cache=build_cache))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, compiled_ops: None) -> str:
    """A device that compiled ops serve. Tests that take it run on the CPU, and with ``-m gpu`` on a GPU."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU here")
        with dispatch.using_mode(None):
            dispatch.prepare("native", device="cuda")
    return str(request.param)


@pytest.fixture
def ops_mode(compiled_ops: None) -> Iterator[None]:
    """Restores the mode after a test that sets it."""
    with dispatch.using_mode(dispatch.mode()):
        yield
