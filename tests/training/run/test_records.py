"""Records of a run, back to a place in it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from training.run.records import rewind, tick_means, unmeasured


def write(path: Any, *records: Any) -> None:
    path.write_text(
        "".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records)
    )


def tick(number: Any) -> Any:
    return {"Progress/tick": {"num": 1, "mean": float(number), "std": 0.0}}


def metric(**fields: Any) -> Any:
    return {"results": {"fid5k_full": 1.0}, "metric": "fid5k_full", **fields}


def test_ticks_after_the_state_go(tmp_path: Path) -> None:
    write(tmp_path / "stats.jsonl", tick(0), tick(1), tick(2), '{"Progress/tick": {"num"')
    lines = (tmp_path / "stats.jsonl").read_text().splitlines(keepends=True)
    assert rewind(tmp_path, tick=1, images_seen=0) == [
        "stats.jsonl: dropped 3 of 4 records, which the run will write again"
    ]
    assert (tmp_path / "stats.jsonl").read_text() == lines[0]
    before = (tmp_path / "stats.jsonl").stat().st_ino
    assert rewind(tmp_path, tick=1, images_seen=0) == []
    assert (tmp_path / "stats.jsonl").stat().st_ino == before, "left alone"


def test_metrics_of_later_snapshots_go_and_those_of_others_stay(tmp_path: Path) -> None:
    foreign = metric(
        snapshot_pkl="network-snapshot-000900.pkl"
    )  # from calc_metrics.py, which knows of no place in the run
    write(
        tmp_path / "metric-fid5k_full.jsonl",
        metric(images_seen=100),
        foreign,
        metric(images_seen=300),
        metric(images_seen=200),
    )
    rewind(tmp_path, tick=9, images_seen=200)
    found = [json.loads(line) for line in (tmp_path / "metric-fid5k_full.jsonl").read_text().splitlines()]
    assert found == [metric(images_seen=100), foreign, metric(images_seen=200)]


def test_what_is_no_record_of_this_program_stays(tmp_path: Path) -> None:
    write(tmp_path / "stats.jsonl", {"other": 1}, {"Progress/tick": 3}, tick(0))
    assert rewind(tmp_path, tick=1, images_seen=0) == []
    assert rewind(tmp_path / "nothing", tick=1, images_seen=0) == []


def test_which_metrics_are_due(tmp_path: Path) -> None:
    names = ("fid5k_full", "kid5k_full")
    assert unmeasured(tmp_path, names, 200) == list(names)
    write(tmp_path / "metric-fid5k_full.jsonl", metric(images_seen=100), metric(), '{"images_seen": 200')
    assert unmeasured(tmp_path, names, 200) == list(names)
    write(tmp_path / "metric-fid5k_full.jsonl", metric(images_seen=200))
    assert unmeasured(tmp_path, names, 200) == ["kid5k_full"]


def test_whatever_stands_in_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that are no records stay or go, what is no file is left alone, and nothing is raised."""
    odd = [
        "[" * 100_000,
        '{"images_seen": "x"}',
        '{"images_seen": 1e999}',
        '{"images_seen": null}',
        "5",
        '"x"',
        "null",
    ]
    odd.append('{"a": ' + "9" * 5000 + "}")
    ticks = [
        '{"Progress/tick": []}',
        '{"Progress/tick": {"mean": "x"}}',
        '{"Progress/tick": {"mean": NaN}}',
        "\0" * 50,
        "x" * 3_000_000,
    ]
    (tmp_path / "metric-a.jsonl").write_text(
        "\n".join(odd) + "\n" + json.dumps(metric(images_seen=100)) + "\n"
    )
    (tmp_path / "metric-b.jsonl").mkdir()
    os.mkfifo(tmp_path / "metric-c.jsonl")
    (tmp_path / "metric-d.jsonl").symlink_to("metric-d.jsonl")
    write(
        tmp_path / "stats.jsonl",
        *(line + "\n" for line in ticks),
        {**tick(0), "Progress/kimg": {"mean": 1.0}},
    )
    assert rewind(tmp_path, tick=1, images_seen=100)
    assert unmeasured(tmp_path, ("a", "b", "c", "d"), 100) == ["b", "c", "d"]
    assert (
        "metric-c.jsonl cannot be read: it is no ordinary file; the metric is measured again"
        in capsys.readouterr().err
    )
    assert list(tick_means(tmp_path)) == [{"Progress/tick": 0.0, "Progress/kimg": 1.0}]
