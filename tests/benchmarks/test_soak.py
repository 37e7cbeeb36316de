"""benchmarks/soak.py: the table that it writes, how it compares, and a soak in miniature."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import soak
from training.config.run_directory import state_path
from training.run.state_file import write_state

ROOT = Path(__file__).resolve().parents[2]


def write(run_dir: Any, images_seen: Any = 32, change: Any = 0.0) -> None:
    run_dir.mkdir(exist_ok=True)
    weights = torch.tensor([1.0, 4.0 + change])
    parts = {
        name: {"w": weights, "state": {0: {"step": torch.tensor(2.0)}}, "groups": [{"lr": 0.1}]}
        for name in soak.COMPARED
    }
    write_state(state_path(run_dir, images_seen), {"parts": parts})


def test_states_are_compared_number_by_number(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    write(tmp_path / "c", change=0.4)
    assert soak.differences(tmp_path / "a", tmp_path / "b") == dict.fromkeys(soak.COMPARED, 0)
    assert soak.differences(tmp_path / "c", tmp_path / "a") == pytest.approx(
        dict.fromkeys(soak.COMPARED, 0.4 / 21**0.5)
    )


def test_position_is_the_newest_states(tmp_path: Path) -> None:
    write(tmp_path / "a", 5 * soak.BATCH)
    write(tmp_path / "a", 7 * soak.BATCH)
    assert soak.position(tmp_path / "a") == 7


def test_memory_of_the_last_half(tmp_path: Path) -> None:
    """Of the longest stretch: between step 10 and step 60 in two processes, which need more than one does."""
    memory = {5: 0.2, 10: 0.3, 20: 0.5, 30: 0.9, 40: 1.0, 50: 1.02, 60: 1.01, 70: 0.1}
    lines = [
        {"Progress/kimg": {"mean": step * soak.BATCH / 1000}, "Resources/cpu_mem_gb": {"mean": value}}
        for step, value in memory.items()
    ]
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    faults = [
        soak.Fault("SIGTERM", processes, 0, 0, 0, 0, step)
        for processes, step in ((1, 10), (2, 35), (2, 60), (1, 70))
    ]
    assert soak.memory_growth(tmp_path, faults) == pytest.approx(0.02)


ORPHAN = """
import subprocess, sys, time
child = "import sys, time; time.sleep(1); open(sys.argv[1], 'w').close(); time.sleep(float(sys.argv[2]))"
subprocess.Popen([sys.executable, "-c", child, *sys.argv[1:]], start_new_session=True)
time.sleep(float(sys.argv[3]))
"""


def test_what_a_training_leaves_behind_is_waited_for(tmp_path: Path) -> None:
    """A rank outlives its launcher by a step and a state; the state counts."""
    with soak.Training(["-c", ORPHAN, str(tmp_path / "state"), "0", "0.5"], tmp_path / "log") as training:
        while len(training._family()) < 2:
            time.sleep(0.01)
        assert training.wait() == 0
        assert (tmp_path / "state").exists()


def test_all_processes_of_a_training_are_killed(tmp_path: Path) -> None:
    with soak.Training(["-c", ORPHAN, str(tmp_path / "state"), "60", "60"], tmp_path / "log") as training:
        while len(training._family()) < 2:
            time.sleep(0.01)
        training.kill()
        assert training.wait() == -signal.SIGKILL
        assert training._family() == []
        assert not (tmp_path / "state").exists()


def test_the_table() -> None:
    fault = dict(
        kind="SIGKILL",
        processes=2,
        minute=1.25,
        exit_status=-9,
        seconds_lost=3.21,
        steps_lost=8,
        went_on_at_step=40,
    )
    result = dict(
        minutes=60,
        steps=100,
        faults=[fault],
        differences={"G": 0.0, "D": 0.0},
        memory_growth_of_last_half=0.004,
    )
    text = soak.report(result)
    assert "1h 00m 00s with 1 faults, 100 steps of 16 images." in text
    assert "| 1.2 | SIGKILL | 2 | -9 | 3.2 | 8 | 40 |" in text
    assert "bit-identical" in text
    assert "within 0.40 %" in text
    assert "undisturbed run: D differs by 0.25 of its norm." in soak.report(
        {**result, "differences": {"G": 0.0, "D": 0.25}}
    )


def test_the_undisturbed_run_changes_its_processes_at_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(soak, "finish", lambda arguments, log: calls.append(arguments))
    (tmp_path / "undisturbed" / "00000-run").mkdir(parents=True)
    faults = [
        soak.Fault("SIGKILL", processes, 0, 0, 0, 0, step)
        for processes, step in ((1, 10), (1, 20), (2, 25), (1, 40))
    ]
    assert soak.undisturbed(["train.py"], tmp_path, faults) == tmp_path / "undisturbed" / "00000-run"
    again = ["train.py", f"--continue={tmp_path / 'undisturbed' / '00000-run'}"]
    assert calls == [
        ["train.py", f"--outdir={tmp_path / 'undisturbed'}", "--gpus=1", "--kimg=0.32"],
        [*again, "--gpus=2", "--kimg=0.4"],
        [*again, "--gpus=1", "--kimg=0.64"],
    ]


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(soak.main, [f"--outdir={tmp_path}"])
    assert (result.exit_code, "name a new folder" in result.output) == (1, True)


@pytest.mark.parametrize("processes", ["0", "1,3", "32"])
def test_processes_that_cannot_share_the_batch(tmp_path: Path, processes: Any) -> None:
    result = CliRunner().invoke(soak.main, [f"--outdir={tmp_path / 'soak'}", f"--processes={processes}"])
    assert (result.exit_code, "shared out evenly" in result.output) == (1, True)
    assert not (tmp_path / "soak").exists()


@pytest.mark.slow
def test_a_soak_in_miniature(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "benchmarks/soak.py",
        f"--outdir={tmp_path / 'soak'}",
        "--minutes=0.5",
        "--every=5",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert result["faults"]
    assert set(result["differences"].values()) == {0}
    assert "bit-identical" in (tmp_path / "soak" / "soak.md").read_text()
