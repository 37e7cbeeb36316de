"""Configuration to networks, optimisers and augmentation."""

from typing import Any

import pytest
import torch

from tests.support.runs import plain_data, small_config, small_state
from training.augment import AugmentPipe, preset
from training.build import (
    build_ada,
    build_augment_pipe,
    build_discriminator,
    build_generator,
    describe_precision,
)


@pytest.mark.parametrize(
    ("options", "device", "line"),
    [
        ({}, "cpu", "Precision: float32"),
        ({}, "cuda", "Precision: float16 from 8x8 up, float32 below"),
        ({"precision": "bf16"}, "cpu", "Precision: bfloat16 from 8x8 up, float32 below"),
        ({"fp32": True}, "cuda", "Precision: float32"),
    ],
)
def test_the_log_says_the_precision(options: Any, device: Any, line: Any) -> None:
    assert describe_precision(small_config(plain_data(), **options), torch.device(device)) == line


def test_options_reach_what_they_are_for() -> None:
    config = small_config(
        plain_data(), cfg="cifar", mbstd_group=2, map_depth=3, target=0.4, augpipe="bg", resume="x.pkl"
    )
    G, D, ada, pipe = (
        build_generator(config),
        build_discriminator(config),
        build_ada(config, torch.device("cpu")),
        build_augment_pipe(config),
    )
    assert (G.mapping.num_layers, D.b4.mbstd.group_size, D.b32.architecture) == (3, 2, "orig")
    assert (
        G.synthesis.b32.conv1.conv_clamp
        == G.synthesis.b32.torgb.conv_clamp
        == D.b32.conv0.conv_clamp
        == D.b4.conv.conv_clamp
        == 256
    )
    assert (ada.target, ada.step_size) == (0.4, pytest.approx(4 * 4 / 100_000))
    assert pipe.spec == AugmentPipe(**preset("bg")).spec


def test_the_average_starts_as_a_copy() -> None:
    state = small_state()
    ours, average = state.G.state_dict(), state.G_ema.state_dict()
    assert all(torch.equal(ours[key], average[key]) for key in ours)


def test_optimizers_are_scaled_for_lazy_regularization() -> None:
    """Learning rate times, and betas to the power of, 4 / 5 for G and 16 / 17 for D (StyleGAN2, B)."""
    state = small_state(glr=0.002, dlr=0.003)
    for optimizer, lr, ratio in ((state.G_opt, 0.002, 4 / 5), (state.D_opt, 0.003, 16 / 17)):
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(lr * ratio)
        assert group["betas"] == (0.0, pytest.approx(0.99**ratio))
        assert group["eps"] == 1e-8
