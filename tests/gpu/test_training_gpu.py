"""Training on a GPU: what tests on a CPU cannot see. docs/status.md tells where these have run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import step_checks as checks
from tests.support.runs import make_images, plain_data, small_config
from training.phases import Reals, build_phases
from training.run.state import RunState
from training.training_loop import run_phase

ROOT = Path(__file__).resolve().parent.parent.parent
CUDA = torch.device("cuda")

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda_ops")]


@pytest.mark.parametrize("options", [{}, {"nhwc": True}, {"batch_gpu": 2}, {"aug": "ada"}], ids=str)
def test_gradients_in_half_precision(monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    checks.check_half_precision(monkeypatch, CUDA, **options)


@pytest.mark.parametrize(
    "options", [{}, {"nhwc": True}, {"precision": "bf16"}, {"fp32": True}, {"augpipe": "bgcfnc"}], ids=str
)
def test_a_step_waits_for_nothing_and_stays_finite(options: Any) -> None:
    """Kernels are chosen and workspaces made in the first steps."""
    if options.get("precision") == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("no bfloat16 here")
    config = small_config(
        plain_data(), **{"reg_type": "ggdr", "gamma": 10, "aug": "ada", "batch": 4, **options}
    )
    state = RunState.fresh(config, CUDA)
    real, labels = torch.rand([4, 3, 32, 32], device=CUDA) * 2 - 1, torch.zeros([4, 0], device=CUDA)
    for step in range(3):
        torch.cuda.set_sync_debug_mode("error" if step == 2 else "default")
        try:
            for phase in build_phases(state):
                run_phase(state, phase, Reals(real, labels, None, None))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite().all() for module in (state.G, state.D) for value in module.parameters())


def run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("gpus", [1, 2])
def test_from_images_to_pictures(tmp_path: Path, gpus: Any) -> None:
    """Train, go on, generate; with two GPUs by way of nccl."""
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs")
    make_images(tmp_path / "data")
    outdir = tmp_path / "runs"
    common = (f"--gpus={gpus}", "--device=cuda", "--metrics=none", "--workers=1")
    options = (
        "--cfg=auto",
        "--cbase=128",
        "--cmax=8",
        "--batch=8",
        "--tick=0.016",
        "--snap=1",
        "--reg_type=ggdr",
        "--ops=native",
    )
    run("train.py", f"--outdir={outdir}", f"--data={tmp_path / 'data'}", "--kimg=0.032", *options, *common)
    (run_dir,) = outdir.iterdir()
    assert "Going on at" in run("train.py", f"--continue={run_dir}", "--kimg=0.064", "--ops=native", *common)
    last = json.loads((run_dir / "stats.jsonl").read_text().splitlines()[-1])
    assert last["Progress/kimg"]["mean"] == pytest.approx(0.064)
    assert last["Health/nonfinite_losses/D_main"]["mean"] == 0
    network = max(run_dir.glob("network-snapshot-*.pkl"))
    run("generate.py", f"--network={network}", "--seeds=0-2", f"--outdir={tmp_path / 'out'}")
    assert len(list((tmp_path / "out").glob("seed*.png"))) == 3
