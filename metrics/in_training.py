"""Metrics during a training, where no failure may end the run."""

import gc
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import Unavailable, UserError
from metrics.results import MetricResult, append_result
from metrics.runner import evaluate
from torch_utils.distributed import RankLost, is_rank0


def measure_snapshot(
    metrics: Sequence[str],
    *,
    snapshot: str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    images_seen: int | None = None,
    reported: set[str] | None = None,
    **evaluation: Any,
) -> dict[str, float]:
    """Evaluate metrics of a snapshot, print and record the results, and give their values.

    All metrics share one pass. When that fails, each is evaluated in a pass of its own, and those that fail
    again are reported with the reason and left out. A result that can't be written is printed all the same.
    In a group of processes every rank calls this, and rank 0 alone prints and writes.

    Args:
        metrics: names.
        snapshot: as for :func:`metrics.results.append_result`, like the next two.
        run_dir: the run directory.
        images_seen: by the network in training.
        reported: messages about downloads that failed. They are reported once, and added here.
        evaluation: further arguments of :func:`metrics.runner.evaluate`.
    """
    reported = set() if reported is None else reported

    def attempt(names: Sequence[str]) -> list[MetricResult] | None:
        try:
            return evaluate(names, **evaluation)
        except RankLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
            if is_rank0() and str(error) not in reported:
                print(_report(names, Path(snapshot).name, error), flush=True)
            if isinstance(error, Unavailable):
                reported.add(str(error))
            return None

    results = attempt(metrics)
    if results is None and len(metrics) > 1:
        _release_memory()
        results = [result for name in metrics for result in attempt([name]) or []]
    values: dict[str, float] = {}
    for result in results or []:
        if is_rank0():
            print(_record(result, run_dir, snapshot, images_seen), flush=True)
        values.update(result.values)
    return values


def _record(
    result: MetricResult,
    run_dir: str | os.PathLike[str],
    snapshot: str | os.PathLike[str],
    images_seen: int | None,
) -> str:
    try:
        return append_result(result, run_dir, snapshot, images_seen)
    except UserError as error:
        line = result.json_line(os.path.relpath(snapshot, run_dir))
        return f"{line}\nThis result is not recorded, training goes on: {error}"


def _report(names: Sequence[str], snapshot: str, error: Exception) -> str:
    """Why metrics failed: one line for what a user can mend, with a traceback for anything else."""
    if isinstance(error, UserError):
        reason = str(error)
    else:
        reason = f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}"
    if len(names) > 1:
        return f"The metrics {', '.join(names)} of {snapshot} failed together, each is tried alone: {reason}"
    return f"The metric {names[0]} of {snapshot} failed, training goes on: {reason}"


def _release_memory() -> None:
    """Running out of memory may have been the reason."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
