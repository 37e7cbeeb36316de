"""train.py --continue as a user and a scheduler type it."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import train
from tests.support.runs import make_images
from training import launch
from training.config.run_directory import state_paths
from training.run.state_file import newest_state

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--cbase=128",
    "--cmax=8",
    "--map-depth=1",
    "--batch=4",
    "--tick=0.016",
    "--workers=0",
    "--device=cpu",
    "--metrics=none",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_images(tmp_path_factory.mktemp("continue-cli") / "images", resolution=16)


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(train.main, [str(argument) for argument in arguments])


def refused(result: Any, *messages: Any) -> None:
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for message in messages:
        assert message in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_scheduler_ends_a_run_and_starts_it_again(images: Any, tmp_path: Path, number: Any) -> None:
    command = [
        sys.executable,
        "train.py",
        f"--data={images}",
        f"--outdir={tmp_path}",
        "--kimg=1000",
        "--continue=auto",
        *SMALL,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("tick 1 "):
                    break
            process.send_signal(number)
            output, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert f"{number.name}: finishing the current step" in errors
    (run_dir,) = tmp_path.iterdir()
    assert (
        f"by {number.name}; the checkpoint is {state_paths(run_dir)[0].name}, go on with --continue={run_dir}"
        in output
    )
    steps = newest_state(run_dir)[1]["counters"]["steps"]
    assert steps >= 5
    if number == signal.SIGTERM:  # once is enough
        images_seen = newest_state(run_dir)[1]["counters"]["images_seen"]
        result = invoke(f"--continue={run_dir}", f"--kimg={(images_seen + 8) / 1000}", "--snap=3")
        assert result.exit_code == 0, result.output
        assert f"Going on at {images_seen / 1000:g} kimg" in result.stdout
        assert newest_state(run_dir)[1]["counters"]["steps"] == steps + 2
        again = invoke(f"--continue={run_dir}")
        assert again.exit_code == 0
        assert "This run is finished" in again.stdout
        options = json.loads((run_dir / "training_options.json").read_text())
        assert (options["schedule"]["snapshot_ticks"], options["schedule"]["total_kimg"]) == (
            3,
            (images_seen + 8) / 1000,
        )


@pytest.fixture
def runs(images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An --outdir with one run, and the calls of the loop. The first call leaves a checkpoint."""
    calls = []

    def run(config: Any, run_dir: Any, dataset: Any, **options: Any) -> None:
        calls.append((config, run_dir))
        (run_dir / "training_options.json").write_text(json.dumps(config.to_dict()))
        (run_dir / "training-state-0000000004.pt").touch()

    module = types.ModuleType("training.training_loop")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "training.training_loop", module)
    assert invoke(f"--data={images}", f"--outdir={tmp_path / 'runs'}", "--kimg=2", *SMALL).exit_code == 0
    return calls


def test_overrides(images: Any, runs: Any, tmp_path: Path) -> None:
    original, run_dir = runs[0]
    upkeep = ["--checkpoint-minutes=2", "--keep-snapshots=last:2", "--on-nonfinite=ignore"]
    result = invoke(f"--continue={run_dir}", "--kimg=3", "--workers=1", *upkeep)
    assert result.exit_code == 0, result.output
    config, again = runs[1]
    assert again == run_dir
    assert (config.schedule.total_kimg, config.runtime.workers) == (3, 1)
    assert config.upkeep.to_dict() == {
        "checkpoint_minutes": 2,
        "keep_snapshots": "last:2",
        "on_nonfinite": "ignore",
    }
    assert (config.optim, config.data, config.description) == (
        original.optim,
        original.data,
        original.description,
    )
    assert str(run_dir) in result.stdout


def test_the_whole_command_line_may_be_repeated(
    images: Any, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_dir = runs[0]
    monkeypatch.chdir(images.parent)
    result = invoke(
        "--data=images", f"--outdir={tmp_path / 'runs'}", "--kimg=2", *SMALL, f"--continue={run_dir}"
    )
    assert result.exit_code == 0, result.output
    assert runs[1] == runs[0]


def test_what_must_stay_is_refused(images: Any, runs: Any, tmp_path: Path) -> None:
    _, run_dir = runs[0]
    refused(
        invoke(f"--continue={run_dir}", "--batch=8", "--reg_type=ggdr"),
        "--batch: 4 → 8",
        "--reg_type: none → ggdr",
        "Changeable are --gpus --snap",
    )
    refused(invoke(f"--continue={run_dir}", f"--outdir={tmp_path}"), "is not where --continue=")
    refused(invoke(f"--continue={tmp_path / 'nothing'}"), "is not a folder")
    (run_dir / "training-state-0000000004.pt").unlink()
    refused(invoke(f"--continue={run_dir}"), "has no training-state-*.pt", "start a new run")
    assert len(runs) == 1


def test_data_that_changed(images: Any, runs: Any, tmp_path: Path) -> None:
    _, run_dir = runs[0]
    refused(
        invoke(f"--continue={run_dir}", f"--data={make_images(tmp_path / 'fewer', count=3, resolution=16)}"),
        "num_images is 3",
    )


def test_auto(images: Any, runs: Any, tmp_path: Path) -> None:
    _, run_dir = runs[0]
    command = [f"--data={images}", f"--outdir={tmp_path / 'runs'}", *SMALL, "--continue=auto"]
    assert invoke(*command, "--kimg=2").exit_code == 0
    assert runs[1] == runs[0]
    assert invoke(*command, "--kimg=5").exit_code == 0
    assert (runs[2][1], runs[2][0].schedule.total_kimg) == (run_dir, 5)
    other = invoke(*command, "--kimg=2", "--glr=0.1")
    assert other.exit_code == 0
    assert runs[3][1].name == f"00001-{runs[3][0].description}"
    assert f"Note: {run_dir.name} is not continued: optim.lr_G: 0.0025 → 0.1" in other.stdout
    assert invoke(*command[:1], *SMALL, "--continue=auto", "--dry-run").exit_code == 0
    assert len(runs) == 4


def test_dry_run(runs: Any) -> None:
    _, run_dir = runs[0]
    result = invoke(f"--continue={run_dir}", "--kimg=7", "--dry-run")
    assert json.loads(result.stdout)["schedule"]["total_kimg"] == 7
    assert len(runs) == 1


def test_processes_compute_where_the_run_that_goes_on_does(images: Any, tmp_path: Path) -> None:
    """Processes join before anything else, with or without GPU, so the device must be known by then."""
    invoke(f"--data={images}", f"--outdir={tmp_path}", "--kimg=0.008", *SMALL)
    (run_dir,) = tmp_path.iterdir()
    assert launch.device_of({"continue_": str(run_dir)}) == "cpu"
    assert launch.device_of({"continue_": str(run_dir), "device": "cuda"}) == "cuda"
    for source in ("auto", str(tmp_path)):
        assert launch.device_of({"continue_": source}) is None
    assert launch.device_of({}) is None


def test_auto_needs_the_source_of_a_run_that_goes_on_no_more(
    images: Any, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        f"--data={images}",
        f"--outdir={tmp_path / 'runs'}",
        *SMALL,
        "--continue=auto",
        "--kimg=2",
        f"--resume={tmp_path / 'a.pkl'}",
    ]
    (tmp_path / "a.pkl").touch()
    assert invoke(*command).exit_code == 0
    (tmp_path / "a.pkl").unlink()
    assert invoke(*command).exit_code == 0
    assert runs[2] == runs[1]
    refused(invoke(*command, "--glr=0.1"), "a.pkl does not exist")


def test_a_run_that_was_moved_and_linked_to(images: Any, runs: Any, tmp_path: Path) -> None:
    _, run_dir = runs[0]
    (tmp_path / "disk").mkdir()
    run_dir.rename(tmp_path / "disk" / run_dir.name)
    run_dir.symlink_to(tmp_path / "disk" / run_dir.name)
    assert (
        invoke(
            f"--data={images}", f"--outdir={run_dir.parent}", *SMALL, "--kimg=2", "--continue=auto"
        ).exit_code
        == 0
    )
    assert runs[1] == runs[0]


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "1e9"])
def test_times_that_nobody_waits(images: Any, tmp_path: Path, seconds: Any) -> None:
    result = invoke(f"--data={images}", f"--outdir={tmp_path}", f"--dist-timeout={seconds}")
    assert result.exit_code == 2
    assert "Invalid value for '--dist-timeout'" in result.output


def test_a_restart_into_a_run_of_other_options(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a run whose options name another detector."""
    assert invoke(f"--data={images}", f"--outdir={tmp_path}", "--kimg=0.004", *SMALL).exit_code == 0
    (run_dir,) = tmp_path.iterdir()
    monkeypatch.setattr(launch, "interrupted_run", lambda outdir: run_dir)
    command = [f"--data={images}", f"--outdir={tmp_path}", "--kimg=0.004", "--dry-run", *SMALL]
    assert invoke(*command).exit_code == 0
    options = json.loads((run_dir / "training_options.json").read_text())
    options["metrics"] = {"names": ["fid5_full"], "detector": "/tmp/theirs.pt"}
    (run_dir / "training_options.json").write_text(json.dumps(options))
    refused(
        invoke(*[option for option in command if option != "--metrics=none"], "--metrics=fid5_full"),
        "which has other options",
    )


def test_a_run_of_another_user(images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(f"--data={images}", f"--outdir={tmp_path}", "--kimg=0.004", *SMALL).exit_code == 0
    (run_dir,) = tmp_path.iterdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    refused(invoke(f"--continue={run_dir}"), "belongs to another user", "--trust")
    assert invoke(f"--continue={run_dir}", "--trust").exit_code == 0
