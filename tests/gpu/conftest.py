"""Tests that need a CUDA GPU and nvcc; without a GPU they are skipped."""

import pytest
import torch

from torch_utils.ops import dispatch


@pytest.fixture(scope="session")
def cuda_ops() -> None:
    """Compiled ops for the GPU in this process."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    with dispatch.using_mode(None):
        dispatch.prepare("native", device="cuda")
