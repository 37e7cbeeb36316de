"""tools.metrics_table: rows of snapshots, columns of values."""

import json

import pytest
from click.testing import CliRunner

from tools import metrics_table


def write_run(folder, values):
    folder.mkdir(parents=True)
    for kimg, value in values.items():
        with open(folder / "metric-fid5_full.jsonl", "a") as stream:
            stream.write(json.dumps({"results": {"fid5_full": value}, "snapshot_pkl": f"network-snapshot-{kimg:06d}.pkl"}) + "\n")
    return str(folder)


def test_table(tmp_path):
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


@pytest.mark.parametrize(("line", "message"), [(None, "has no metric"), ("{", "line 1 of"), ('{"results": {}}', "line 1 of")])
def test_wrong_runs(tmp_path, line, message):
    if line is not None:
        (tmp_path / "metric-a.jsonl").write_text(line)
    result = CliRunner().invoke(metrics_table.main, [str(tmp_path)])
    assert result.exit_code == 1
    assert message in result.output
