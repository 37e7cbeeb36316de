"""What the ranks compare, and how a difference is named.

In several processes: tests/torch_utils/test_distributed.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.runs import plain_data, small_config, small_state
from torch_utils import distributed
from training import launch
from training.phases import Reals, build_phases
from training.run import replicas
from training.run.replicas import (
    check_agreement,
    check_same_content,
    check_same_options,
    check_same_start,
    shared_tensors,
)
from training.training_loop import run_phase


def test_all_that_a_step_changes_is_compared_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    state = small_state()
    before = {name: tensor.clone() for name, tensor in shared_tensors(state).items()}
    for phase in build_phases(state):
        run_phase(state, phase, Reals(torch.rand([4, 3, 32, 32]) * 2 - 1, torch.zeros([4, 0]), None, None))
    after = shared_tensors(state)
    moments = {name for name in after if name not in before}
    assert {"G_opt.synthesis.b4.const.exp_avg", "D_opt.b4.out.bias.exp_avg_sq"} <= moments
    assert all(name.startswith(("G_opt.", "D_opt.")) for name in moments)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {"G.synthesis.b4.const", "D.b4.out.weight", "G.mapping.w_avg", "ada.totals"} <= moved
    assert {"pipe.p", "G_ema.synthesis.b4.const"} <= set(after)
    assert not any(name.startswith(("stats", "timer")) for name in after)

    compared = []
    monkeypatch.setattr(
        distributed, "check_equal", lambda tensors, what: compared.append((set(tensors), what))
    )
    state.steps = 7
    check_agreement(state)
    assert compared == [(set(after), "the run's state after 7 steps")]


def differ(*arguments: Any) -> None:
    raise distributed.Unequal(
        "the state: 'G.b4' is not the same on rank 1 as on rank 0 (1 of 9 tensors differ)"
    )


def test_a_difference_is_wrong_input_before_the_first_step_and_a_fault_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "check_equal", differ)
    state = small_state()
    with pytest.raises(
        UserError, match=r"'G.b4' is not the same on rank 1 .*; give all ranks the same files"
    ):
        check_same_start(state)
    with pytest.raises(
        RuntimeError, match=r"'G.b4' is not the same on rank 1 .*; this is a fault of the program"
    ):
        check_agreement(state)


class Rank:
    """What one rank gives to compare, and what it hears where the first rank gave something else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.first = monkeypatch, None
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(replicas, "all_ranks", self.gather)

    def gather(self, work: Any, what: Any) -> Any:
        mine = work()
        if self.first is None:
            self.first = mine
        return [self.first, mine]


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Rank(monkeypatch)


def test_every_option_of_a_run_is_compared_under_its_name(
    ranks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in dict(RANK="0", WORLD_SIZE="2").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GGDR_OPS", raising=False)

    def start(run_dir: Any = None, dry_run: Any = False, **options: Any) -> None:
        launch.compare_ranks(small_config(plain_data(), device="cpu", **options), run_dir, dry_run=dry_run)

    start(gamma=1)
    start(gamma=1, workers=1)
    for options, message in (
        ({"gamma": 100}, "rank 1 has --gamma=100, rank 0 has --gamma=1;"),
        ({"gamma": 1, "kimg": 7}, "rank 1 has --kimg=7, rank 0 has --kimg="),
        ({"gamma": 1, "reg_type": "ggdr"}, "rank 1 has --reg_type=ggdr, rank 0 has --reg_type=none"),
        ({"gamma": 1, "precision": "bf16"}, "rank 1 has --precision=bf16, rank 0 has --precision=auto"),
        (
            {"gamma": 1, "run_dir": tmp_path / "00001-run"},
            "rank 1 has the task: to go on with 00001-run, rank 0 has the task: a new run;",
        ),
        ({"gamma": 1, "dry_run": True}, "rank 1 has --dry-run=True, rank 0 has --dry-run=False;"),
    ):
        with pytest.raises(UserError, match=message):
            start(**options)
    monkeypatch.setenv("GGDR_OPS", "ref")
    with pytest.raises(UserError, match=r"rank 1 has --ops=ref, rank 0 has --ops=auto"):
        start(gamma=1)


def test_other_programs_and_libraries_are_told(ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_same_options("train.py", {}, "cpu")
    with pytest.raises(
        UserError, match=r"rank 1 has the command: calc_metrics.py, rank 0 has the command: train.py"
    ):
        check_same_options("calc_metrics.py", {}, "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "1.0")
        with pytest.raises(UserError, match=r"rank 1 has PyTorch: 1.0, rank 0 has PyTorch: "):
            check_same_options("train.py", {}, "cpu")
    monkeypatch.setattr(replicas, "_digest_of_sources", lambda: "0" * 16)
    with pytest.raises(UserError, match=r"rank 1 has the program's sources: 0000000000000000, rank 0 has"):
        check_same_options("train.py", {}, "cpu")


def test_other_files_are_told(ranks: Any) -> None:
    check_same_content({"images by SHA-256": "a" * 64})
    with pytest.raises(
        UserError,
        match=r"rank 1 has images by SHA-256: b{16}, rank 0 has images by SHA-256: a{16}; give all ranks",
    ):
        check_same_content({"images by SHA-256": "b" * 64})
