"""plot_runs: curves are read from complete and incomplete files; seeds become mean and spread."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from dnnlib.errors import UserError
from experiments import plot_runs
from experiments.plot_runs import choose_curves, mean_and_spread, parse_runs, read_run


def write_run(folder: Path, fid: dict[int, float], loss: dict[float, float] | None = None) -> Path:
    folder.mkdir(parents=True)
    for kimg, value in fid.items():
        line = {
            "results": {"fid5_full": value},
            "metric": "fid5_full",
            "snapshot_pkl": f"network-snapshot-{kimg:06d}.pkl",
        }
        with open(folder / "metric-fid5_full.jsonl", "a") as stream:
            stream.write(json.dumps(line) + "\n")
    for at, value in (loss or {}).items():
        tick: dict[str, Any] = {
            "Loss/D/loss": {"num": 1, "mean": value, "std": 0},
            "Progress/kimg": {"num": 1, "mean": at, "std": 0},
            "timestamp": 1.0,
        }
        with open(folder / "stats.jsonl", "a") as stream:
            stream.write(json.dumps(tick) + "\n")
    return folder


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(plot_runs.main, list(arguments))


def test_values_by_kimg(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {0: 200, 20: 100, 10: 150}, {0.5: 1.5, 4: 1.25})
    assert read_run(run) == {"fid5_full": {0: 200, 10: 150, 20: 100}, "Loss/D/loss": {0.5: 1.5, 4: 1.25}}
    assert list(read_run(run)["fid5_full"]) == [0, 10, 20]
    assert read_run(run, max_kimg=2) == {"fid5_full": {0: 200}, "Loss/D/loss": {0.5: 1.5}}


def test_lines_that_were_cut_off_are_left_out(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "run", {0: 200, 10: 150}, {1: 1.5, 2: 1.25})
    whole = read_run(run)
    for name in ("stats.jsonl", "metric-fid5_full.jsonl"):
        content = (run / name).read_bytes()
        for cut in (1, 20, len(content.splitlines()[0]) - 3):
            (run / name).write_bytes(content + content.splitlines()[0][:cut])
            assert read_run(run) == whole
            assert f"line 3 of {run / name}" in capsys.readouterr().err
            (run / name).write_bytes(content)


def test_the_last_of_several_values_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {10: 150}, {1: 1.5})
    with open(tmp_path / "run" / "stats.jsonl", "a") as stream:
        stream.write('{"Progress/kimg": {"mean": 1}, "Loss/D/loss": {"mean": 3}}\n')
    assert read_run(tmp_path / "run")["Loss/D/loss"] == {1: 3}


def test_mean_and_sample_deviation_where_all_have_values() -> None:
    kimg, mean, deviation = mean_and_spread(
        [{0: 1.0, 10: 2.0, 20: 9.0}, {0: 3.0, 10: 6.0}, {0: 5.0, 10: 4.0, 30: 1.0}]
    )
    assert kimg.tolist() == [0, 10]
    np.testing.assert_allclose(mean, [3, 4])
    np.testing.assert_allclose(deviation, [2, 2])
    assert mean_and_spread([{0: 1.0}])[2].tolist() == [0]
    with pytest.raises(UserError, match="no kimg in common"):
        mean_and_spread([{0: 1.0}, {1: 1.0}])


def test_runs_are_found_by_pattern(tmp_path: Path) -> None:
    for name in ("none-1", "none-2", "ggdr-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "none-3.txt").write_text("")
    groups = parse_runs([f"a={tmp_path}/none-*", f"b={tmp_path}/ggdr-1", f"a={tmp_path}/ggdr-1"])
    names = {label: [path.name for path in paths] for label, paths in groups.items()}
    assert names == {"a": ["none-1", "none-2", "ggdr-1"], "b": ["ggdr-1"]}
    for text, message in (
        ("none", "LABEL=DIR"),
        ("=x", "LABEL=DIR"),
        (f"a={tmp_path}/x*", "no directory matches"),
    ):
        with pytest.raises(UserError, match=message):
            parse_runs([text])


def test_which_curves() -> None:
    runs = {"a": [{"fid5_full": {0.0: 1.0}, "Loss/D/loss": {0.0: 1.0}}], "b": [{"Loss/D/loss": {0.0: 1.0}}]}
    assert choose_curves(runs, []) == ["fid5_full"]
    assert choose_curves(runs, ["Loss/D/loss"]) == ["Loss/D/loss"]
    with pytest.raises(UserError, match="they have Loss/D/loss, fid5_full"):
        choose_curves(runs, ["fid50k"])
    with pytest.raises(UserError, match="no metrics"):
        choose_curves({"b": runs["b"]}, [])


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for seed in range(3):
        write_run(tmp_path / f"none-{seed}", {0: 200 + seed, 10: 100 + 2 * seed}, {1: 1.0})
    write_run(tmp_path / "ggdr-0", {0: 200, 10: 90}, {1: 2.0})
    out = tmp_path / "new" / "plot.png"
    arguments = [f"--run=none={tmp_path}/none-*", f"--run=ggdr={tmp_path}/ggdr-*", f"--out={out}", "--log"]
    result = invoke(*arguments, "--curve=fid5_full", "--curve=Loss/D/loss")
    assert result.exit_code == 0, result.output
    assert "3 x none, 1 x ggdr" in result.output
    with PIL.Image.open(out) as picture:
        assert picture.width > 2 * picture.height  # two panels side by side
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    content = out.read_bytes()
    assert invoke(*arguments, "--curve=fid5_full", "--curve=Loss/D/loss").exit_code == 0
    assert out.read_bytes() == content


def test_no_run_no_picture(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = invoke(f"--run=none={tmp_path}/empty", f"--out={tmp_path}/plot.png")
    assert result.exit_code == 1
    assert "give a run directory" in result.output
    assert not (tmp_path / "plot.png").exists()


def test_odd_and_huge_values_are_drawn_as_gaps(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        {0: 1e308, 10: 5.0, 20: float("nan"), 30: float("inf"), 40: 7.0},
        {1: -1e308, 1e300: 1.0, 2: 3.0},
    )
    with open(run / "stats.jsonl", "a") as stream:
        stream.write(
            '{"Progress/kimg": {"mean": "x"}}\n{"Progress/kimg": 5}\n{"$\\\\frac{": {"mean": 1}}\n[]\n'
        )
    fid = read_run(run)["fid5_full"]
    assert {at: value for at, value in fid.items() if np.isfinite(value)} == {10: 5.0, 40: 7.0}
    out = tmp_path / "plot.png"
    groups = [f"--run=a $\\frac{{$={run}", f"--run=b={run}", f"--run=b={run}"]
    for more in ([], ["--log", "--overwrite"]):
        result = invoke(*groups, "--curve=fid5_full", "--curve=Loss/D/loss", f"--out={out}", *more)
        assert result.exit_code == 0, result.output
        with PIL.Image.open(out) as picture:
            assert picture.size[0] > 100


def test_too_many_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {0: 1})
    line = {"results": {f"a{i}": 1 for i in range(100)}, "snapshot_pkl": "network-snapshot-000000.pkl"}
    (run / "metric-a.jsonl").write_text(json.dumps(line) + "\n")
    assert "101 curves of metrics, too many" in invoke(f"--run=a={run}", f"--out={tmp_path / 'p.png'}").stderr
