"""Reference values recorded from StyleGAN2-ADA-PyTorch and GGDR, see data/README.md."""

import json
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).resolve().parents[1] / "parity" / "data"


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one file."""
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def cases(data: dict[str, np.ndarray]) -> list[dict]:
    """The list of cases stored with the arrays."""
    return json.loads(str(data["cases"]))


def relative_error(got: object, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute expected value; shapes must agree."""
    array = np.asarray(got.detach() if isinstance(got, torch.Tensor) else got, dtype=np.float64)
    assert array.shape == expected.shape
    return float(np.abs(array - expected).max() / max(np.abs(expected).max(), 1e-12))
