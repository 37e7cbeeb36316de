"""train.py in several processes: the result, torchrun, and the loss of a process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner

import train
from tests.support.runs import make_images
from training.config.run_directory import state_paths
from training.run.state_file import newest_state

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = [
    "--cbase=128",
    "--cmax=8",
    "--map-depth=1",
    "--batch=4",
    "--batch-gpu=2",
    "--mbstd-group=2",
    "--gamma=1",
    "--workers=0",
]
STEPS = 12
RUN = [
    *SMALL,
    "--device=cpu",
    "--metrics=none",
    "--reg_type=ggdr",
    f"--kimg={STEPS * 0.004}",
    "--tick=0.008",
    "--snap=1",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_images(tmp_path_factory.mktemp("gpus") / "images")


@contextmanager
def started(*command: object) -> Iterator["subprocess.Popen[str]"]:
    arguments = [sys.executable, *map(str, command)]
    scratch = tempfile.TemporaryDirectory()  # launchers that are killed leave files
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": scratch.name}
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        for child in children(process):
            child.kill()
        process.kill()
        process.communicate()
        scratch.cleanup()


def children(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train, in the order of ranks."""
    try:
        found = [child for child in psutil.Process(process.pid).children() if "RANK" in child.environ()]
    except psutil.Error:
        return []
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def wait_for(process: "subprocess.Popen[str]", pattern: str) -> str:
    """Read the output as far as a line that begins with the pattern; gives what was read."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if re.match(pattern, line):
            return read
    raise AssertionError(f"{pattern} never came: {read}")


def succeed(*command: object) -> str:
    with started(*command) as process:
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 0, output
    return output


def only_run(outdir: Path) -> Path:
    (run_dir,) = outdir.iterdir()
    return run_dir


def final(run_dir: Path) -> dict[str, torch.Tensor]:
    """Weights and the rest of the last state, by name."""
    found = newest_state(run_dir)
    assert found is not None
    parts = found[1]["parts"]
    flat = {
        f"{name}.{key}": value
        for name in ("G", "D", "G_ema", "pipe", "objective")
        for key, value in parts[name].items()
    }
    return {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}


def assert_same_run(run_dir: Path, other: Path, **tolerance: float) -> None:
    """The same steps with the same results, up to the order of additions."""
    ours, theirs = final(run_dir), final(other)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=name, **tolerance)
    losses = [
        [
            {name: entry for name, entry in json.loads(line).items() if name.startswith(("Loss", "Progress"))}
            for line in lines
        ]
        for lines in ((path / "stats.jsonl").read_text().splitlines() for path in (run_dir, other))
    ]
    for ours_line, theirs_line in zip(*losses, strict=True):
        for name, entry in theirs_line.items():
            assert ours_line[name] == pytest.approx(entry, rel=5e-3, abs=5e-3), name


CLOSE = {"rtol": 1e-3, "atol": 1e-3}
EXACT = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(scope="module")
def alone(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run in one process."""
    outdir = tmp_path_factory.mktemp("alone")
    succeed("train.py", f"--outdir={outdir}", f"--data={images}", "--gpus=1", *RUN)
    return only_run(outdir)


@pytest.fixture(scope="module")
def pair(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run in two processes, and what was printed."""
    outdir = tmp_path_factory.mktemp("pair")
    output = succeed("train.py", f"--outdir={outdir}", f"--data={images}", "--gpus=2", *RUN)
    return only_run(outdir), output


def test_two_processes_train_what_one_does(alone: Any, pair: Any) -> None:
    run_dir, output = pair
    assert_same_run(run_dir, alone, **CLOSE)
    kinds = [
        {re.sub(r"^events.*", "events", path.name) for path in folder.iterdir()}
        for folder in (run_dir, alone)
    ]
    assert kinds[0] == kinds[1]
    assert len(re.findall("^tick 0 ", output, flags=re.MULTILINE)) == 1, "one of them speaks"
    assert "on cpu in 2 processes, connected by gloo ..." in output
    assert json.loads((run_dir / "training_options.json").read_text())["runtime"]["gpus"] == 2


def test_what_cannot_be_is_said_in_one_line(images: Any, pair: Any, tmp_path: Path) -> None:
    for options, message in (
        (
            [f"--outdir={tmp_path}", f"--data={images}", "--gpus=512", "--batch=1024"],
            "--gpus=512, but this machine takes",
        ),
        ([f"--continue={pair[0]}", "--gpus=4"], "--gpus=4: the run's batch of 4 images"),
    ):
        with started("train.py", *options, *(["--device=cpu"])) as process:
            output = process.communicate(timeout=60)[0]
        assert process.returncode == 1
        assert output.startswith(f"Error: {message}")
        assert output.count("\n") == 1, output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "message"), [(0, "No such option"), (1, "")])
def test_of_several_processes_one_complains_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, rank: Any, message: Any
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(train.main, ["--colour=1"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert bool(result.stderr) == bool(message)


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(images: Any, alone: Any, tmp_path: Path) -> None:
    """SIGTERM after a few steps of two, the middle in one, the rest in two again."""
    with started("train.py", f"--outdir={tmp_path}", f"--data={images}", "--gpus=2", *RUN) as process:
        wait_for(process, "tick 2 ")
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "Stopped at" in output
    assert "by SIGTERM" in output
    run_dir = only_run(tmp_path)
    succeed("train.py", f"--continue={run_dir}", "--gpus=1", "--kimg=0.036")
    succeed("train.py", f"--continue={run_dir}", "--gpus=2", f"--kimg={STEPS * 0.004}")
    for name, value in final(alone).items():
        torch.testing.assert_close(final(run_dir)[name], value, msg=name, **CLOSE)


@pytest.mark.slow
def test_ctrl_c_at_the_launcher(images: Any, tmp_path: Path) -> None:
    with started(
        "train.py", f"--outdir={tmp_path}", f"--data={images}", "--gpus=2", *RUN, "--kimg=100"
    ) as process:
        wait_for(process, "tick 2 ")
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert output.count("Stopped at") == 1
    assert "Interrupted" not in output
    assert "Traceback" not in output
    assert state_paths(only_run(tmp_path))


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_restarts_go_on_exactly(
    images: Any, pair: Any, tmp_path: Path
) -> None:
    with started(
        "train.py", f"--outdir={tmp_path}", f"--data={images}", "--gpus=2", "--max-restarts=1", *RUN
    ) as process:
        wait_for(process, "tick 2 ")
        children(process)[1].kill()
        output = wait_for(process, "Going on at")
        assert "rank 1 does not answer" in output
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert_same_run(only_run(tmp_path), pair[0], **EXACT)

    with started("train.py", f"--continue={only_run(tmp_path)}", "--kimg=100") as process:
        wait_for(process, "tick 7 ")
        begin = time.monotonic()
        children(process)[1].kill()
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert time.monotonic() - begin < 20
    assert "Error: rank 1 was killed by SIGKILL (signal 9)" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_process_that_stops_answering_is_named(images: Any, tmp_path: Path) -> None:
    options = [
        "--gpus=2",
        "--dist-timeout=4",
        *RUN,
        "--kimg=100",
        "--tick=10",
    ]  # longer waits are right between ticks
    with started("train.py", f"--outdir={tmp_path}", f"--data={images}", *options) as process:
        wait_for(process, "tick 0 ")
        time.sleep(3)
        stopped = children(process)[1]
        stopped.suspend()
        output = wait_for(process, "Error: ")
        assert re.search(
            r"Error: rank 0 gave up after waiting for .* for 4\.\d seconds: rank 1 does not answer", output
        ), output
        stopped.kill()  # the launcher would do so after half a minute
        process.communicate(timeout=60)
    assert process.returncode == 1


FAULTY = """
import sys
import train
from torch_utils import distributed
from training import training_loop

original = training_loop.run_phase

def run_phase(state, phase, *args, **kwargs):
    if distributed.rank() == 1 and state.steps == 3:
        raise ArithmeticError("rank 1 cannot go on")
    return original(state, phase, *args, **kwargs)

training_loop.run_phase = run_phase
train.main()
"""


@pytest.mark.slow
def test_a_fault_in_one_process_ends_all_and_is_shown_once(images: Any, tmp_path: Path) -> None:
    program = tmp_path / "faulty.py"
    program.write_text(FAULTY)
    with started(program, f"--outdir={tmp_path / 'runs'}", f"--data={images}", "--gpus=2", *RUN) as process:
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 1
    assert output.count("Traceback") == 1
    assert "Rank 1 of 2 failed:" in output
    assert "ArithmeticError: rank 1 cannot go on" in output
    assert "\nError: " not in output, "the other one has nothing to add"


@pytest.mark.slow
def test_two_machines(images: Any, pair: Any, tmp_path: Path) -> None:
    """Two torchrun agents with one process each, as on two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agent = [
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        "--rdzv-id=two",
    ]
    agent += [
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--local-addr=127.0.0.1",
        "train.py",
        f"--outdir={tmp_path}",
        f"--data={images}",
        *RUN,
    ]
    with started(*agent) as first, started(*agent) as second:
        outputs = [process.communicate(timeout=200)[0] for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), outputs
    assert sorted("tick 0 " in output for output in outputs) == [False, True]
    assert_same_run(only_run(tmp_path), pair[0], **EXACT)


@pytest.mark.slow
def test_metrics_in_two_processes(
    images: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the training, and calc_metrics.py's in two processes and in one: one value."""
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    tmp_path = tmp_path_factory.mktemp("measured")
    measured = ["--metrics=fid32_full", "--detector=efficientnet-lite0"]
    options = [f"--outdir={tmp_path}", f"--data={images}", "--gpus=2", *RUN, "--kimg=0.008", *measured]
    succeed("train.py", *options)
    run_dir = only_run(tmp_path)
    snapshot = run_dir / "network-snapshot-000000.pkl"
    for gpus in (2, 1):
        succeed("calc_metrics.py", f"--network={snapshot}", f"--gpus={gpus}", "--device=cpu", *measured)
    records = [json.loads(line) for line in (run_dir / "metric-fid32_full.jsonl").read_text().splitlines()]
    assert [record["num_gpus"] for record in records[-3:]] == [2, 2, 1]
    values = [record["results"]["fid32_full"] for record in records[-3:]]
    assert values == pytest.approx([values[-1]] * 3, rel=1e-6)
