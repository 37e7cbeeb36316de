"""Metrics during a training: one that fails takes neither the run nor the other metrics with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from metrics import in_training as module
from metrics import registry
from metrics.in_training import measure_snapshot
from metrics.results import read_results
from metrics.runner import evaluate
from torch_utils.distributed import RankLost

METRICS = ["pr303_full", "fid40_full", "fid20_full"]


@pytest.fixture
def measure(
    make_dataset: Any, make_generator: Any, detector_file: Callable[[str], str], tmp_path: Path
) -> Callable[..., dict[str, float]]:
    def run(metrics: list[str] = METRICS, **options: Any) -> dict[str, float]:
        given = dict(generator=make_generator(), dataset=make_dataset(), detector=detector_file("pooled"))
        return measure_snapshot(
            metrics,
            snapshot=tmp_path / "network-snapshot-000003.pkl",
            run_dir=tmp_path,
            **{**given, **options},
        )

    return run


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Precision and recall fail."""

    def compute(*arguments: Any) -> dict[str, float]:
        raise error

    families = tuple(
        replace(f, compute=compute) if f.template == "pr{count}3_full" else f for f in registry.FAMILIES
    )
    monkeypatch.setattr(registry, "FAMILIES", families)


def test_results_are_printed_and_recorded(
    measure: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = measure(images_seen=3000)
    assert list(values) == ["pr303_full_precision", "pr303_full_recall", "fid40_full", "fid20_full"]
    (record,) = read_results(tmp_path, "fid40_full")
    assert record["results"] == {"fid40_full": values["fid40_full"]}
    assert (record["snapshot_pkl"], record["images_seen"], record["mirror"]) == (
        "network-snapshot-000003.pkl",
        3000,
        False,
    )
    printed = capsys.readouterr().out
    assert printed == "".join((tmp_path / f"metric-{name}.jsonl").read_text() for name in METRICS)


def test_all_share_one_pass(measure: Any, make_generator: Any) -> None:
    generator = make_generator()
    measure(generator=generator)
    assert generator.rendered == 48


def test_mirror_and_detector_are_passed_on(
    measure: Any, detector_file: Callable[[str], str], tmp_path: Path
) -> None:
    measure(["fid80"], mirror=True, detector=detector_file("reference"))
    (record,) = read_results(tmp_path, "fid80")
    assert (record["mirror"], record["num_real"], record["detector"]) == (
        True,
        80,
        detector_file("reference"),
    )


@pytest.mark.parametrize(
    "error",
    [
        UserError("the detector went away"),
        MemoryError("Unable to allocate 9.0 GiB"),
        torch.OutOfMemoryError("CUDA out of memory"),
        OSError(28, "No space left on device"),
        ValueError("not finite"),
        ZeroDivisionError("division by zero"),
    ],
)
def test_one_failing_metric(
    measure: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    expected = {key: value for key, value in measure().items() if key.startswith("fid")}
    failing(monkeypatch, error)
    capsys.readouterr()
    assert measure() == expected
    printed = capsys.readouterr().out
    assert (
        "The metrics pr303_full, fid40_full, fid20_full of network-snapshot-000003.pkl failed together, each "
        "is tried alone" in printed
    )
    assert "The metric pr303_full of network-snapshot-000003.pkl failed, training goes on: " in printed
    assert str(error) in printed
    assert ("Traceback" in printed) == (
        not isinstance(error, UserError | ValueError)
    )  # a ValueError of the maths becomes a UserError
    assert [len(read_results(tmp_path, name)) for name in METRICS] == [1, 2, 2]


def test_a_single_metric_is_not_tried_twice(
    measure: Any, make_generator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, MemoryError("too large"))
    generator = make_generator()
    assert measure(["pr303_full"], generator=generator) == {}
    assert generator.rendered == 32
    assert (
        "pr303_full of network-snapshot-000003.pkl failed, training goes on: MemoryError: too large"
        in capsys.readouterr().out
    )


def test_a_diverged_generator(
    measure: Any, make_generator: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    generator = make_generator()
    generator.weight.fill_(torch.nan)
    assert measure(generator=generator) == {}
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert all("values that are not finite" in line for line in printed)
    assert not list(tmp_path.glob("metric-*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RankLost("rank 1 ended")])
def test_what_has_to_end_the_run_does(
    measure: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        measure()


def test_a_result_that_cannot_be_written_is_printed(
    measure: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metric-pr303_full.jsonl").mkdir()
    values = measure()
    assert "pr303_full_recall" in values
    first, second, *others = capsys.readouterr().out.splitlines()
    assert '"pr303_full_precision"' in first
    assert second.startswith("This result is not recorded, training goes on: cannot read ")
    assert len(others) == 2
    assert len(read_results(tmp_path, "fid40_full")) == 1


def test_other_ranks_neither_print_nor_write(
    measure: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "is_rank0", lambda: False)
    values = measure()
    failing(monkeypatch, MemoryError())
    assert measure() == {key: value for key, value in values.items() if key.startswith("fid")}
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.glob("metric-*"))


def test_nothing_to_measure(measure: Any) -> None:
    assert measure([]) == {}


def test_values_are_those_of_evaluate(
    measure: Any, make_dataset: Any, make_generator: Any, detector_file: Callable[[str], str]
) -> None:
    results = evaluate(
        METRICS, generator=make_generator(), dataset=make_dataset(), detector=detector_file("pooled")
    )
    assert measure() == {key: value for result in results for key, value in result.values.items()}
