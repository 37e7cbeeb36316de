"""training.inference.opening: networks from files, ready to draw."""

from typing import Any

import pytest
import torch

from tests.support.runs import plain_data, small_config
from training.build import build_generator
from training.inference import opening
from training.inference.opening import compute_as_trained


def test_an_opened_network_computes_as_it_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def computes_in(precision: Any, there: Any = True) -> Any:
        monkeypatch.setattr(opening, "has_bfloat16", lambda device: there)
        G = build_generator(small_config(plain_data()))
        note = compute_as_trained(G, {"config": {"runtime": {"precision": precision}}}, torch.device("cpu"))
        block: Any = G.synthesis.b32
        return block.compute_as(torch.device("cpu"), force_fp32=False)[0], note

    assert computes_in("auto") == (torch.float32, None)
    assert computes_in("bf16") == (torch.bfloat16, None)
    dtype, note = computes_in("bf16", there=False)
    assert dtype == torch.float32
    assert "the run computed in bfloat16, which cpu has not" in note
    G = build_generator(small_config(plain_data()))
    for info in (None, {}, {"config": None}):
        assert compute_as_trained(G, info, torch.device("cpu")) is None
