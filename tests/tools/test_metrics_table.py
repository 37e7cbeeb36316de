"""tools.metrics_table: rows of snapshots, columns of values."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tools import metrics_table


def write_run(folder: Any, values: Any) -> Any:
    folder.mkdir(parents=True)
    for kimg, value in values.items():
        with open(folder / "metric-fid5_full.jsonl", "a") as stream:
            stream.write(
                json.dumps(
                    {"results": {"fid5_full": value}, "snapshot_pkl": f"network-snapshot-{kimg:06d}.pkl"}
                )
                + "\n"
            )
    return str(folder)


def test_table(tmp_path: Path) -> None:
    first = write_run(tmp_path / "none" / "00000-a", {0: 250.123, 20: 100})
    second = write_run(tmp_path / "ggdr" / "00000-a", {0: 250.123, 10: 90})
    output = CliRunner().invoke(metrics_table.main, [first, second]).output
    assert output.splitlines() == [
        "| kimg | none: fid5_full | ggdr: fid5_full |",
        "|---:|---:|---:|",
        "| 0 | 250.1 | 250.1 |",
        "| 10 |  | 90 |",
        "| 20 | 100 |  |",
    ]


def test_a_line_that_was_cut_off_is_left_out_and_the_last_value_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {0: 250, 10: 90})
    with open(tmp_path / "run" / "metric-fid5_full.jsonl", "a") as stream:
        stream.write(
            json.dumps({"results": {"fid5_full": 80}, "snapshot_pkl": "network-snapshot-000010.pkl"})
            + '\n{"results": {"fid'
        )
    result = CliRunner().invoke(metrics_table.main, [run])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2:] == ["| 0 | 250 |", "| 10 | 80 |"]
    assert "line 4 of" in result.stderr


@pytest.mark.parametrize(
    "line",
    [None, "{", '{"results": {"fid5_full": 1}}', '{"results": {"fid5_full": 1}, "snapshot_pkl": "net.pkl"}'],
)
def test_runs_without_values(tmp_path: Path, line: Any) -> None:
    if line is not None:
        (tmp_path / "metric-a.jsonl").write_text(line)
    result = CliRunner().invoke(metrics_table.main, [str(tmp_path)])
    assert result.exit_code == 1
    assert "has no metric-*.jsonl with values of a snapshot" in result.stderr
    assert result.stdout == ""


def test_runs_that_lie_side_by_side(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "runs" / name, {0: 250}) for name in ("00000-a", "00001-b")]
    output = CliRunner().invoke(metrics_table.main, runs).output
    assert output.splitlines()[0] == "| kimg | 00000-a: fid5_full | 00001-b: fid5_full |"
