"""What the tests run in several processes: :func:`run` starts a function of this package on every rank."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(target: str, count: int, folder: Path, **arguments: Any) -> Iterator[list[subprocess.Popen[str]]]:
    """Start ``module:function`` of this package in ``count`` processes.

    It is called as ``function(rank, folder, port, **arguments)``. ``port`` is that of a store of this
    process, which the ranks may use as torchrun's. All are gone at the end.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.ranks",
        target,
        str(folder),
        str(store.port),
        json.dumps(arguments),
    ]
    processes = [
        subprocess.Popen(
            [*command, str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def run(target: str, count: int, folder: Path, timeout: float = 120, **arguments: Any) -> list[str]:
    """:func:`running` until all ranks have ended well; returns what each printed."""
    with running(target, count, folder, **arguments) as processes:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    for rank, process in enumerate(processes):
        assert process.returncode in (0, -signal.SIGKILL), f"rank {rank}: {outputs[rank]}"
    return outputs


def become(rank: int, count: int, port: int) -> None:
    """Set the variables that torchrun would set."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count)
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")


def main() -> None:
    target, folder, port, arguments, rank = sys.argv[1:]
    module, function = target.split(":")
    getattr(importlib.import_module(f"tests.ranks.{module}"), function)(
        int(rank), Path(folder), int(port), **json.loads(arguments)
    )
