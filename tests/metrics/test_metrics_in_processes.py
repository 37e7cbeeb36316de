"""Several processes on gloo: the same values as one, and failures that reach everybody."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import Unavailable, UserError
from metrics.runner import evaluate, preflight
from torch_utils import distributed
from torch_utils.parallel import all_ranks, on_rank0

ALL = [
    "fid70_full",
    "kid70_full",
    "pr403_full",
    "dc405_full",
    "ppl2_40_wend",
    "is70",
    "fid50",
    "kid50",
    "pr503",
    "ppl_20_zfull",
]


def run_on(ranks: int, work: Callable[[int], Any]) -> list[Any]:
    """What ``work(rank)`` returns or raises in each of several forked processes that form a group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def run(rank: int) -> None:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
        )
        with distributed.joined(cuda=False, timeout=60):
            try:
                answer: Any = work(rank)
            except Exception as error:  # noqa: BLE001 - the answer is that it failed
                answer = error
            answers.put((rank, answer))
            distributed.all_gather(None, "the end")

    processes = [context.Process(target=run, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    try:
        found = dict(answers.get(timeout=100) for _ in processes)
        for process in processes:
            process.join(timeout=20)
        assert [process.exitcode for process in processes] == [0] * ranks
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_same_values_as_one_process(
    make_dataset: Any,
    make_linear_generator: Any,
    detector_file: Callable[[str], str],
    tmp_path: Path,
    ranks: int,
) -> None:
    path = detector_file("all")

    def measure(cache: str, batch_size: int) -> list[dict[str, Any]]:
        results = evaluate(
            ALL,
            generator=make_linear_generator(c_dim=2),
            dataset=make_dataset(count=45, classes=2),
            mirror=True,
            detector=path,
            batch_size=batch_size,
            progress=False,
            cache_dir=tmp_path / cache,
        )
        return [
            {**result.values, "num_gpus": result.num_gpus, "num_real": result.num_real} for result in results
        ]

    alone = measure("alone", 64)
    found = run_on(ranks, lambda rank: (measure("shared", 16), measure("shared", 48)))
    for both in found:
        for several in both:
            assert several == [{**values, "num_gpus": ranks} for values in alone]  # bit for bit


def test_preflight_in_a_group(make_dataset: Any, detector_file: Callable[[str], str]) -> None:
    path = detector_file("pooled")
    outcomes = run_on(
        2,
        lambda rank: (preflight("fid20_full", path, make_dataset()), preflight("is20", path, make_dataset())),
    )
    assert [type(outcome) for outcome in outcomes] == [UserError, UserError]
    assert "has no class probabilities" in str(outcomes[0])


def test_what_cannot_be_downloaded_is_the_same_error_everywhere(
    make_dataset: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GGDR_OFFLINE", "1")
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path))
    outcomes = run_on(2, lambda rank: preflight("fid20_full", "auto", make_dataset()))
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2


@pytest.mark.parametrize("rank_that_fails", [0, 1])
@pytest.mark.parametrize("fault", ["network", "images", "metric"])
def test_a_failure_on_one_rank_is_one_on_all(
    make_dataset: Any,
    make_generator: Any,
    detector_file: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    rank_that_fails: int,
) -> None:
    path = detector_file("pooled")

    def measure(rank: int) -> Any:
        generator, dataset = make_generator(), make_dataset(count=100)
        if rank == rank_that_fails and fault == "network":
            generator.weight[0, 0] = torch.nan
        if rank == rank_that_fails and fault == "images":
            dataset.images = list(dataset.images[:1]) + [None] * 99
        if fault == "metric":
            monkeypatch.setattr("metrics.runner._values", lambda *arguments: 1 // 0)
        return evaluate("fid100_full", generator=generator, dataset=dataset, detector=path, progress=False)

    outcomes = run_on(2, measure)
    if fault == "network":
        assert [str(outcome) for outcome in outcomes] == [str(outcomes[0])] * 2
        assert [type(outcome) for outcome in outcomes] == [UserError] * 2
    else:
        failing = rank_that_fails if fault == "images" else 0
        assert isinstance(
            outcomes[failing], (TypeError, ValueError) if fault == "images" else ZeroDivisionError
        )
        assert isinstance(outcomes[1 - failing], RuntimeError)
        assert "another process failed at" in str(outcomes[1 - failing])


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all_ranks(lambda: 3, "a number") == [3]
    assert on_rank0(lambda: 4, "a number") == 4
    with pytest.raises(ZeroDivisionError):
        all_ranks(lambda: 1 // 0, "a number")


def test_order_is_that_of_ranks() -> None:
    outcomes = run_on(
        3, lambda rank: (all_ranks(lambda: rank * 10, "numbers"), on_rank0(lambda: rank + 7, "rank 0's"))
    )
    assert outcomes == [([0, 10, 20], 7)] * 3
