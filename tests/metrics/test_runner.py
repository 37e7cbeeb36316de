import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from metrics import runner as module
from metrics.features import Detector, open_detector
from metrics.frechet_inception_distance import frechet_distance
from metrics.precision_recall import precision_recall
from metrics.runner import append_result, evaluate, preflight
from metrics.sampling import fake_images

Write = Callable[[str], str]
METRICS = ["pr303_full", "fid40_full", "fid20_full"]


def values(results: list[module.MetricResult]) -> dict[str, float]:
    return {key: value for result in results for key, value in result.values.items()}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that detectors are shown."""
    counts: list[int] = []
    plain = Detector.__call__

    def counting(self: Detector, images: torch.Tensor) -> np.ndarray:
        counts.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(Detector, "__call__", counting)
    return counts


def test_values_are_those_of_the_maths(make_dataset: Any, make_generator: Any, detector_file: Write) -> None:
    dataset, path = make_dataset(), detector_file("pooled")
    results = evaluate(METRICS, generator=make_generator(), dataset=dataset, detector=path, seed=3, progress=False)
    detector = open_detector(path, "cpu")
    real = detector(torch.from_numpy(dataset.images))
    fake = detector(torch.cat(list(fake_images(make_generator(), dataset, 40, seed=3, device=torch.device("cpu")))))

    def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows.astype(np.float64).mean(0), np.cov(rows.astype(np.float64), rowvar=False)

    precision, recall = precision_recall(real, fake[:30])
    found = values(results)
    assert list(found) == ["pr303_full_precision", "pr303_full_recall", "fid40_full", "fid20_full"]
    assert (found["pr303_full_precision"], found["pr303_full_recall"]) == (precision, recall)
    assert found["fid40_full"] == pytest.approx(frechet_distance(*moments(real), *moments(fake)), rel=1e-9)
    assert found["fid20_full"] == pytest.approx(frechet_distance(*moments(real), *moments(fake[:20])), rel=1e-9)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(make_dataset: Any, make_generator: Any, detector_file: Write, batch_size: int, tmp_path: Path) -> None:
    path, dataset = detector_file("pooled"), make_dataset()
    found = [
        values(
            evaluate(
                METRICS,
                generator=make_generator(),
                dataset=dataset,
                detector=path,
                batch_size=size,
                progress=False,
                cache_dir=tmp_path / str(size),
            )
        )
        for size in (16, batch_size)
    ]
    assert found[0] == found[1]


def test_one_pass_for_all_metrics_and_reals_from_the_cache(
    make_dataset: Any, make_generator: Any, detector_file: Write, seen: list[int]
) -> None:
    path, dataset = detector_file("pooled"), make_dataset(count=50)
    generator = make_generator()
    first = evaluate(METRICS, generator=generator, dataset=dataset, detector=path, progress=False)
    assert sum(seen) == 50 + 40
    assert generator.rendered == 48  # 40, in whole chunks of 16
    seen.clear()
    second = evaluate(METRICS, generator=generator, dataset=dataset, detector=path, progress=False)
    assert sum(seen) == 40
    assert values(first) == values(second)


@pytest.mark.parametrize("change", ["pixels", "detector", "seed"])
def test_the_cache_is_never_stale(
    make_dataset: Any, make_generator: Any, detector_file: Write, seen: list[int], change: str, tmp_path: Path
) -> None:
    def run(dataset: Any, path: str, seed: int = 0) -> dict[str, float]:
        seen.clear()
        return values(evaluate(METRICS, generator=make_generator(), dataset=dataset, detector=path, seed=seed, progress=False))

    dataset, path = make_dataset(), detector_file("pooled")
    before = run(dataset, path)
    if change == "pixels":
        dataset.images[7] ^= 255
    elif change == "detector":
        Path(path).write_bytes(Path(detector_file("reference")).read_bytes())
    after = run(dataset, path, seed=int(change == "seed"))
    assert before["fid40_full"] != after["fid40_full"]
    assert sum(seen) == (40 if change == "seed" else 80)


def test_a_damaged_cache_file_is_computed_anew(
    make_dataset: Any, make_generator: Any, detector_file: Write, cache_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> dict[str, float]:
        return values(evaluate(METRICS, generator=make_generator(), dataset=make_dataset(), detector=path, progress=False))

    path = detector_file("pooled")
    before = run()
    files = list((cache_root / "statistics").glob("*.npz"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert run() == before
    assert capsys.readouterr().err.count("is damaged") == 2


def test_two_detectors_see_the_same_images_rendered_once(
    make_dataset: Any, make_generator: Any, detector_file: Write, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    """As with the default: each metric has its own detector, which sees no more than it must."""
    files = {"inception": detector_file("pooled"), "vgg16": detector_file("reference")}
    monkeypatch.setattr(module, "open_detector", lambda name, device: open_detector(files[name], device))
    generator, dataset = make_generator(), make_dataset()
    together = evaluate("fid40_full,pr103_full", generator=generator, dataset=dataset, batch_size=16, progress=False)
    assert generator.rendered == 48
    assert sum(seen) == 2 * len(dataset) + 40 + 10
    assert [result.detector for result in together] == ["inception", "vgg16"]
    alone = [evaluate(name, generator=generator, dataset=dataset, progress=False)[0] for name in ("fid40_full", "pr103_full")]
    assert values(together) == values(alone)


def test_the_training_images_measured_against_themselves(make_dataset: Any, make_generator: Any, detector_file: Write) -> None:
    dataset, generator = make_dataset(count=32), make_generator()
    images = iter(torch.from_numpy(dataset.images).float().div(127.5).sub(1).add(1e-4).split(16))
    generator.forward = lambda z, c: next(images)
    found = values(
        evaluate("fid32_full,pr323_full", generator=generator, dataset=dataset, detector=detector_file("pooled"), progress=False)
    )
    assert found == {"fid32_full": pytest.approx(0, abs=1e-6), "pr323_full_precision": 1, "pr323_full_recall": 1}


@pytest.mark.parametrize("channels", [1, 3])
def test_conditional_and_greyscale(make_dataset: Any, make_generator: Any, detector_file: Write, channels: int) -> None:
    dataset, generator = make_dataset(channels=channels, classes=3), make_generator(channels=channels, c_dim=3)
    found = evaluate("fid20_full", generator=generator, dataset=dataset, detector=detector_file("pooled"), progress=False)
    assert np.isfinite(found[0].values["fid20_full"])


def test_nothing_to_do(make_dataset: Any, make_generator: Any) -> None:
    assert evaluate([], generator=make_generator(), dataset=make_dataset()) == []


def test_records(make_dataset: Any, make_generator: Any, detector_file: Write, tmp_path: Path) -> None:
    path, dataset = detector_file("pooled"), make_dataset()
    dataset.xflip = True
    (result,) = evaluate("pr203_full", generator=make_generator(), dataset=dataset, detector=path, seed=9, progress=False)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    lines = [append_result(result, run_dir, run_dir / "network-snapshot-000000.pkl") for _ in range(2)]
    assert (run_dir / "metric-pr203_full.jsonl").read_text() == "".join(line + "\n" for line in lines)
    record = json.loads(lines[0])
    assert list(record)[:7] == ["results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl", "timestamp"]
    assert record["results"] == result.values
    assert record["snapshot_pkl"] == "network-snapshot-000000.pkl"
    expected = {"detector": path, "count": 20, "num_real": 40, "seed": 9, "dataset": "arrays", "mirror": True, "resolution": 8}
    assert expected.items() <= record.items()
    with pytest.raises(UserError, match="can't write"):
        append_result(result, tmp_path / "missing", "x.pkl")



def test_preflight_finds_what_would_stop_an_evaluation(make_dataset: Any, detector_file: Write, tmp_path: Path) -> None:
    good = detector_file("pooled")
    preflight("none", "nope", make_dataset(count=1))
    preflight(METRICS, good, make_dataset())
    (tmp_path / "file").write_text("")
    for arguments, message in [
        (("kid50k", good, make_dataset()), "unknown metric"),
        ((METRICS, "nope", make_dataset()), "no detector 'nope'"),
        ((METRICS, detector_file("notfinite"), make_dataset()), "not finite"),
        ((METRICS, good, make_dataset(count=3)), "at least 4 real images, but the data set 'arrays' has 3"),
        ((METRICS, good, make_dataset(channels=2)), "2 channels"),
    ]:
        with pytest.raises(UserError, match=message):
            preflight(*arguments)
    with pytest.raises(UserError, match="can't be written"):
        preflight(METRICS, good, make_dataset(), cache_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("generator", "dataset", "message"),
    [
        ({"resolution": 16}, {}, "renders 16x16 images with 3 channels"),
        ({"channels": 1}, {}, "renders 8x8 images with 1 channel"),
        ({"c_dim": 3}, {}, "labels of 3 numbers, but those of the data set 'arrays' have 0"),
    ],
)
def test_generator_and_data_set_must_fit(
    make_dataset: Any, make_generator: Any, detector_file: Write, generator: dict[str, int], dataset: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate("fid20_full", generator=make_generator(**generator), dataset=make_dataset(**dataset), detector=detector_file("pooled"))
