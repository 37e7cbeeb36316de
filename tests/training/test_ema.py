"""The generator average: half-life, ramp-up, buffers."""

import pytest
import torch

from training.ema import average_decay, update_average


def test_half_life() -> None:
    assert average_decay(32, 10, None, 0) ** (10_000 / 32) == pytest.approx(0.5)


def test_ramp_up_limits_the_half_life_to_a_fraction_of_progress() -> None:
    assert average_decay(32, 10, 0.05, 0) == 0
    assert average_decay(32, 10, 0.05, 64_000) ** (64_000 * 0.05 / 32) == pytest.approx(0.5)
    assert average_decay(32, 10, 0.05, 10**9) == average_decay(32, 10, None, 0)


def test_parameters_move_and_buffers_are_copied() -> None:
    average, module = (torch.nn.BatchNorm1d(2) for _ in range(2))
    module.weight.data.fill_(3)
    module.running_mean.fill_(7)
    module.num_batches_tracked.fill_(5)
    update_average(average, module, 0.75)
    torch.testing.assert_close(average.weight.data, torch.full([2], 1.5))
    torch.testing.assert_close(average.running_mean, torch.full([2], 7.0))
    assert average.num_batches_tracked == 5
