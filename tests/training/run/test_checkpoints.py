"""When a checkpoint is written, and what happens when it cannot be."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.runs import small_state
from training.config.run_directory import state_path, state_paths
from training.run import checkpoints as module
from training.run.checkpoints import RETRY, Checkpoints
from training.run.health import SUSPECT
from training.run.state_file import read_state


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> Any:
        return self.now


@pytest.fixture
def clock() -> Any:
    return Clock()


@pytest.fixture
def state() -> Any:
    return small_state(checkpoint_minutes=10)


@pytest.fixture
def checkpoints(state: Any, tmp_path: Path, clock: Any) -> Any:
    return Checkpoints(state, tmp_path, "the data", clock)


def counts(folder: Any) -> Any:
    return [read_state(path)["counters"]["images_seen"] for path in state_paths(folder)]


def test_due_after_the_interval(checkpoints: Any, state: Any, clock: Any, tmp_path: Path) -> None:
    clock.now += 599
    assert not checkpoints.due
    clock.now += 1
    assert checkpoints.due
    state.images_seen = 8
    checkpoints.save()
    assert not checkpoints.due
    assert counts(tmp_path) == [8]
    assert read_state(state_paths(tmp_path)[0])["data"] == "the data"
    clock.now += 600
    assert checkpoints.due


def test_zero_minutes_is_never(tmp_path: Path, clock: Any) -> None:
    checkpoints = Checkpoints(small_state(checkpoint_minutes=0), tmp_path, "", clock)
    clock.now += 1e9
    assert not checkpoints.due
    checkpoints.save()
    assert counts(tmp_path) == [0], "at snapshots it is written all the same"


def test_the_same_state_is_written_once(checkpoints: Any, state: Any, tmp_path: Path) -> None:
    checkpoints.save()
    (path,) = state_paths(tmp_path)
    before = path.stat().st_ino
    checkpoints.save()
    assert path.stat().st_ino == before
    state.pending = "network-snapshot-000000.pkl"
    checkpoints.save()
    assert path.stat().st_ino != before
    assert read_state(path)["counters"]["pending"] == state.pending


def test_the_last_two_stay(checkpoints: Any, state: Any, tmp_path: Path) -> None:
    for state.images_seen in (4, 8, 12):
        checkpoints.save()
    assert counts(tmp_path) == [12, 8]


@pytest.mark.parametrize("mode", ["stop", "ignore"])
def test_a_state_with_gradients_that_are_not_finite_is_not_kept(
    tmp_path: Path, clock: Any, mode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    state = small_state(on_nonfinite=mode)
    checkpoints = Checkpoints(state, tmp_path, "", clock)
    clock.now += 600
    for _ in range(SUSPECT):
        assert checkpoints.unsound() is None
        state.health.observe("D_main", [torch.tensor([float("nan")])])
    checkpoints.save(required=True)
    warning = (
        "Warning: no checkpoint is kept here: the last 3 gradients of D_main were not finite; the one before "
        "stays\n"
    )
    assert (checkpoints.unsound() is not None, capsys.readouterr().err) == (
        (True, warning) if mode == "stop" else (False, "")
    )
    assert counts(tmp_path) == ([] if mode == "stop" else [0])
    assert not checkpoints.due, "the device is not waited for at every step"
    state.health.observe("D_main", [torch.tensor([1.0])])
    clock.now += RETRY
    assert checkpoints.due == (mode == "stop"), "made up for soon"
    checkpoints.save()
    assert counts(tmp_path) == [0]


def fill(monkeypatch: pytest.MonkeyPatch, number: Any = errno.ENOSPC) -> None:
    def full(path: Any, content: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "write_state", full)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")]
)
def test_training_goes_on_when_the_disk_is_full(
    checkpoints: Any,
    state: Any,
    clock: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: Any,
    reason: Any,
) -> None:
    checkpoints.save()
    fill(monkeypatch, number)
    state.images_seen = 4
    checkpoints.save()
    assert (
        f"Warning: cannot write the checkpoint {tmp_path / 'training-state-0000000004.pt'} ({reason})"
        in capsys.readouterr().err
    )
    assert counts(tmp_path) == [0]
    clock.now += RETRY - 1
    assert not checkpoints.due
    clock.now += 1
    assert checkpoints.due, "it is tried again before the interval is over"
    monkeypatch.undo()
    checkpoints.save()
    assert counts(tmp_path) == [4, 0]


def test_an_end_without_a_state_is_an_error(
    checkpoints: Any, state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch)
    with pytest.raises(UserError, match=r"No space left on device\); make room, and start a new run$"):
        checkpoints.save(required=True)
    (tmp_path / "network-snapshot-000000.pkl").touch()
    with pytest.raises(
        UserError, match=rf"make room, and start .* --resume={tmp_path}/network-snapshot-000000.pkl$"
    ):
        checkpoints.save(required=True)
    state_path(tmp_path, 0).touch()
    with pytest.raises(
        UserError, match=rf"make room, and go on from the last .* with --continue={tmp_path}$"
    ):
        checkpoints.save(required=True)
