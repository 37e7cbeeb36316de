"""What a training step has to do on any device, for tests on CPUs and on a GPU."""

from typing import Any

import pytest
import torch

from tests.support.phases import compute_gradients
from tests.support.runs import plain_data, small_config
from training.networks.layers import HalfPrecision
from training.phases import Reals, build_phases, filled_gradients
from training.run.state import RunState

BATCH = 4
PHASES = ("G_main", "G_reg", "D_main", "D_reg")


def gradients_of_a_step(device: torch.device, **options: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients of every phase of a first step, by parameter, on the host.

    The draws differ between kinds of devices.
    """
    how = {
        "reg_type": "ggdr",
        "ggdr_res": 8,
        "gamma": 10,
        "aug": "noaug",
        "cbase": 512,
        "cmax": 32,
        "mbstd_group": 2,
        **options,
    }
    state = RunState.build(small_config(plain_data(), batch=BATCH, **how), device)
    real = torch.rand([BATCH, 3, 32, 32], generator=torch.Generator().manual_seed(1)).to(device) * 2 - 1
    found = {}
    for phase in build_phases(state):
        compute_gradients(state, phase, Reals(real, torch.zeros([BATCH, 0], device=device), None, None))
        names = [name for name, _ in phase.module.named_parameters()]
        found[phase.name] = {
            name: value.float().cpu()
            for name, value in zip(names, filled_gradients(phase.module), strict=True)
        }
        phase.optimizer.zero_grad(set_to_none=True)
    return found


def check_half_precision(monkeypatch: pytest.MonkeyPatch, device: torch.device, **options: Any) -> None:
    """Float16's gradients are float32's but for roundings, in every phase and every layer's weight."""
    monkeypatch.setattr(HalfPrecision, "half_types", {device.type: torch.float16})
    half = gradients_of_a_step(device, **options)
    monkeypatch.setattr(HalfPrecision, "half_types", {})
    full = gradients_of_a_step(device, **options)
    assert set(full) == set(PHASES)
    for phase, expected in full.items():
        weights = {
            name: value for name, value in expected.items() if name.endswith("weight") and value.norm() > 0
        }
        apart = {
            name: float((half[phase][name] - value).norm() / value.norm()) for name, value in weights.items()
        }
        assert max(apart.values()) < 0.15, (phase, apart)
        assert 0 < sorted(apart.values())[len(apart) // 2] < 0.05, (phase, apart)
