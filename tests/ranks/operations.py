"""Collective operations, and what they do when a rank fails, stops or is killed."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import UserError
from tests.ranks import become
from torch_utils import distributed
from torch_utils.training_stats import StatsCollector
from training.run.replicas import check_same_options

RANKS = 3


def everything(rank: int, folder: Path, port: int) -> None:
    """``RANK.json`` keeps what every operation gave on each rank."""
    become(rank, RANKS, port)
    with distributed.joined(cuda=False, timeout=60):
        found: dict[str, Any] = {
            "identity": [
                distributed.active(),
                distributed.rank(),
                distributed.world_size(),
                distributed.is_rank0(),
            ],
            "all_gather": distributed.all_gather({"rank": rank}, "gathering"),
            "patient": distributed.all_gather(rank, "gathering", patient=True),
            "maxima": distributed.maxima([rank, -rank, 7], "the largest"),
            "sum": distributed.sum_(torch.tensor([1.0, rank]), "summing").tolist(),
            "sum_flat": _sum_flat(rank),
            "rank0_first": _rank0_first(rank, folder),
            "stats": _stats(rank),
            "unequal": _unequal(rank),
            "other_options": _other_options(rank),
        }
    assert not distributed.active()
    (folder / f"{rank}.json").write_text(json.dumps(found))


def _sum_flat(rank: int) -> list[Any]:
    tensors = [torch.full([2, 2], float(rank)), torch.tensor(1.0), torch.arange(3.0).t()]
    distributed.sum_flat_(tensors, "summing many")
    return [tensor.tolist() for tensor in tensors]


def _rank0_first(rank: int, folder: Path) -> list[bool]:
    """Whether what rank 0 makes was there when this rank entered the block; twice, to see it wait anew."""
    there = []
    for name in ("first", "second"):
        with distributed.rank0_first(name):
            there.append((folder / name).exists())
            if rank == 0:
                time.sleep(0.5)
                (folder / name).touch()
    return there


def _stats(rank: int) -> dict[str, list[float]]:
    stats = StatsCollector()
    stats.report("everywhere", torch.arange(rank + 1.0))
    if rank > 0:
        stats.report("not on 0", rank)
    stats.gather()
    stats.gather()  # what was gathered is not counted twice
    return {name: [s.num, s.mean] for name, s in stats.flush().items()}


def _unequal(rank: int) -> str:
    weights = torch.arange(7.0)
    distributed.check_equal({"w": weights, "half": weights.half(), "empty": weights[:0]}, "comparing")
    swapped = weights[[1, 0, 2, 3, 4, 5, 6]] if rank == 2 else weights
    try:
        distributed.check_equal({"a": weights, "b": swapped, "c": swapped}, "comparing")
    except RuntimeError as error:
        return str(error)
    return "no error"


def _other_options(rank: int) -> str:
    check_same_options("train.py", {"the task": "a new run", "--gamma": 1.0}, "cpu")
    try:
        check_same_options(
            "train.py", {"the task": "a new run", "--gamma": 100.0 if rank == 1 else 1.0}, "cpu"
        )
    except UserError as error:
        return str(error)
    return "no error"


def mishaps(rank: int, folder: Path, port: int) -> None:
    """One mishap after another, each in a group of its own; only rank 0 survives them all.

    ``RANK.jsonl`` keeps the name, the seconds and the message of each. Timeouts are short only where a mishap
    consists in one: processes start, and get the processor, at different times on a machine with other work.
    """
    distributed.GRACE = 1.0
    for mishap, size, timeout in (
        (raises, 3, 60),
        (fails_to_prepare, 3, 60),
        (is_late_to_prepare, 3, 60),
        (is_killed, 3, 60),
        (stops, 2, 5),
        (never_starts, 2, 2),
    ):
        if rank < size:
            become(rank, size, port)
            _suffer(mishap, rank, timeout, folder / f"{rank}.jsonl")


def raises(rank: int) -> None:
    if rank == 1:
        _report(ValueError("this is wrong\nin detail"))
    distributed.sum_(torch.ones(1), "the numbers")


def fails_to_prepare(rank: int) -> None:
    with distributed.rank0_first("the file"):
        if rank == 0:
            _report(OSError("no room"))


def is_late_to_prepare(rank: int) -> None:
    with distributed.rank0_first("the file"):
        if rank == 0:
            time.sleep(4)


def is_killed(rank: int) -> None:
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_gather(1, "the answers", patient=True)


def stops(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.maxima([1], "the numbers")


def never_starts(rank: int) -> None:
    """Rank 1 is still stopped, so this is not reached."""


def _report(error: Exception) -> None:
    assert distributed.report_failure(error)
    assert not distributed.report_failure(KeyError("second"))
    raise error


def _suffer(mishap: Callable[[int], None], rank: int, timeout: float, record: Path) -> None:
    start = time.monotonic()
    prepare_timeout = 3 if mishap is is_late_to_prepare else 60
    try:
        with distributed.joined(cuda=False, timeout=timeout, prepare_timeout=prepare_timeout):
            start = time.monotonic()
            mishap(rank)
        outcome = "nothing happened"
    except (distributed.RankLost, OSError, ValueError) as error:
        outcome = f"{type(error).__name__}: {error}".replace("\n", "|")
    with open(record, "a", encoding="utf-8") as stream:
        stream.write(json.dumps([mishap.__name__, round(time.monotonic() - start, 2), outcome]) + "\n")
