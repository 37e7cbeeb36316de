"""Collective operations over three processes, and alone; and who is named when one of them is lost."""

import contextlib
import json
import re
from typing import Any

import pytest
import torch

from dnnlib.interrupt import StoppedInOrder
from tests import ranks
from torch_utils import distributed
from torch_utils.training_stats import StatsCollector


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("operations")
    ranks.run("operations:everything", 3, folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("identity", [[True, 0, 3, True], [True, 1, 3, False], [True, 2, 3, False]]),
        ("all_gather", [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3),
        ("patient", [[0, 1, 2]] * 3),
        ("maxima", [[2, 0, 7]] * 3),
        ("sum", [[3, 3]] * 3),
        ("sum_flat", [[[[3, 3], [3, 3]], 3, [0, 3, 6]]] * 3),
        ("rank0_first", [[False, False], [True, True], [True, True]]),
        ("stats", [{"everywhere": [6, pytest.approx(4 / 6)], "not on 0": [2, 1.5]}, {}, {}]),
    ],
)
def test_operations(found: Any, operation: Any, expected: Any) -> None:
    assert [results[operation] for results in found] == expected


def test_tensors_that_differ_are_named(found: Any) -> None:
    for results in found:
        assert (
            "comparing: 'b' is not the same on rank 2 as on rank 0 (2 of 3 tensors differ)"
            in results["unequal"]
        )


def test_ranks_with_other_options_are_named_on_all(found: Any) -> None:
    message = (
        "rank 1 has --gamma=100.0, rank 0 has --gamma=1.0; start all ranks with the same program and "
        "command line"
    )
    assert [results["other_options"] for results in found] == [message] * 3


@pytest.fixture(scope="module")
def mishaps(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each rank recorded of each mishap: ``[{mishap: (seconds, message)}]``."""
    folder = tmp_path_factory.mktemp("mishaps")
    with ranks.running("operations:mishaps", 3, folder) as processes:
        output, _ = processes[0].communicate(timeout=120)
        assert processes[0].returncode == 0, output
    records = [(folder / f"{rank}.jsonl").read_text().splitlines() for rank in range(3)]
    return [
        {name: (seconds, message) for name, seconds, message in map(json.loads, lines)} for lines in records
    ]


LOST = "RankLost: "


@pytest.mark.parametrize(
    ("mishap", "rank", "longest", "message"),
    [
        ("raises", 0, 20, LOST + "rank 1 failed: ValueError: this is wrong"),
        ("raises", 1, 20, r"ValueError: this is wrong\|in detail"),
        ("raises", 2, 20, LOST + "rank 1 failed: ValueError: this is wrong"),
        ("fails_to_prepare", 0, 20, "OSError: no room"),
        ("fails_to_prepare", 1, 20, LOST + "rank 0 failed: OSError: no room"),
        (
            "is_late_to_prepare",
            1,
            20,
            LOST + r"rank 0 was not done with the file within 3 seconds \(--prepare-timeout\)",
        ),
        (
            "is_killed",
            0,
            20,
            LOST + r"rank 0 gave up after waiting for the answers for \S+ seconds: rank 2 does not answer",
        ),
        (
            "is_killed",
            1,
            20,
            LOST + r"rank 1 gave up after waiting for the answers for \S+ seconds: rank 2 does not answer",
        ),
        (
            "stops",
            0,
            20,
            LOST
            + r"rank 0 gave up after waiting for the numbers for [5-9]\.\d seconds: rank 1 does not answer",
        ),
        (
            "never_starts",
            0,
            20,
            LOST + r"rank 1 did not start within 2 seconds \(--dist-timeout\); look at what their machines.*",
        ),
    ],
)
def test_whoever_is_lost_is_named_soon(
    mishaps: Any, mishap: str, rank: int, longest: float, message: str
) -> None:
    """Long before the timeout of a minute, which all but the last three have."""
    seconds, found = mishaps[rank][mishap]
    assert re.fullmatch(message, found)
    assert seconds < longest


def test_only_the_first_failure_is_told(mishaps: Any) -> None:
    """Each rank records one message for each mishap that it survives."""
    assert [set(messages) for messages in mishaps] == [
        {"raises", "fails_to_prepare", "is_late_to_prepare", "is_killed", "stops", "never_starts"},
        {"raises", "fails_to_prepare", "is_late_to_prepare", "is_killed"},
        {"raises", "fails_to_prepare", "is_late_to_prepare"},
    ]


def test_alone_nothing_happens() -> None:
    assert (distributed.active(), distributed.rank(), distributed.world_size(), distributed.is_rank0()) == (
        False,
        0,
        1,
        True,
    )
    assert distributed.all_gather("x", "nobody") == ["x"]
    assert distributed.maxima([3, 1], "nobody") == [3, 1]
    tensor = torch.ones(2)
    assert distributed.sum_(tensor, "nobody") is tensor
    distributed.sum_flat_([tensor, tensor.half()], "nobody")
    distributed.check_equal({"x": tensor}, "nobody")
    with distributed.rank0_first("nothing"):
        pass
    assert distributed.report_failure(ValueError("x"))
    stats = StatsCollector()
    stats.report("x", 3.0)
    stats.gather()
    assert stats.flush()["x"].num == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64, torch.bool])
def test_a_checksum_sees_values_and_their_order(dtype: Any) -> None:
    values = torch.tensor([1, 0, 1, 0, 0], dtype=dtype)
    others = [
        torch.tensor([0, 1, 1, 0, 0], dtype=dtype),
        torch.tensor([1, 0, 1, 0, 1], dtype=dtype),
        values[:4],
    ]
    same = distributed._checksum(values.clone())
    assert torch.equal(distributed._checksum(values), same)
    assert torch.equal(distributed._checksum(torch.stack([values, values], dim=1)[:, 0]), same), (
        "however it lies in memory"
    )
    assert not any(torch.equal(distributed._checksum(other), same) for other in others)


def test_a_checksum_sees_nan_and_the_sign_of_zero() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert torch.equal(distributed._checksum(nan), distributed._checksum(nan.clone()))
    assert not torch.equal(distributed._checksum(zero), distributed._checksum(-zero))


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("end", [None, RuntimeError, SystemExit, KeyboardInterrupt, StoppedInOrder])
def test_after_a_failure_nobody_waits_for_nccl(monkeypatch: pytest.MonkeyPatch, cuda: Any, end: Any) -> None:
    """Waiting for ranks that do not answer takes nccl's whole timeout, and the launcher waits too."""
    left = []
    monkeypatch.setattr(distributed.dist, "rendezvous", lambda *args, **options: iter([(None, 0, 2)]))
    monkeypatch.setattr(distributed, "_meet", lambda *args: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(distributed, "_gloo_group", lambda timeout: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: left.append(True))
    in_order = end in (None, StoppedInOrder)
    with contextlib.nullcontext() if end is None else pytest.raises(end), distributed.joined(cuda=cuda):
        if end is not None:
            raise end
    assert bool(left) == (in_order or not cuda)
    assert distributed._world is None


def test_what_nccl_says_of_its_own_failure_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are silent then because they wait in nccl."""
    monkeypatch.setattr(
        distributed, "_world", distributed._World(distributed.dist.HashStore(), None, None, 1.0)
    )
    for name, value in {"world_size": 3, "rank": 2, "active": True}.items():
        monkeypatch.setattr(distributed, name, lambda value=value: value)
    monkeypatch.setattr(distributed, "GRACE", 0.1)

    @distributed._waiting
    def fail(value: Any, what: Any) -> None:
        raise distributed.dist.DistBackendError(
            "NCCL error in: a.cpp:94, unhandled system error\nLast error:\nNo space left on device"
        )

    expected = (
        r"rank 2 failed in the gradients after 0\.\d seconds \(NCCL error .* No space left on device\); "
        "ranks 0, 1 do not answer"
    )
    with pytest.raises(distributed.RankLost, match=expected):
        fail(1, "the gradients")


@pytest.mark.parametrize("fault", [torch.AcceleratorError, torch.OutOfMemoryError])
def test_faults_of_ones_own_gpu_are_not_taken_for_lost_ranks(
    monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    def failing(tensor: Any) -> None:
        raise fault("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "active", lambda: True)
    monkeypatch.setattr(distributed.dist, "all_reduce", failing)
    with pytest.raises(fault, match="illegal memory access"):
        distributed.sum_(torch.ones(2), "a test")
