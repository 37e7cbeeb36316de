"""The whole chain as subprocesses: images → data set → training with GGDR → pictures → metrics; Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import train
from tests.support.runs import make_images
from torch_utils.persistence import load_network_pkl
from training.run.state_file import newest_state

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = [
    "--cbase=128",
    "--cmax=8",
    "--map-depth=1",
    "--batch=4",
    "--tick=0.016",
    "--workers=0",
    "--device=cpu",
]


def run(*arguments: Any, cwd: Any = ROOT) -> Any:
    return subprocess.run(
        [sys.executable, str(ROOT / arguments[0]), *map(str, arguments[1:])],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def succeed(*arguments: Any, **kwargs: Any) -> Any:
    done = run(*arguments, **kwargs)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A TorchScript detector: average colours of a 4×4 grid."""
    import torch

    class Colours(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)

    path = tmp_path_factory.mktemp("detector") / "colours.pt"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # TorchScript is deprecated, and the reference's detectors are TorchScript
        torch.jit.save(torch.jit.trace(Colours(), torch.zeros([2, 3, 32, 32])), path)
    return path


def test_from_images_to_metrics(tmp_path: Path, detector: Any) -> None:
    source = make_images(tmp_path / "images", resolution=48, classes=2)
    succeed("dataset_tool.py", f"--source={source}", f"--dest={tmp_path / 'data.zip'}", "--resolution=32x32")
    done = succeed(
        "train.py", f"--data={tmp_path / 'data.zip'}", f"--outdir={tmp_path / 'runs'}", "--cond=1",
        "--reg-type=ggdr", "--kimg=0.032", "--mirror=1", "--metrics=fid16_full,pr163_full",
        f"--detector={detector}", *SMALL, cwd=tmp_path,
    )  # fmt: skip
    assert "--ggdr_res=8 was chosen" in done.stdout
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name == "00000-data-cond-mirror-auto1-kimg0.032-batch4-cbase128-cmax8-map1"
    lines = [json.loads(line) for line in (run_dir / "metric-fid16_full.jsonl").read_text().splitlines()]
    contract = {
        "results",
        "metric",
        "total_time",
        "num_gpus",
        "snapshot_pkl",
        "timestamp",
        "detector",
        "count",
        "seed",
        "dataset",
    }
    assert contract <= set(lines[0])
    network = run_dir / lines[-1]["snapshot_pkl"]

    succeed("generate.py", f"--network={network}", "--seeds=0-2", "--class=1", f"--outdir={tmp_path / 'out'}")
    assert len(list((tmp_path / "out").glob("seed*.png"))) == 3

    done = succeed(
        "calc_metrics.py",
        f"--network={network}",
        "--metrics=fid16_full",
        f"--detector={detector}",
        "--device=cpu",
    )
    again = json.loads(done.stdout.splitlines()[-1])
    assert again["results"]["fid16_full"] == pytest.approx(lines[-1]["results"]["fid16_full"], rel=1e-6)

    resumed = succeed(
        "train.py", f"--data={tmp_path / 'data.zip'}", f"--outdir={tmp_path / 'runs'}", "--cond=1",
        f"--resume={network}", "--freezed=2", "--kimg=0.004", "--metrics=none", *SMALL,
    )  # fmt: skip
    assert "resumecustom" in resumed.stdout


def test_wrong_network_and_wrong_data_stop_before_anything_is_written(tmp_path: Path) -> None:
    source = make_images(tmp_path / "images")
    (tmp_path / "short.pkl").write_bytes(b"\x80\x04\x95")
    for options, message in (
        ([f"--resume={tmp_path / 'short.pkl'}", "--metrics=none"], "truncated or damaged"),
        ([f"--detector={tmp_path / 'none.pt'}"], "none.pt"),
        (["--metrics=fid5x_full"], "unknown metric"),
    ):
        command = [f"--data={source}", f"--outdir={tmp_path / 'runs'}", "--kimg=0.004", *options, *SMALL]
        done = CliRunner().invoke(train.main, command)
        assert done.exit_code == 1
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not any((tmp_path / "runs").iterdir()) if (tmp_path / "runs").exists() else True


@pytest.mark.parametrize("presses", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c(tmp_path: Path, presses: Any) -> None:
    source = make_images(tmp_path / "images")
    command = [
        "train.py",
        f"--data={source}",
        f"--outdir={tmp_path / 'runs'}",
        "--kimg=1000",
        "--metrics=none",
        *SMALL,
        "--snap=100000",
    ]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("tick 1 "):
                break
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    in_order = "by SIGINT; the checkpoint is" in output  # also where the second press came too late
    assert in_order if presses == 1 else in_order or "Interrupted" in errors
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert not list(run_dir.glob("*.tmp")) + list(run_dir.glob(".*"))
    for snapshot in run_dir.glob("*.pkl"):
        load_network_pkl(snapshot)
    state = newest_state(run_dir)[1]["counters"]
    assert state["steps"] >= 5 if in_order else state["steps"] == 1
