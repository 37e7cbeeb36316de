"""Exact continuation: a run that was stopped and continued is, bit for bit, the run that was not."""

import copy
import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from dnnlib.errors import UserError
from dnnlib.files import FolderLock
from dnnlib.log import LogTee
from metrics import in_training
from metrics.results import MetricResult
from tests.support import kills
from tests.support.analysis import make_pairs
from tests.support.runs import make_images, open_small, small_state
from torch_utils.persistence import load_network_pkl
from training import training_loop
from training.config.run_directory import state_paths
from training.data.dataset import ImageFolderDataset
from training.data.paired import PairedDataset
from training.phases import Reals, build_phases
from training.run import checkpoints, session, ticks
from training.run.state import HELD, RunState
from training.run.state_file import newest_state, read_state

STEPS = 10
OPTIONS = {"batch": 4, "kimg": STEPS * 0.004, "tick": 0.012, "snap": 2, "reg_type": "ggdr"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_images(tmp_path_factory.mktemp("continue") / "images", resolution=16, classes=3)


def lively(config: Any) -> Any:
    """With an augmentation that is felt, and moves."""
    if config.augment.target is None:
        return config
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, kimg=1, initial_p=0.5))


def train(folder: Any, run_dir: Any, *, memory_budget_mb: Any = 1024, **options: Any) -> None:
    cond = options.pop("cond", False)
    config, _ = open_small(folder, cond=cond, **{**OPTIONS, **options})
    dataset = ImageFolderDataset(folder, use_labels=cond, memory_budget_mb=memory_budget_mb)
    run_dir.mkdir(exist_ok=True)
    training_loop.run(lively(config), run_dir, dataset)


class StopAt:
    """Sends this process a signal in the middle of a step, counted from the beginning of the run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: Any, number: Any = signal.SIGTERM) -> None:
        self.original = training_loop.run_phase

        def stopping(state: Any, phase: Any, *args: Any) -> None:
            self.original(state, phase, *args)
            if (state.steps, phase.name) == (step, "G_main"):
                os.kill(os.getpid(), number)

        monkeypatch.setattr(training_loop, "run_phase", stopping)


def assert_same(a: Any, b: Any, where: Any = "") -> None:
    """Nested values are equal; tensors bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a.view(torch.uint8) if a.ndim else a, b.view(torch.uint8) if b.ndim else b), where
    else:
        assert a == b, where


def assert_same_run(first: Any, second: Any) -> None:
    """State, statistics and metrics; not the time that it took."""
    states = [newest_state(run_dir)[1] for run_dir in (first, second)]
    for state in states:
        del state["parts"]["timer"], state["config"]
    assert_same(*states)
    assert lasting(first / "stats.jsonl") == lasting(second / "stats.jsonl")
    for path in first.glob("metric-*.jsonl"):
        assert lasting(path) == lasting(second / path.name)
    names = [
        {path.name for path in run_dir.iterdir() if path.suffix in (".pkl", ".png", ".jsonl")}
        for run_dir in (first, second)
    ]
    assert names[0] == names[1]


def lasting(path: Any) -> Any:
    """The lines without what differs from run to run: times and memory."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if not key.startswith(("Timing/", "Resources/", "timestamp", "total_time"))
        }
        for line in lines
    ]


@pytest.fixture(scope="module")
def undisturbed(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(images, run_dir)
    return run_dir


@pytest.mark.parametrize("step", [0, 3, 7, STEPS - 1])
def test_stopped_and_continued(
    images: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Any
) -> None:
    """At the first step, within a tick, at its end, and at the end of the run."""
    with monkeypatch.context() as context:
        StopAt(context, step)
        train(images, tmp_path / "run")
    assert read_state(state_paths(tmp_path / "run")[0])["counters"]["steps"] == step + 1
    train(images, tmp_path / "run")
    assert_same_run(undisturbed, tmp_path / "run")


def test_the_state_of_a_run_moves(undisturbed: Any) -> None:
    """So that equal states say something: ADA, path lengths and both optimisers have done their part."""
    parts = newest_state(undisturbed)[1]["parts"]
    assert 0 < float(parts["pipe"]["p"]) != 0.5
    assert float(parts["objective"]["pl_mean"]) > 0
    for name, steps in (("G_opt", 13), ("D_opt", 11)):
        assert {float(entry["step"]) for entry in parts[name]["state"].values()} == {steps}
    assert len(lasting(undisturbed / "stats.jsonl")) == 4


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"reg_type": "none", "aug": "noaug", "cfg": "cifar", "mbstd_group": 4, "map_depth": 2},
            marks=pytest.mark.slow,
        ),
        {"reg_type": "none", "workers": 2, "memory_budget_mb": 0, "cond": True},
    ],
    ids=["cifar", "workers"],
)
def test_other_runs_stopped_twice(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    train(images, tmp_path / "a", **options)
    for step in (2, 6):
        with monkeypatch.context() as context:
            StopAt(context, step)
            train(images, tmp_path / "b", **options)
    train(images, tmp_path / "b", **options)
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"workers": 2, "memory_budget_mb": 0}, marks=pytest.mark.slow)],
    ids=["in memory", "workers"],
)
def test_a_run_with_segmentation_stopped_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    pairs = make_pairs(tmp_path / "pairs", count=10, resolution=16)
    budget = options.pop("memory_budget_mb", 1024)
    config, _ = open_small(pairs, mirror=True, **{**OPTIONS, "reg_type": "seg", **options})
    for name, step in (("a", None), ("b", 4), ("b", None)):
        (tmp_path / name).mkdir(exist_ok=True)
        with monkeypatch.context() as context:
            if step is not None:
                StopAt(context, step)
            training_loop.run(
                lively(config),
                tmp_path / name,
                PairedDataset(pairs, xflip=True, num_classes=2, memory_budget_mb=budget),
            )
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert all("Loss/D/loss_seg" in line for line in lasting(tmp_path / "a" / "stats.jsonl"))
    kwargs = load_network_pkl(tmp_path / "a" / "network-snapshot-000000.pkl")["training_set_kwargs"]
    assert len(ImageFolderDataset(**kwargs)) == 20
    PIL.Image.new("L", (16, 16)).save(pairs / "annotations" / "0003.png")
    with pytest.raises(UserError, match="is not the data that"):
        training_loop.run(lively(config), tmp_path / "b", PairedDataset(pairs, xflip=True, num_classes=2))


def killed_run(images: Any, run_dir: Any, kimg: Any, moments: Any) -> Any:
    """Train, killed at each of the moments; how each start ended."""
    run_dir.mkdir(parents=True)
    command = [
        sys.executable,
        "-W",
        "error",
        str(Path(kills.__file__)),
        str(images),
        str(run_dir),
        str(kimg),
        json.dumps(moments),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert ends[-1] == {"status": 0}, done.stdout + done.stderr
    return ends[:-1]


def unkilled_run(images: Any, run_dir: Any, kimg: Any) -> None:
    config, dataset = open_small(images, kimg=kimg, **kills.OPTIONS)
    run_dir.mkdir()
    training_loop.run(config, run_dir, dataset)


def random_moments(rng: Any, count: Any) -> Any:
    """Half of them by the clock, half in the middle of writing."""
    for i in range(count):
        if i % 2:
            yield {"after": rng.uniform(0, 0.3)}
        else:
            place, most = rng.choice(
                [("state", 300), ("statistics", 15), ("snapshot", 1), ("rename", 4), ("prune", 4)]
            )
            yield {"during": place, "count": rng.randint(1, most)}


def test_killed_in_the_middle_of_writing(images: Any, tmp_path: Path) -> None:
    unkilled_run(images, tmp_path / "a", 0.064)
    moments = [
        {"during": "state", "count": 40},
        {"during": "statistics", "count": 18},
        {"during": "rename", "count": 2},
    ]
    ends = killed_run(images, tmp_path / "killed" / "b", 0.064, moments)
    assert [end["status"] for end in ends] == [-signal.SIGKILL] * 3
    assert_same_run(tmp_path / "a", tmp_path / "killed" / "b")
    assert not list((tmp_path / "killed" / "b").glob(".*"))


@pytest.mark.slow
def test_killed_at_twenty_random_moments(images: Any, tmp_path: Path) -> None:
    """Reproducible but for the moments that go by the clock."""
    unkilled_run(images, tmp_path / "a", 0.4)
    ends = killed_run(images, tmp_path / "killed" / "b", 0.4, list(random_moments(random.Random(0), 20)))
    assert sum(end["status"] == -signal.SIGKILL for end in ends) >= 15
    assert_same_run(tmp_path / "a", tmp_path / "killed" / "b")


def test_a_damaged_state_is_passed_over(
    images: Any,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as context:
        StopAt(context, 7)
        train(images, tmp_path / "run", checkpoint_minutes=1e-9)
    newest, before = state_paths(tmp_path / "run")
    place = f"Going on at {read_state(before)['counters']['images_seen'] / 1000:g} kimg"
    newest.write_bytes(newest.read_bytes()[:-1000])
    train(images, tmp_path / "run")
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert place in (tmp_path / "run" / "log.txt").read_text()
    assert_same_run(undisturbed, tmp_path / "run")


def test_statistics_of_a_lost_future_are_written_again(
    images: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest states are lost, and the records of what came after them are there."""
    train(images, tmp_path / "run")
    shutil.copy(tmp_path / "run" / "stats.jsonl", tmp_path / "later.jsonl")
    shutil.rmtree(tmp_path / "run")
    with monkeypatch.context() as context:
        StopAt(context, 4)
        train(images, tmp_path / "run")
    shutil.copy(tmp_path / "later.jsonl", tmp_path / "run" / "stats.jsonl")
    train(images, tmp_path / "run")
    assert "stats.jsonl: dropped 2 of 4 records" in (tmp_path / "run" / "log.txt").read_text()
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_finished_run_says_so_and_goes_on_with_more_to_do(
    images: Any, undisturbed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    before = {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir() if path.name != "log.txt"}
    train(images, run_dir)
    assert f"This run is finished: 0.04 kimg in {run_dir}; a larger --kimg goes on" in capsys.readouterr().out
    assert {
        path.name: path.stat().st_mtime_ns for path in run_dir.iterdir() if path.name != "log.txt"
    } == before
    train(images, run_dir, kimg=0.06)
    train(images, tmp_path / "whole", kimg=0.06)
    extended, whole = (newest_state(folder)[1] for folder in (run_dir, tmp_path / "whole"))
    for name in ("G", "D", "G_ema", "G_opt", "D_opt", "pipe", "ada", "objective"):
        assert_same(extended["parts"][name], whole["parts"][name], name)


def test_less_to_do_ends_where_the_run_is(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How to get the networks of a stopped run: the last tick and a snapshot are made up for."""
    with monkeypatch.context() as context:
        StopAt(context, 5)
        train(images, tmp_path / "run")
    assert len(lasting(tmp_path / "run" / "stats.jsonl")) == 2
    train(images, tmp_path / "run", kimg=0.001)
    assert load_network_pkl(tmp_path / "run" / "network-snapshot-000000.pkl")["info"]["images_seen"] == 24
    assert [line["Progress/kimg"]["mean"] for line in lasting(tmp_path / "run" / "stats.jsonl")] == [
        0.004,
        0.016,
        0.024,
    ]


def test_a_run_that_was_stopped_right_after_a_tick_makes_up_for_its_last_snapshot(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        StopAt(context, 3)
        train(images, tmp_path / "run", snap=100)
    snapshot = tmp_path / "run" / "network-snapshot-000000.pkl"
    assert load_network_pkl(snapshot)["info"]["images_seen"] == 4
    train(images, tmp_path / "run", snap=100, kimg=0.001)
    assert load_network_pkl(snapshot)["info"]["images_seen"] == 16
    told = [line["Progress/kimg"]["mean"] for line in lasting(tmp_path / "run" / "stats.jsonl")]
    assert told == [0.004, 0.016], "no tick is told of twice"
    taken = snapshot.stat().st_mtime_ns
    train(images, tmp_path / "run", snap=100, kimg=0.001)
    assert snapshot.stat().st_mtime_ns == taken, "it is finished now"


def test_other_data_and_other_options_are_refused(images: Any, undisturbed: Any, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.copytree(images, tmp_path / "moved")
    with pytest.raises(UserError, match=r"optim.lr_G: 0\.002.* → 0\.1"):
        train(images, tmp_path / "run", glr=0.1)
    train(tmp_path / "moved", tmp_path / "run", kimg=0.044)  # elsewhere, the same files
    (tmp_path / "moved" / "0001.png").write_bytes((tmp_path / "moved" / "0002.png").read_bytes())
    with pytest.raises(
        UserError, match=r"'.*moved' is not the data that .*training-state-0000000044\.pt was trained on"
    ):
        train(tmp_path / "moved", tmp_path / "run", kimg=0.06)


def test_a_state_that_knows_its_data_as_before_goes_on(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older checkpoints know zips and large folders by names, sizes and checksums, newer ones by content."""
    monkeypatch.setattr("training.data.dataset.READ_BEFORE", 0)
    with monkeypatch.context() as context:
        context.setattr(ImageFolderDataset, "identity", ImageFolderDataset.earlier_identity)
        train(images, tmp_path / "run", kimg=0.008)
    before = newest_state(tmp_path / "run")[1]["data"]
    train(images, tmp_path / "run", kimg=0.016)
    dataset = ImageFolderDataset(images)
    assert (before, newest_state(tmp_path / "run")[1]["data"]) == (
        dataset.earlier_identity(),
        dataset.identity(),
    )
    assert dataset.earlier_identity() != dataset.identity()


def test_transfer_learning_goes_on_without_its_source(
    images: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.pkl"
    shutil.copy(undisturbed / "network-snapshot-000000.pkl", source)
    with monkeypatch.context() as context:
        StopAt(context, 3)
        train(images, tmp_path / "run", resume=str(source))
    source.unlink()
    train(images, tmp_path / "run", resume=str(source))
    assert newest_state(tmp_path / "run")[1]["counters"]["steps"] == STEPS


def test_one_process_at_a_time(images: Any, undisturbed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LogTee", lambda path: LogTee(path, patience=0))
    (undisturbed / "log.txt").rename(undisturbed / "log.old")  # a lock on the log itself would go with it
    with FolderLock(undisturbed), pytest.raises(UserError, match="another process is writing"):
        train(images, undisturbed)


def fake_metric(monkeypatch: pytest.MonkeyPatch, seen: Any, during: Any = lambda: None) -> None:
    """A metric that looks at one number of G."""
    rest = dict(
        detector="d",
        count=1,
        num_real=1,
        seed=0,
        dataset="i",
        mirror=False,
        resolution=16,
        total_time=0,
        num_gpus=1,
        timestamp=0,
    )

    def evaluate(names: Any, *, generator: Any, **_: Any) -> Any:
        results = []
        for name in names:
            seen.append(name)
            during()
            results.append(
                MetricResult(
                    metric=name, values={name: float(generator.synthesis.b4.const.abs().sum())}, **rest
                )
            )
        return results

    monkeypatch.setattr(session, "preflight", lambda *args, **kwargs: None)
    monkeypatch.setattr(in_training, "evaluate", evaluate)


METRICS = ("fid5_full", "kid5_full")


def test_a_signal_during_a_measurement_leaves_it_for_later(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fake_metric(monkeypatch, seen)
    train(images, tmp_path / "a", metrics=METRICS)
    assert seen == [*METRICS] * 3
    count = len(seen)
    fake_metric(
        monkeypatch, seen, lambda: os.kill(os.getpid(), signal.SIGTERM) if len(seen) == count + 3 else None
    )
    train(images, tmp_path / "b", metrics=METRICS)
    state = newest_state(tmp_path / "b")[1]["counters"]
    assert (state["steps"], state["pending"]) == (7, "network-snapshot-000000.pkl")
    assert len((tmp_path / "b" / "metric-fid5_full.jsonl").read_text().splitlines()) == 1
    train(images, tmp_path / "b", metrics=METRICS)
    assert seen[count:] == [*METRICS, METRICS[0], *METRICS, *METRICS]
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(images, tmp_path / "b", metrics=METRICS)
    assert len(seen) == count + 7, "nothing is measured twice"


def test_a_signal_while_a_measurement_is_made_up_for_leaves_it_again_for_later(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    at = {2, 4}
    fake_metric(monkeypatch, seen, lambda: os.kill(os.getpid(), signal.SIGTERM) if len(seen) in at else None)
    for _ in range(2):
        train(images, tmp_path / "run", metrics=METRICS)
        state = newest_state(tmp_path / "run")[1]["counters"]
        assert (state["steps"], state["pending"]) == (1, "network-snapshot-000000.pkl")
    assert len(seen) == 4
    train(images, tmp_path / "run", metrics=METRICS)
    first = json.loads((tmp_path / "run" / f"metric-{METRICS[1]}.jsonl").read_text().splitlines()[0])
    assert first["images_seen"] == 4


def test_snapshots_are_pruned(images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_metric(monkeypatch, [])
    best = []
    second = tmp_path / "run" / "network-snapshot-000001.pkl"
    monkeypatch.setattr(ticks, "best_snapshot", lambda run_dir, metric: best.append(metric) or second)
    options = {
        "batch": 500,
        "kimg": 5,
        "tick": 1,
        "snap": 1,
        "metrics": METRICS,
        "keep_snapshots": "best,last:2",
    }
    monkeypatch.setattr(training_loop, "run_phase", lambda *args: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "network-snapshot-000099.pkl").touch()
    train(images, tmp_path / "run", **options)
    kept = sorted(int(path.stem[-6:]) for path in (tmp_path / "run").glob("*.pkl"))
    assert kept == [1, 4, 5, 99]
    assert set(best) == {"fid5_full"}
    assert newest_state(tmp_path / "run")[1]["counters"]["snapshots"] == [
        f"network-snapshot-{i:06d}.pkl" for i in range(6)
    ]


class FullFor:
    """Lets files of some kind fail to be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: Any, fails: Any) -> None:
        original = getattr(owner, name)

        def writing(*args: Any, **kwargs: Any) -> Any:
            if fails():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, writing)


def test_a_disk_that_is_full_for_a_while(
    images: Any,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = []
    with monkeypatch.context() as context:
        FullFor(context, checkpoints, "write_state", lambda: calls.append(1) or len(calls) == 2)
        FullFor(context, RunState, "save_snapshot", lambda: len(calls) == 1)
        train(images, tmp_path / "run")
    errors = capsys.readouterr().err
    assert errors.count("Warning: cannot write the checkpoint") == 1
    assert errors.count("Warning: cannot write the snapshot") == 1
    assert (tmp_path / "run" / "network-snapshot-000000.pkl").exists()
    ours, theirs = (newest_state(run_dir)[1]["parts"] for run_dir in (tmp_path / "run", undisturbed))
    assert_same({**ours, "timer": 0}, {**theirs, "timer": 0})


@pytest.mark.parametrize(("owner", "name"), [(checkpoints, "write_state"), (RunState, "save_snapshot")])
def test_a_disk_that_is_full_at_the_end(
    images: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: Any
) -> None:
    calls = []
    with monkeypatch.context() as context:
        FullFor(context, owner, name, lambda: calls.append(1) or len(calls) > 2)
        with pytest.raises(
            UserError,
            match=rf"No space left on device.*make room, and go on from .*--continue={tmp_path / 'run'}",
        ):
            train(images, tmp_path / "run")
    assert newest_state(tmp_path / "run")[1]["counters"]["steps"] == 7
    train(images, tmp_path / "run")
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_folder_that_cannot_be_written(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullFor(monkeypatch, session, "atomic_write", lambda: True)
    with pytest.raises(UserError, match=rf"cannot write {tmp_path / 'run'} \(No space left on device\)"):
        train(images, tmp_path / "run")


def test_everything_that_a_step_changes_is_saved() -> None:
    """A restored state equals the saved one in all its fields, and goes on as it does."""
    state = small_state(reg_type="ggdr", kimg=1)
    real = torch.randint(256, [4, 3, 32, 32], dtype=torch.uint8)
    reals = Reals.of((real, torch.zeros([4, 0])), None, torch.device("cpu"))
    phases = build_phases(state)
    for _ in range(2):
        training_loop.step(state, phases, reals)
    other = RunState.build(state.config, state.device)
    other.load_state_dict(copy.deepcopy(state.state_dict()))
    for name in {field.name for field in dataclasses.fields(RunState)} - {"config", "device", "timer"}:
        ours, theirs = getattr(state, name), getattr(other, name)
        assert name in HELD
        if name in state.parts():
            ours, theirs = ours.state_dict(), theirs.state_dict()
        assert_same(ours, theirs, name)
    for _ in range(2):
        for continued in (state, other):
            training_loop.step(continued, build_phases(continued), reals)
    first, second = state.state_dict(), other.state_dict()
    for saved in (first, second):
        del saved["parts"]["timer"]
    assert_same(first, second)


def test_a_state_that_does_not_fit() -> None:
    state = small_state()
    saved = state.state_dict()
    del saved["parts"]["ada"]
    with pytest.raises(
        UserError, match=r"the checkpoint lacks ada; another program or another version wrote it"
    ):
        small_state().load_state_dict(saved)


def test_a_disk_that_is_full_when_asked_to_stop(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler has to hear that what was done since the last state is lost."""
    StopAt(monkeypatch, 2)
    calls = []
    FullFor(monkeypatch, checkpoints, "write_state", lambda: calls.append(1) or len(calls) > 1)
    with pytest.raises(UserError, match="No space left on device"):
        train(images, tmp_path / "run")
    assert newest_state(tmp_path / "run")[1]["counters"]["steps"] == 1
