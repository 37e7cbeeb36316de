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
from metrics.sampling import ImageDataset
from torch_utils.distributed import RankLost, is_rank0


def measure_snapshot(
    metrics: Sequence[str],
    *,
    snapshot: str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    generator: Any,
    dataset: ImageDataset,
    mirror: bool = False,
    detector: str = "auto",
    device: torch.device | str = "cpu",
    images_seen: int | None = None,
    told: set[str] | None = None,
) -> dict[str, float]:
    """Evaluate metrics of a snapshot, print and record the results, and give their values.

    All metrics share one pass. When that fails, each is evaluated in a pass of its own, and those that fail
    again are reported with the reason and left out. A result that can't be written is printed all the same.
    In a group of processes every rank calls this, and rank 0 alone prints and writes.

    Args: ``snapshot`` and ``images_seen`` as for :func:`metrics.results.append_result`, the others as for
    :func:`metrics.runner.evaluate`. ``told`` has what the user was told of things that cannot be downloaded,
    and takes more: the same is not said at every snapshot.
    """
    told = set() if told is None else told

    def attempt(names: Sequence[str]) -> list[MetricResult] | None:
        try:
            return evaluate(
                names, generator=generator, dataset=dataset, mirror=mirror, detector=detector, device=device
            )
        except RankLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
            if is_rank0() and str(error) not in told:
                print(_report(names, Path(snapshot).name, error), flush=True)
            if isinstance(error, Unavailable):
                told.add(str(error))
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
        return f"{result.json_line(os.path.relpath(snapshot, run_dir))}\nThis result is not recorded, training goes on: {error}"


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
