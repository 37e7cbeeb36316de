"""Statistics on disk, TensorBoard's events, and the clock."""

import errno
import json
import os

import pytest

from torch_utils.training_stats import Summary
from training.reporting import RunLog, TickTimer


def test_tensorboard_hides_what_the_run_will_write_again(tmp_path, monkeypatch):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    asked = []
    original = tensorboard.SummaryWriter
    monkeypatch.setattr(tensorboard, "SummaryWriter", lambda *args, purge_step: (asked.append(purge_step), original(*args))[1])
    for images_seen in (0, 5000, 5999):
        with RunLog(tmp_path, images_seen):
            pass
    assert asked == [None, 6, 6]


def test_statistics_go_on_without_tensorboard(tmp_path, capsys):
    """Its writer gives up for good on a full disk."""

    class Full:
        def add_scalar(self, *args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            raise AssertionError("nothing may be asked of it any more")

    with RunLog(tmp_path) as log:
        if log._tensorboard is not None:
            log._tensorboard.close()
        log._tensorboard = Full()
        for tick in range(2):
            log.write({"Progress/tick": Summary(1, float(tick), 0.0)}, 4000)
    assert capsys.readouterr().err.count("TensorBoard's event file cannot be written (No space left on device)") == 1
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/tick"]["mean"] for line in lines] == [0, 1]


def test_time_goes_on():
    now = [100.0]
    first = TickTimer(clock=lambda: now[0])
    now[0] = 130
    first.begin_tick()
    now[0] = 135
    saved = first.state_dict()
    now[0] = 9000
    second = TickTimer(clock=lambda: now[0])
    second.load_state_dict(saved)
    now[0] = 9002
    found = second.summary(1000)
    assert (found["Timing/total_sec"], found["Timing/sec_per_tick"], found["Timing/maintenance_sec"]) == (37, 7, 30)
