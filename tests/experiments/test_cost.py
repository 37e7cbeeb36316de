"""experiments.cost: the numbers of parameters, and times of every phase of both candidates."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from experiments import cost
from experiments.cost import Candidate, count_parameters, stand_in_data, table
from tests.support.runs import small_state
from training.data.dataset import ImageFolderDataset


def candidate(state: Any, **seconds: list[float]) -> Candidate:
    return Candidate(state, dict(seconds))


def test_a_step_has_each_phase_as_often_as_it_runs() -> None:
    seconds = {
        "G_main": [3.0, 1.0, 2.0],
        "G_reg": [4.0, 9.0, 8.0],
        "D_main": [2.0, 2.0, 2.0],
        "D_reg": [32.0, 16.0, 16.0],
    }
    fastest = candidate(small_state(), **seconds).fastest()
    assert fastest == {"G_main": 1, "G_reg": 4, "D_main": 2, "D_reg": 16, "step": 1 + 4 / 4 + 2 + 16 / 16}


def test_the_clock_runs_around_the_call() -> None:
    ticks = iter([1.0, 3.5])
    assert cost.timed(lambda: None, torch.device("cpu"), lambda: next(ticks)) == 2.5


def test_the_table_compares_both() -> None:
    plain, guided = small_state(reg_type="none"), small_state(reg_type="ggdr")
    seconds: dict[str, list[float]] = {"G_main": [0.1], "G_reg": [0.4], "D_main": [0.2], "D_reg": [1.6]}
    text = table(candidate(plain, **seconds), candidate(guided, **{**seconds, "D_main": [0.25]}))
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()[1:]}
    assert rows["G params"][-2:] == ["+0.00", "%"]
    decoder = sum(p.numel() for name, p in guided.D.named_parameters() if "_dec" in name)
    more = decoder / (count_parameters(plain.G) + count_parameters(plain.D)) * 100
    assert decoder > 0
    assert rows["G and D params"][-2] == f"{more:+.2f}"
    assert rows["D_main"] == ["D_main", "200.000", "ms", "250.000", "ms", "+25.00", "%"]
    assert rows["step"] == ["step", "500.000", "ms", "550.000", "ms", "+10.00", "%"]


def test_the_candidates_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stand_in_data(tmp_path / "images", 32, 3)
    assert (data.resolution, data.num_channels, data.num_images) == (32, 3, 1)
    plain, guided = (
        Candidate.build(small_state(reg_type=name).config, torch.device("cpu")) for name in ("none", "ggdr")
    )
    order: list[tuple[str, str]] = []
    states = {id(plain.state): "none", id(guided.state): "ggdr"}
    monkeypatch.setattr(
        cost, "one_phase", lambda state, phase, dataset: order.append((states[id(state)], phase.name))
    )
    cost.measure(
        [plain, guided], ImageFolderDataset(tmp_path / "images"), 2, torch.device("cpu"), time.perf_counter
    )
    assert [name for name, phase in order if phase == "D_main"] == [
        "none",
        "ggdr",
        "ggdr",
        "none",
        "none",
        "ggdr",
    ]
    assert order[:2] == [("none", "G_main"), ("ggdr", "G_main")]
    for found in (plain, guided):
        assert {phase: len(values) for phase, values in found.seconds.items()} == {
            "G_main": 2,
            "G_reg": 2,
            "D_main": 2,
            "D_reg": 2,
        }


def test_the_command_trains_for_real() -> None:
    arguments = [
        "--cfg=auto",
        "--resolution=32",
        "--cbase=64",
        "--cmax=4",
        "--batch=2",
        "--repeats=1",
        "--device=cpu",
        "--cpu-time",
    ]
    result = CliRunner().invoke(cost.main, arguments)
    assert result.exit_code == 0, result.output
    assert "target 8x8, 1x1 linear decoder, batch 2 on cpu" in result.output
    assert "step" in result.output
    for fact in ("+3.7 %", "+3.23 %", "48.77 M -> 50.34 M"):
        assert fact in result.output


def test_parameters_of_the_paper() -> None:
    result = CliRunner().invoke(cost.main, ["--repeats=0", "--device=cpu"])
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("G and D params"))
    assert line.split()[4:] == ["48.769", "M", "50.343", "M", "+3.23", "%"]
    assert "step" not in result.output


@pytest.mark.parametrize(
    ("arguments", "described", "decoder"),
    [
        # D's channels at 4 … 256 are 512, 512, 512, 512, 256, 128, 64; a layer has in · out · k² weights and
        # out biases.
        (["--ggdr_res=16"], "target 16x16, 1x1", 512 * 512 + 512 + 1024 * 512 + 512),
        (["--ggdr_res=8,16"], "target 8x8 and 16x16, 1x1", 512 * 512 + 512 + 1024 * 512 + 512),
        (
            ["--ggdr_res=8", "--ggdr-kernel=3", "--ggdr-act=lrelu"],
            "target 8x8, 3x3 lrelu",
            9 * 512 * 512 + 512,
        ),
        (
            ["--reg_type=seg", "--classes=150"],
            "150 classes",
            (512 * 512 + 512)
            + 2 * (1024 * 512 + 512)
            + (1024 * 256 + 256)
            + (512 * 128 + 128)
            + (256 * 150 + 150),
        ),
    ],
)
def test_parameters_of_variants(arguments: list[str], described: str, decoder: int) -> None:
    result = CliRunner().invoke(cost.main, ["--repeats=0", "--device=cpu", *arguments])
    assert result.exit_code == 0, result.output
    assert described in result.output.splitlines()[0]
    (line,) = (line for line in result.output.splitlines() if line.startswith("D params"))
    assert float(line.split()[4]) - float(line.split()[2]) == pytest.approx(decoder / 1e6, abs=1.1e-3)


def test_segmentation_is_timed(tmp_path: Path) -> None:
    arguments = [
        "--cfg=auto",
        "--resolution=16",
        "--cbase=64",
        "--cmax=4",
        "--batch=2",
        "--repeats=1",
        "--device=cpu",
    ]
    result = CliRunner().invoke(cost.main, [*arguments, "--reg_type=seg", "--classes=3"])
    assert result.exit_code == 0, result.output
    assert "3 classes, batch 2 on cpu" in result.output
    assert "with masks" in result.output


def test_an_impossible_resolution() -> None:
    result = CliRunner().invoke(cost.main, ["--resolution=33", "--repeats=0"])
    assert result.exit_code == 1
    assert result.output == "Error: --resolution=33 must be a power of two, 8 or larger\n"
