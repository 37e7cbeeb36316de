"""Randomness is a function of seed and place."""

import random
from typing import Any

import numpy as np
import torch

from torch_utils.seeding import derive_seed, seed_everything


def draw() -> Any:
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002


def test_same_place_same_draws() -> None:
    seed_everything(1, "step", 5)
    first = draw()
    draw()
    seed_everything(1, "step", 5)
    assert draw() == first


def test_every_part_matters() -> None:
    seeds = {
        derive_seed(*args)
        for args in [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, 1, 23), (0, 12, 3)]
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_stable() -> None:
    assert derive_seed(0, "step", 1) == 1578201625287471526
