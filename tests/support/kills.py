"""A run that is killed again and again: ``python tests/support/kills.py IMAGES RUN_DIR KIMG MOMENTS``.

Each of MOMENTS (JSON) starts the training anew, in a fork, and ends it by SIGKILL: ``{"after": seconds}``
from the first step on, or ``{"during": NAME, "count": n}``, halfway through the n-th of what :data:`PLACES`
names. A last start is left to finish.
"""

import functools
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib import files
from tests.support.runs import open_small
from training import training_loop
from training.run import checkpoints, state_file

#: Where a run can be killed: (owner, attribute). Those that write are killed when half of it is written.
PLACES: dict[str, tuple[Any, str]] = {
    "state": (state_file._HashingWriter, "write"),
    "statistics": (files.AppendFile, "_append"),
    "snapshot": (pickle, "dump"),
    "rename": (os, "replace"),
    "prune": (checkpoints, "prune_states"),
}


def kill_in(place: str, count: int) -> None:
    """Replace a function so that its n-th call does half its work, if it writes, and kills this process."""
    owner, name = PLACES[place]
    original, left = getattr(owner, name), [count]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] > 0:
            return original(*args, **kwargs)
        if place in ("state", "statistics"):
            writer, data = args
            original(writer, data[: len(data) // 2])
            if place == "state":
                writer.flush()
        elif place == "snapshot":
            args[1].write(b"half of it")
            args[1].flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, name, deadly)


def mark_first_step(path: Path) -> None:
    """Make a file when the first step is over."""
    original = training_loop.step

    def marking(*args: Any) -> None:
        original(*args)
        path.touch()

    training_loop.step = marking  # type: ignore[assignment]


def start(work: Callable[[], None]) -> int:
    """Run a function in a fork; the child's process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def main(images: str, run_dir: str, kimg: str, moments: str) -> None:
    config, dataset = open_small(Path(images), kimg=float(kimg), **OPTIONS)
    mark = Path(run_dir).parent / "stepping"

    def train(moment: dict[str, Any]) -> None:
        mark_first_step(mark)
        if "during" in moment:
            kill_in(moment["during"], moment["count"])
        training_loop.run(config, Path(run_dir), dataset)

    for moment in [*json.loads(moments), {}]:
        mark.unlink(missing_ok=True)
        pid = start(functools.partial(train, moment))
        if "after" in moment:
            while (
                not mark.exists() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(0.005)
            time.sleep(moment["after"])
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(
            f"\n{json.dumps({**moment, 'status': status})}", flush=True
        )  # what was killed may have left half a line


#: Of the run: with a state after every few steps.
OPTIONS: dict[str, Any] = {
    "batch": 4,
    "tick": 0.02,
    "snap": 2,
    "reg_type": "ggdr",
    "checkpoint_minutes": 0.004,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
