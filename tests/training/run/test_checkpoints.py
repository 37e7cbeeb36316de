"""When a run state is written, and what happens when it cannot be."""

import errno
import os

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.runs import small_state
from training.config.run_directory import state_path, state_paths
from training.run import checkpoints as state_keeper
from training.run.checkpoints import RETRY, StateKeeper
from training.run.health import SUSPECT
from training.run.state_file import read_state


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state():
    return small_state(checkpoint_minutes=10)


@pytest.fixture
def keeper(state, tmp_path, clock):
    return StateKeeper(state, tmp_path, "the data", clock)


def counts(folder):
    return [read_state(path)["counters"]["images_seen"] for path in state_paths(folder)]


def test_due_after_the_interval(keeper, state, clock, tmp_path):
    clock.now += 599
    assert not keeper.due
    clock.now += 1
    assert keeper.due
    state.images_seen = 8
    keeper.save()
    assert not keeper.due
    assert counts(tmp_path) == [8]
    assert read_state(state_paths(tmp_path)[0])["data"] == "the data"
    clock.now += 600
    assert keeper.due


def test_zero_minutes_is_never(tmp_path, clock):
    keeper = StateKeeper(small_state(checkpoint_minutes=0), tmp_path, "", clock)
    clock.now += 1e9
    assert not keeper.due
    keeper.save()
    assert counts(tmp_path) == [0], "at snapshots it is written all the same"


def test_the_same_state_is_written_once(keeper, state, tmp_path):
    keeper.save()
    (path,) = state_paths(tmp_path)
    before = path.stat().st_ino
    keeper.save()
    assert path.stat().st_ino == before
    state.pending = "network-snapshot-000000.pkl"
    keeper.save()
    assert path.stat().st_ino != before
    assert read_state(path)["counters"]["pending"] == state.pending


def test_the_last_two_stay(keeper, state, tmp_path):
    for state.images_seen in (4, 8, 12):
        keeper.save()
    assert counts(tmp_path) == [12, 8]


@pytest.mark.parametrize("mode", ["stop", "ignore"])
def test_a_state_with_gradients_that_are_not_finite_is_not_kept(tmp_path, clock, mode, capsys):
    state = small_state(on_nonfinite=mode)
    keeper = StateKeeper(state, tmp_path, "", clock)
    clock.now += 600
    for _ in range(SUSPECT):
        assert keeper.unsound() is None
        state.health.observe("D_main", [torch.tensor([float("nan")])])
    keeper.save(insist=True)
    warning = "Warning: no training state is kept here: the last 3 gradients of D_main were not finite; the one before stays\n"
    assert (keeper.unsound() is not None, capsys.readouterr().err) == (
        (True, warning) if mode == "stop" else (False, "")
    )
    assert counts(tmp_path) == ([] if mode == "stop" else [0])
    assert not keeper.due, "nor is the device asked at every step"
    state.health.observe("D_main", [torch.tensor([1.0])])
    clock.now += RETRY
    assert keeper.due == (mode == "stop"), "made up for soon"
    keeper.save()
    assert counts(tmp_path) == [0]


def fill(monkeypatch, number=errno.ENOSPC):
    def full(path, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(state_keeper, "write_state", full)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")]
)
def test_training_goes_on_when_the_disk_is_full(
    keeper, state, clock, tmp_path, monkeypatch, capsys, number, reason
):
    keeper.save()
    fill(monkeypatch, number)
    state.images_seen = 4
    keeper.save()
    assert (
        f"Warning: cannot write the training state {tmp_path / 'training-state-0000000004.pt'} ({reason})"
        in capsys.readouterr().err
    )
    assert counts(tmp_path) == [0]
    clock.now += RETRY - 1
    assert not keeper.due
    clock.now += 1
    assert keeper.due, "it is tried again before the interval is over"
    monkeypatch.undo()
    keeper.save()
    assert counts(tmp_path) == [4, 0]


def test_an_end_without_a_state_is_an_error(keeper, state, tmp_path, monkeypatch):
    fill(monkeypatch)
    with pytest.raises(UserError, match=r"No space left on device\); make room, and start a new run$"):
        keeper.save(insist=True)
    (tmp_path / "network-snapshot-000000.pkl").touch()
    with pytest.raises(
        UserError, match=rf"make room, and start .* --resume={tmp_path}/network-snapshot-000000.pkl$"
    ):
        keeper.save(insist=True)
    state_path(tmp_path, 0).touch()
    with pytest.raises(
        UserError, match=rf"make room, and go on from the last run state with --continue={tmp_path}$"
    ):
        keeper.save(insist=True)
