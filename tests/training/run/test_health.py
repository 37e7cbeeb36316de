"""Gradients and losses that are not finite, and memory."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.runs import make_images, open_small, small_state
from torch_utils.persistence import load_network_pkl
from torch_utils.training_stats import StatsCollector, Summary
from training import training_loop
from training.config.run_directory import state_paths
from training.phases import Reals, build_phases
from training.run import health
from training.run.health import LIMIT, GradientHealth, MemoryMeter, health_statistics
from training.run.state_file import newest_state
from training.run.ticks import Ticks

GOOD = [torch.ones(3), torch.zeros(2, 2)]


def observe(monitor: Any, phase: Any, *values: Any) -> None:
    for value in values:
        monitor.observe(phase, [*GOOD, torch.tensor([1.0, value])])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_counts_and_rows(value: Any) -> None:
    monitor = GradientHealth(["G_main", "D_main"])
    observe(monitor, "D_main", 1, value, value, 0, value)
    observe(monitor, "G_main", 1e30)
    assert monitor.rows() == {"G_main": 0, "D_main": 1}
    assert monitor.failing() is None, "a single one says little"
    assert monitor.flush() == {"G_main": 0, "D_main": 3}
    assert monitor.flush() == {"G_main": 0, "D_main": 0}
    observe(monitor, "D_main", value, value)
    assert monitor.failing() == "the last 3 gradients of D_main were not finite"
    observe(monitor, "D_main", 1)
    assert monitor.failing() is None


def test_the_limit_is_one_phases_own() -> None:
    monitor = GradientHealth(["G_main", "D_main"])
    observe(monitor, "D_main", *[float("nan")] * (LIMIT - 1))
    observe(monitor, "G_main", float("nan"))
    monitor.check(5000)
    observe(monitor, "D_main", float("nan"))
    with pytest.raises(
        UserError, match=f"stopped at 5 kimg: the gradients of D_main were not finite {LIMIT} times in a row"
    ):
        monitor.check(5000)


def test_state_there_and_back() -> None:
    first, second = GradientHealth(["G_main", "D_main"]), GradientHealth(["G_main", "D_main"])
    observe(first, "D_main", 1, float("nan"), float("nan"))
    second.load_state_dict(first.state_dict())
    assert second.rows() == {"G_main": 0, "D_main": 2}
    assert second.flush() == {"G_main": 0, "D_main": 2}


def test_losses_are_counted_by_phase() -> None:
    stats = StatsCollector()
    stats.report("Loss/D/loss", torch.tensor([1.0, float("nan"), float("inf")]))
    stats.report("Loss/D/loss", torch.tensor([2.0]))
    stats.report("Loss/D/loss_gen_reg", torch.tensor([float("nan")]))
    stats.report("Loss/G/loss", torch.tensor([1.0]))
    summaries = stats.flush()
    losses = small_state(reg_type="ggdr").objective.losses
    assert summaries["Loss/G/loss"] == Summary(1, 1.0, 0.0, 0)
    assert health_statistics({"G_main": 0, "D_main": 4}, summaries, losses) == {
        "Health/nonfinite_gradients/G_main": 0.0,
        "Health/nonfinite_losses/G_main": 0.0,
        "Health/nonfinite_gradients/D_main": 4.0,
        "Health/nonfinite_losses/D_main": 3.0,
    }


def test_every_loss_is_named_as_it_is_reported() -> None:
    reported, listed = set(), set()
    for reg_type in ("ggdr", "seg"):
        state = small_state(reg_type=reg_type, kimg=1)
        batch = (
            torch.randint(256, [4, 3, 32, 32], dtype=torch.uint8),
            torch.zeros([4, 0]),
            torch.zeros([4, 32, 32], dtype=torch.uint8),
        )
        training_loop.step(state, build_phases(state), Reals.of(batch, None, torch.device("cpu")))
        reported |= {name for name in state.stats.flush() if re.match("Loss/(?!scores|signs)", name)}
        assert set(state.health.phases) == set(state.objective.losses)
        listed |= {name for names in state.objective.losses.values() for name in names}
    assert reported - listed == {"Loss/pl_penalty", "Loss/r1_penalty"}  # parts of Loss/G/reg and Loss/D/reg
    assert listed <= reported


def test_memory_and_its_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = MemoryMeter(torch.device("cpu"))
    sizes = iter([2**30, 3 * 2**29])
    monkeypatch.setattr(
        type(meter._process), "memory_info", lambda self: type("Info", (), {"rss": next(sizes)})
    )
    assert meter.read() == {"Resources/cpu_mem_gb": 1.0, "Resources/cpu_mem_growth_gb": 0.0}
    assert meter.read() == {"Resources/cpu_mem_gb": 1.5, "Resources/cpu_mem_growth_gb": 0.5}


def test_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls alone; there need not be a GPU."""
    values = {"memory_allocated": iter([2**30, 2**31]), "max_memory_allocated": iter([2**32, 2**33])}
    reset: list[Any] = []
    for name, numbers in values.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, numbers=numbers: next(numbers))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    meter = MemoryMeter(torch.device("cuda"))
    assert meter.read()["Resources/gpu_mem_growth_gb"] == 0
    found = meter.read()
    assert (
        found["Resources/gpu_mem_gb"],
        found["Resources/gpu_mem_growth_gb"],
        found["Resources/peak_gpu_mem_gb"],
    ) == (2, 1, 8)
    assert "Resources/peak_gpu_mem_growth_gb" not in found
    assert len(reset) == 2


def spoil(monkeypatch: pytest.MonkeyPatch, first: Any, last: Any) -> None:
    """Make D's gradients of some steps NaN."""
    original = training_loop.run_phase

    def spoiling(state: Any, phase: Any, real: Any, *args: Any) -> None:
        bad = phase.name == "D_main" and first <= state.steps < last
        spoilt = dataclasses.replace(real, images=real.images * float("nan")) if bad else real
        original(state, phase, spoilt, *args)

    monkeypatch.setattr(training_loop, "run_phase", spoiling)


def train(tmp_path: Path, **options: Any) -> None:
    config, dataset = open_small(
        make_images(tmp_path / "images"), **{"reg_type": "none", "checkpoint_minutes": 1e-9, **options}
    )
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, D_reg_interval=1000))
    (tmp_path / "run").mkdir()
    training_loop.run(config, tmp_path / "run", dataset)


def test_a_run_stops_and_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 5, 1000)
    with pytest.raises(
        UserError, match=r"stopped at 0\.128 kimg: the gradients of D_main were not finite 27 times in a row"
    ):
        train(tmp_path, kimg=0.4, tick=0.04, snap=1)
    path, state = newest_state(tmp_path / "run")
    assert path == state_paths(tmp_path / "run")[0]
    assert state["counters"]["steps"] == 7, "after two that could have been chance"
    assert load_network_pkl(tmp_path / "run" / "network-snapshot-000000.pkl")["info"]["images_seen"] == 4, (
        "the first and only one"
    )
    assert state["parts"]["health"]["rows"]["D_main"] == 2
    assert (
        'nonfinite_gradients/D_main": {"num": 1, "mean": 6.0'
        in (tmp_path / "run" / "stats.jsonl").read_text()
    )


def test_a_few_in_a_row_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 13, 18)  # a look at the counters falls in between
    train(tmp_path, kimg=0.08, tick=1, checkpoint_minutes=0)
    assert newest_state(tmp_path / "run")[1]["counters"]["steps"] == 20


def test_a_snapshot_that_is_left_out_is_made_up_for_at_the_next_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, take = [], Ticks._take_snapshot
    monkeypatch.setattr(
        Ticks,
        "_take_snapshot",
        lambda self, required: (taken.append(self.session.state.steps), take(self, required=required)),
    )
    spoil(monkeypatch, 15, 25)
    train(tmp_path, kimg=0.16, tick=0.04, snap=2, checkpoint_minutes=0)
    assert taken == [1, 31, 40], "tick 0, tick 3 in place of tick 2, the end"
    assert (
        "Warning: no snapshot is taken here: the last 6 gradients of D_main were not finite; it is made up"
        in capsys.readouterr().err
    )


def test_it_can_be_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIMIT", 2)
    spoil(monkeypatch, 0, 1000)
    train(tmp_path, kimg=0.072, tick=0.036, snap=1, on_nonfinite="ignore")
    assert newest_state(tmp_path / "run")[1]["parts"]["health"]["rows"]["D_main"] == 18
