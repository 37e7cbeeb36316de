"""Randomness as a function of (seed, what, when, who): no state to save, and any step can be repeated."""

import hashlib
import random

import numpy as np
import torch


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2⁶³) that depends on every argument, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int, *parts: int | str) -> None:
    """Seed the global generators of torch (all devices), NumPy and Python with :func:`derive_seed`."""
    derived = derive_seed(seed, *parts)
    torch.manual_seed(derived)
    np.random.seed(derived % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    random.seed(derived)
