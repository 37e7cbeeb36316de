"""The benchmark of the metrics runs, at sizes that mean nothing, and holds our values against the others'."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import metrics as benchmark
from dnnlib.errors import UserError


def run(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    file = folder / "report.json"
    result = CliRunner().invoke(
        benchmark.main, [*options, f"--json={file}", "--rounds=2"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return json.loads(file.read_text()), result.output


def test_frechet(tmp_path: Path) -> None:
    report, output = run(tmp_path, "--only=frechet", "--dimensions=16")
    assert report["frechet"]["ratio"] > 0
    values = [line.split("value ")[1] for line in output.splitlines() if "value" in line]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-6)


def test_each_measurement_of_neighbours() -> None:
    pytest.importorskip("prdc")
    found = {
        kind: benchmark.neighbours_once(kind, (150, 120, 8))
        for kind in ("prdc", "precision and recall", "all four")
    }
    assert found["all four"]["values"] == pytest.approx(found["prdc"]["values"], rel=1e-5)
    assert found["precision and recall"]["values"].items() <= found["all four"]["values"].items()
    assert all(run["seconds"] > 0 and run["peak_mib"] >= run["base_mib"] > 10 for run in found.values())


def test_a_peak_above_the_formula_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"seconds": 1, "base_mib": 500, "peak_mib": 3770}
    monkeypatch.setattr(benchmark, "apart", lambda kind, shape: dict(found))
    assert benchmark.measure_large((50_000, 50_000, 4096))["formula_mib"] == pytest.approx(3782, abs=1)
    assert "features and their shifted copies 3125" in capsys.readouterr().out
    found["peak_mib"] = 3790
    with pytest.raises(UserError, match="peak of 3790 MiB is above"):
        benchmark.measure_large((50_000, 50_000, 4096))


@pytest.mark.slow
def test_everything(tmp_path: Path) -> None:
    for package in ("prdc", "efficientnet_lite_pytorch"):
        pytest.importorskip(package)
    sizes = ("--neighbours=150x120x8", "--large=200x100x8", "--dimensions=16", "--images=8")
    report, output = run(tmp_path, "--only=neighbours,frechet,extraction,large", *sizes)
    assert set(report["neighbours"]["ratios"]["all four"]) == {"seconds", "cpu_seconds", "peak_mib"}
    assert report["large"]["base_mib"] < report["large"]["peak_mib"] <= report["large"]["formula_mib"]
    assert [part["detector"] for part in report["extraction"]] == ["efficientnet-lite0", "inception's layers"]
    assert output.count("adds") == 2


@pytest.mark.parametrize("option", ["--only=speed", "--neighbours=20000"])
def test_wrong_options(option: str) -> None:
    result = CliRunner().invoke(benchmark.main, [option])
    assert result.exit_code == 1
    assert "Error: " in result.output
