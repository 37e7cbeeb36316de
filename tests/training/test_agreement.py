"""What the ranks compare. That a difference is found and named: tests/torch_utils/test_distributed.py."""

import torch
from helpers import small_state

from torch_utils import distributed
from training.agreement import check_agreement, shared_tensors
from training.phases import build_phases, run_phase


def test_all_that_a_step_changes_is_compared_under_its_name(monkeypatch):
    state = small_state()
    before = {name: tensor.clone() for name, tensor in shared_tensors(state).items()}
    for phase in build_phases(state):
        run_phase(state, phase, torch.rand([4, 3, 32, 32]) * 2 - 1, torch.zeros([4, 0]), None)
    after = shared_tensors(state)
    moments = {name for name in after if name not in before}
    assert {"G_opt.synthesis.b4.const.exp_avg", "D_opt.b4.out.bias.exp_avg_sq"} <= moments
    assert all(name.startswith(("G_opt.", "D_opt.")) for name in moments)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {"G.synthesis.b4.const", "D.b4.out.weight", "G.mapping.w_avg", "ada.totals"} <= moved
    assert {"pipe.p", "G_ema.synthesis.b4.const"} <= set(after)
    assert not any(name.startswith(("stats", "timer")) for name in after)

    compared = []
    monkeypatch.setattr(distributed, "check_equal", lambda tensors, what: compared.append((set(tensors), what)))
    state.steps = 7
    check_agreement(state)
    assert compared == [(set(after), "the run's state after 7 steps")]
