"""Augmentation of images and feature maps against recorded values, at percentiles of the random values."""

from typing import Any

import pytest
import torch

from tests.support.golden import cases, load, relative_error
from training.augment import AugmentPipe, preset

DATA = load("augment")
CASES = cases(DATA)


@pytest.mark.parametrize(
    "index", range(len(CASES)), ids=[f"{case['name']}-{case['percentile']}" for case in CASES]
)
def test_augment(index: Any) -> None:
    case = CASES[index]
    pipe, images = AugmentPipe(**case["spec"]), torch.from_numpy(DATA["x"])
    params = pipe.sample(images, debug_percentile=case["percentile"])
    assert relative_error(pipe.apply(images, params), DATA[f"{index}_y"]) < 2e-5
    for resolution in (16, 8):
        got = pipe.warp(torch.from_numpy(DATA[f"f{resolution}"]), params)
        assert relative_error(got, DATA[f"{index}_f{resolution}"]) < 5e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}-{case['percentile']}")
def test_presets_are_the_references(case: Any) -> None:
    assert preset(case["name"]) == case["spec"]
