"""The losses as functions."""

import numpy as np
import pytest
import torch

from training import loss


def test_the_loss_of_g_falls_as_d_is_fooled() -> None:
    assert loss.generator_loss(torch.tensor([[-10.0], [0.0], [10.0]])).tolist() == pytest.approx(
        [10, np.log(2), 0], abs=1e-4
    )


def test_path_noise_and_penalty() -> None:
    noise = loss.path_noise(torch.zeros([100, 3, 16, 32]))
    assert float(noise.std()) == pytest.approx((16 * 32) ** -0.5, rel=0.02)
    assert loss.path_length_penalty(torch.tensor([1.0, 5.0]), torch.tensor(2.0)).tolist() == [1, 9]
