"""Tests that need a CUDA GPU and nvcc: ``pytest -m gpu tests/gpu``. Without a GPU they are skipped."""

import pytest
import torch

from torch_utils.ops import dispatch


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA GPU and nvcc")


@pytest.fixture(scope="session")
def cuda_ops() -> None:
    """Compiled ops for the GPU in this process."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    dispatch.prepare("native", device="cuda")
    dispatch._state.mode = None
