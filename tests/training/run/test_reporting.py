"""Statistics on disk, TensorBoard's events, and the clock."""

import errno
import importlib.abc
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torch_utils.training_stats import Summary
from training.run.reporting import RunLog, SampleGrid, TickTimer, _row_per_class, status_line


def test_tensorboard_hides_what_the_run_will_write_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    purged = []
    original = tensorboard.SummaryWriter
    monkeypatch.setattr(
        tensorboard,
        "SummaryWriter",
        lambda *args, purge_step: (purged.append(purge_step), original(*args))[1],
    )
    for images_seen in (0, 5000, 5999):
        with RunLog(tmp_path, images_seen):
            pass
    assert purged == [None, 6, 6]


def test_tensorboard_counts_kimg(tmp_path: Path) -> None:
    written = []

    class Recorder:
        def add_scalar(self, name: Any, value: Any, *, global_step: Any, walltime: Any) -> None:
            written.append((name, value, global_step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

    with RunLog(tmp_path) as log:
        if log._tensorboard is not None:
            log._tensorboard.close()
        log._tensorboard = Recorder()
        log.write({"Progress/tick": Summary(1, 3.0, 0.0)}, 5999)
    assert written == [("Progress/tick", 3.0, 5)]


def test_statistics_go_on_without_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its writer gives up for good on a full disk."""

    class Full:
        def add_scalar(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            raise AssertionError("it is used again")

    with RunLog(tmp_path) as log:
        if log._tensorboard is not None:
            log._tensorboard.close()
        log._tensorboard = Full()
        for tick in range(2):
            log.write({"Progress/tick": Summary(1, float(tick), 0.0)}, 4000)
    assert (
        capsys.readouterr().err.count("TensorBoard's event file cannot be written (No space left on device)")
        == 1
    )
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/tick"]["mean"] for line in lines] == [0, 1]


def timing(timer: Any) -> Any:
    found = timer.summary(500)
    assert found["Timing/sec_per_kimg"] == 2 * found["Timing/sec_per_tick"]
    return tuple(found[f"Timing/{name}"] for name in ("total_sec", "sec_per_tick", "maintenance_sec"))


def test_start_up_and_snapshots_are_maintenance() -> None:
    now = [100.0]
    timer = TickTimer(clock=lambda: now[0])
    for passed, act in ((30, timer.begin_tick), (5, None)):
        now[0] += passed
        if act:
            act()
    assert timing(timer) == (35, 5, 30)
    now[0] += 8  # a snapshot
    timer.begin_tick()
    now[0] += 6
    assert timing(timer) == (49, 6, 8)


def test_time_goes_on() -> None:
    now = [100.0]

    def restarted(saved: Any) -> Any:
        now[0] += 9000
        timer = TickTimer(clock=lambda: now[0])
        now[0] += 1  # before the state is opened
        timer.load_state_dict(saved)
        now[0] += 3  # start-up
        return timer

    timer = TickTimer(clock=lambda: now[0])
    now[0] += 30
    timer.begin_tick()
    now[0] += 5
    timer = restarted(timer.state_dict())  # in the middle of a tick
    timer.begin_tick()
    now[0] += 2
    assert timing(timer) == (40, 7, 33)
    now[0] += 4
    timer = restarted(timer.state_dict())  # in the middle of a measurement
    now[0] += 11  # which is made up for
    timer.begin_tick()
    now[0] += 2
    assert timing(timer) == (60, 2, 18)


def test_rows_of_one_class_show_different_images() -> None:
    class Labelled:
        def __len__(self) -> Any:
            return 12

        def get_label(self, index: Any) -> Any:
            return np.array([1, 0] if index % 2 else [0, 1], dtype=np.float32)

    rows = _row_per_class(Labelled(), np.arange(12), columns=2, rows=8)
    assert rows.reshape(8, 2).tolist() == [[1, 3], [0, 2], [5, 7], [4, 6], [9, 11], [8, 10], [1, 3], [0, 2]]


def test_a_tensorboard_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name: Any, path: Any, target: Any = None) -> None:
            if name == "tensorboard":
                raise TypeError("Descriptors cannot be created directly.\nMore lines")

    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with RunLog(tmp_path) as log:
        log.write({"Progress/tick": Summary(1, 0.0, 0.0)}, 0)
    line = (
        "TensorBoard: cannot be used, no event files (TypeError: Descriptors cannot be created directly.)\n"
    )
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(("resolution", "size"), [(32, (16, 8)), (256, (8, 4)), (1024, (4, 2))])
def test_the_size_of_the_grid(resolution: Any, size: Any) -> None:
    class Images:
        label_dim = 0

        def __len__(self) -> Any:
            return 3

        def __getitem__(self, i: Any) -> Any:
            return np.full([1, 1, 1], i, np.uint8), np.zeros([0], np.float32)

    grid = SampleGrid.draw(Images(), resolution, 8, seed=0)
    assert (grid.columns, grid.rows) == size
    assert set(grid.reals.flatten().tolist()) == {0, 1, 2}, "few images are repeated"


def test_the_status_line() -> None:
    values = {
        "Timing/total_sec": 3700.0,
        "Timing/sec_per_tick": 11.0,
        "Timing/sec_per_kimg": 2.75,
        "Timing/maintenance_sec": 5.0,
    }
    values |= {"Resources/cpu_mem_gb": 1.5, "Resources/gpu_mem_gb": 9.0, "Resources/peak_gpu_mem_gb": 6.25}
    line = "tick 7 kimg 28.0 time 1h 01m 40s sec/tick 11.0 sec/kimg 2.75 maintenance 5.0 cpumem 1.50"
    assert status_line(7, 28000, values, 0.125).split() == f"{line} gpumem 6.25 augment 0.125".split()
    del values["Resources/peak_gpu_mem_gb"]
    assert status_line(7, 28000, values, None).split() == line.split()
