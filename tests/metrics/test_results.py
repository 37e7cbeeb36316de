"""metric-*.jsonl: what is written, the best mark, and files that a killed process left."""

import errno
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dnnlib.errors import UserError
from metrics import results
from metrics.registry import FAMILIES
from metrics.results import MetricResult, append_result, best_snapshot, ranked, read_results, results_path

RESULT = MetricResult(
    metric="fid50k_full",
    values={"fid50k_full": 5.0},
    detector="inception",
    count=50_000,
    num_real=1854,
    seed=0,
    dataset="emoji32",
    mirror=False,
    resolution=32,
    total_time=61.0,
    num_gpus=1,
    timestamp=1.5,
)


def append(run_dir: Path, kimg: int, *values: float, **changes: Any) -> dict[str, Any]:
    """Append values of a snapshot; gives the line."""
    result = replace(
        RESULT, **{**changes, "values": dict(zip(changes.get("values", RESULT.values), values, strict=True))}
    )
    parsed: dict[str, Any] = json.loads(
        append_result(result, run_dir, run_dir / f"network-snapshot-{kimg:06d}.pkl")
    )
    return parsed


def marks(run_dir: Path, metric: str = "fid50k_full") -> list[bool]:
    return [record["best"][metric] for record in read_results(run_dir, metric)]


def test_a_line(tmp_path: Path) -> None:
    line = append_result(RESULT, tmp_path, tmp_path / "network-snapshot-000100.pkl")
    assert (tmp_path / "metric-fid50k_full.jsonl").read_text() == line + "\n"
    record = json.loads(line)
    assert list(record)[:7] == [
        "results",
        "metric",
        "total_time",
        "total_time_str",
        "num_gpus",
        "snapshot_pkl",
        "timestamp",
    ]
    assert (record["results"], record["metric"], record["total_time"], record["total_time_str"]) == (
        {"fid50k_full": 5.0},
        "fid50k_full",
        61.0,
        "1m 01s",
    )
    assert (record["num_gpus"], record["snapshot_pkl"], record["timestamp"]) == (
        1,
        "network-snapshot-000100.pkl",
        1.5,
    )
    expected = dict(
        detector="inception",
        count=50_000,
        num_real=1854,
        seed=0,
        dataset="emoji32",
        mirror=False,
        resolution=32,
    )
    assert {key: record[key] for key in expected} == expected
    assert record["best"] == {"fid50k_full": True}
    assert "images_seen" not in record
    assert json.loads(append_result(RESULT, tmp_path, "a.pkl", images_seen=7))["images_seen"] == 7


def test_the_best_so_far_is_marked(tmp_path: Path) -> None:
    for kimg, value in enumerate([9.0, 5.0, 7.0, 5.0, 4.0, math.nan, 6.0]):
        append(tmp_path, kimg, value)
    assert marks(tmp_path) == [True, True, False, False, True, False, False]
    assert best_snapshot(tmp_path, "fid50k_full") == tmp_path / "network-snapshot-000004.pkl"


@pytest.mark.parametrize("name", ["fid50k_full", "dc50k5_full"])
def test_equal_values_the_first_counts(tmp_path: Path, name: str) -> None:
    for kimg in range(3):
        append(tmp_path, kimg, 5.0, metric=name, values=[name])
    assert marks(tmp_path, name) == [True, False, False]
    assert best_snapshot(tmp_path, name) == tmp_path / "network-snapshot-000000.pkl"


def test_several_values_are_marked_each(tmp_path: Path) -> None:
    keys = ["pr50k3_full_precision", "pr50k3_full_recall"]
    pairs = [(0.5, 0.1), (0.6, 0.0), (0.5, 0.2)]
    lines = [
        append(tmp_path, kimg, *pair, metric="pr50k3_full", values=keys) for kimg, pair in enumerate(pairs)
    ]
    assert [list(line["best"].values()) for line in lines] == [[True, True], [True, False], [False, True]]
    assert best_snapshot(tmp_path, "pr50k3_full") == tmp_path / "network-snapshot-000001.pkl"


def test_a_standard_deviation_is_not_ranked(tmp_path: Path) -> None:
    for kimg, pair in enumerate([(2.0, 0.1), (3.0, 0.2)]):
        line = append(tmp_path, kimg, *pair, metric="is50k", values=["is50k_mean", "is50k_std"])
        assert line["best"] == {"is50k_mean": True}
    assert best_snapshot(tmp_path, "is50k") == tmp_path / "network-snapshot-000001.pkl"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.reference_name)
def test_every_metric_can_be_ranked(family: Any) -> None:
    name = family.reference_name
    less = name.startswith(("fid", "kid", "ppl"))
    assert ranked({"results": {name: 1.0}}) == {name: 1.0}
    assert less or name.startswith(("is", "pr", "dc"))


@pytest.mark.parametrize("name", ["kid50k", "ppl2_wend", "is50k", "dc50k5_full", "pr50k3"])
def test_which_way_is_better(tmp_path: Path, name: str) -> None:
    for kimg, value in enumerate([5.0, 4.0, 6.0]):
        append(tmp_path, kimg, value, metric=name, values=[name])
    less = name.startswith(("kid", "ppl"))
    assert marks(tmp_path, name) == ([True, True, False] if less else [True, False, True])
    assert best_snapshot(tmp_path, name) == tmp_path / f"network-snapshot-00000{1 if less else 2}.pkl"


@pytest.mark.parametrize(
    "other",
    [
        {"detector": "efficientnet-lite0"},
        {"dataset": "other"},
        {"num_real": 7},
        {"mirror": True},
        {"resolution": 64},
    ],
)
def test_only_comparable_values_are_compared(tmp_path: Path, other: dict[str, Any]) -> None:
    append(tmp_path, 0, 1.0)
    assert append(tmp_path, 1, 8.0, **other)["best"]["fid50k_full"]
    assert append(tmp_path, 2, 9.0, **other)["best"] == {"fid50k_full": False}
    assert best_snapshot(tmp_path, "fid50k_full") == tmp_path / "network-snapshot-000001.pkl"
    assert append(tmp_path, 3, 2.0)["best"] == {"fid50k_full": False}
    assert best_snapshot(tmp_path, "fid50k_full") == tmp_path / "network-snapshot-000000.pkl"


def test_other_seeds_and_processes_are_comparable(tmp_path: Path) -> None:
    append(tmp_path, 0, 1.0)
    assert append(tmp_path, 1, 2.0, seed=1, num_gpus=8, total_time=1.0)["best"] == {"fid50k_full": False}


def test_nothing_was_measured(tmp_path: Path) -> None:
    assert read_results(tmp_path, "fid50k_full") == []
    assert best_snapshot(tmp_path, "fid50k_full") is None
    append(tmp_path, 0, math.nan)
    assert best_snapshot(tmp_path, "fid50k_full") is None


@pytest.mark.parametrize(
    "torn",
    [
        b'{"results": {"fid50',
        b"\n",
        b'{"results": {"fid50\n',
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"results": 3}\n',
        b"null",
    ],
)
def test_lines_that_are_no_results(tmp_path: Path, torn: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed process leaves half a line. It is named and left out; the next result begins a new line."""
    append(tmp_path, 0, 5.0)
    path = results_path(tmp_path, "fid50k_full")
    path.write_bytes(path.read_bytes() + torn)
    capsys.readouterr()
    append(tmp_path, 1, 4.0)
    append(tmp_path, 2, 6.0)
    assert marks(tmp_path) == [True, True, False]
    assert path.read_bytes().count(b"\n") == 4
    printed = capsys.readouterr().err
    if torn == b"\n":
        assert printed == ""
    else:
        assert set(printed.splitlines()) == {f"Warning: line 2 of {path} is no result and is left out"}


def test_files_of_the_reference_are_read(tmp_path: Path) -> None:
    """Their records know neither detector nor best mark."""
    line = {
        "results": {"fid50k_full": 3.0},
        "metric": "fid50k_full",
        "snapshot_pkl": "network-snapshot-000200.pkl",
        "timestamp": 1.0,
    }
    results_path(tmp_path, "fid50k_full").write_text(json.dumps(line) + "\n")
    assert best_snapshot(tmp_path, "fid50k_full") == tmp_path / "network-snapshot-000200.pkl"
    assert append(tmp_path, 1, 5.0)["best"] == {"fid50k_full": True}


def test_files_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't write .*metric-fid50k_full\.jsonl: No such file"):
        append_result(RESULT, tmp_path / "none", "x.pkl")
    results_path(tmp_path, "fid50k_full").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*metric-fid50k_full\.jsonl: Is a directory"):
        read_results(tmp_path, "fid50k_full")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line gets onto it. It does no harm when there is room again."""

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if len(data) < 100:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[:100])

    append(tmp_path, 0, 5.0)
    monkeypatch.setattr(
        results, "open", lambda path, mode: io.BufferedRandom(Full(path, mode)), raising=False
    )
    with pytest.raises(UserError, match=r"can't write .*metric-fid50k_full\.jsonl: No space left"):
        append(tmp_path, 1, 3.0)
    monkeypatch.undo()
    append(tmp_path, 2, 4.0)
    assert marks(tmp_path) == [True, True]


ODD_RESULTS = [
    {"results": {"fid50k_full": "12.5"}},
    {"results": {"fid50k_full": None}},
    {"results": {"fid50k_full": [1]}},
    {"results": {"fid50k_full": True}},
    {"results": {"fid50k_full": 10**400}},
    {"results": {"fid50k_full": 1.0, "$\\frac{": 1.0}},
    {"results": {"fid50k_full": 1.0, "a\x1b[2J": 1.0}},
    {"results": {"fid50k_full": 1.0}, "images_seen": "x"},
    {"results": {"fid50k_full": 1.0}, "snapshot_pkl": ["a"]},
    {"results": {"fid50k_full": 1.0}, "snapshot_pkl": "a\0"},
]


@pytest.mark.parametrize("odd", ODD_RESULTS, ids=str)
def test_records_with_odd_values_are_left_out(
    tmp_path: Path, odd: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = {name: getattr(RESULT, name) for name in results.CONDITIONS}
    results_path(tmp_path, "fid50k_full").write_text(json.dumps({**conditions, **odd}) + "\n")
    assert append(tmp_path, 1, 5.0)["best"] == {"fid50k_full": True}
    assert len(read_results(tmp_path, "fid50k_full")) == 1
    assert "line 1 of" in capsys.readouterr().err
    assert best_snapshot(tmp_path, "fid50k_full") == tmp_path / "network-snapshot-000001.pkl"
    assert [values for _, values in results.snapshot_values(tmp_path)] == [{"fid50k_full": 5.0}]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", None])
def test_the_best_snapshot_lies_in_the_run(tmp_path: Path, name: str | None) -> None:
    append(tmp_path, 1, 5.0)
    conditions = {key: getattr(RESULT, key) for key in results.CONDITIONS}
    with open(results_path(tmp_path, "fid50k_full"), "a") as stream:
        stream.write(json.dumps({"results": {"fid50k_full": 1.0}, "snapshot_pkl": name, **conditions}) + "\n")
    assert best_snapshot(tmp_path, "fid50k_full") == tmp_path / "network-snapshot-000001.pkl"


def test_a_snapshot_of_any_number() -> None:
    assert results.snapshot_kimg({"snapshot_pkl": "network-snapshot-" + "9" * 5000 + ".pkl"}) is None


def test_many_odd_lines_are_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results_path(tmp_path, "fid50k_full").write_text("x\n" * 1000)
    assert read_results(tmp_path, "fid50k_full") == []
    assert capsys.readouterr().err.splitlines() == [
        f"Warning: lines 1, 2, 3, 4, 5 and 995 more of {results_path(tmp_path, 'fid50k_full')} are no result "
        "and are left out"
    ]


def test_results_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("")
    results_path(tmp_path / "run", "fid50k_full").symlink_to("../mine")
    with pytest.raises(UserError, match="link out of its folder"):
        append(tmp_path / "run", 1, 5.0)
    assert (tmp_path / "mine").read_text() == ""
