import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from metrics import runner as module
from metrics.density_coverage import density_coverage
from metrics.features import Detector, open_detector
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance
from metrics.overlap import Overlap, overlaps
from metrics.perceptual_path_length import PathSampling, path_distances, path_length
from metrics.precision_recall import precision_recall
from metrics.registry import parse_metrics
from metrics.results import MetricResult, append_result
from metrics.runner import evaluate, preflight
from metrics.sampling import fake_images, microbatches

Write = Callable[[str], str]
METRICS = ["pr303_full", "fid40_full", "fid20_full"]
EVERYTHING = [
    "fid40_full",
    "kid30_full",
    "pr303_full",
    "dc305_full",
    "ppl2_20_wend",
    "is30",
    "fid30",
    "kid30",
    "pr303",
    "ppl_20_zfull",
]


def values(results: list[MetricResult]) -> dict[str, float]:
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


def test_tf32_is_off_whatever_training_allows(
    make_dataset: Any, make_generator: Any, detector_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics of the reals are shared through the cache, so they have to be made alike."""
    flags: list[tuple[Any, str]] = [
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "allow_tf32"),
    ]
    found = set()
    plain = Detector.__call__

    def looking(self: Detector, images: torch.Tensor) -> np.ndarray:
        found.add(tuple(getattr(where, name) for where, name in flags))
        return plain(self, images)

    monkeypatch.setattr(Detector, "__call__", looking)
    before = [getattr(where, name) for where, name in flags]
    try:  # monkeypatch would delete these flags in the end
        for where, name in flags:
            setattr(where, name, True)
        evaluate(
            ["fid40_full"],
            generator=make_generator(),
            dataset=make_dataset(),
            detector=detector_file("pooled"),
            progress=False,
        )
        assert all(getattr(where, name) for where, name in flags)
    finally:
        for (where, name), flag in zip(flags, before, strict=True):
            setattr(where, name, flag)
    assert found == {(False, False)}


def test_values_are_those_of_the_maths(make_dataset: Any, make_generator: Any, detector_file: Write) -> None:
    dataset, path = make_dataset(), detector_file("pooled")
    results = evaluate(
        METRICS, generator=make_generator(), dataset=dataset, detector=path, seed=3, progress=False
    )
    detector = open_detector(path, "cpu")
    real = detector(torch.from_numpy(dataset.images))
    fake = detector(
        torch.cat(list(fake_images(make_generator(), dataset, 40, seed=3, device=torch.device("cpu"))))
    )

    precision, recall = precision_recall(real, fake[:30])
    found = values(results)
    assert list(found) == ["pr303_full_precision", "pr303_full_recall", "fid40_full", "fid20_full"]
    assert (found["pr303_full_precision"], found["pr303_full_recall"]) == (precision, recall)
    assert found["fid40_full"] == pytest.approx(frechet_distance(*moments(real), *moments(fake)), rel=1e-9)
    assert found["fid20_full"] == pytest.approx(
        frechet_distance(*moments(real), *moments(fake[:20])), rel=1e-9
    )


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(
    make_dataset: Any, make_generator: Any, detector_file: Write, batch_size: int, tmp_path: Path
) -> None:
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
        return values(
            evaluate(
                METRICS, generator=make_generator(), dataset=dataset, detector=path, seed=seed, progress=False
            )
        )

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
    make_dataset: Any,
    make_generator: Any,
    detector_file: Write,
    cache_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run() -> dict[str, float]:
        return values(
            evaluate(
                METRICS, generator=make_generator(), dataset=make_dataset(), detector=path, progress=False
            )
        )

    path = detector_file("pooled")
    before = run()
    files = list((cache_root / "statistics").glob("*.npz"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert run() == before
    assert capsys.readouterr().err.count("is damaged") == 2


def test_two_detectors_see_the_same_images_rendered_once(
    make_dataset: Any,
    make_generator: Any,
    detector_file: Write,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[int],
) -> None:
    """As with the default: each metric has its own detector, which sees no more than it must."""
    files = {"inception": detector_file("pooled"), "vgg16": detector_file("reference")}
    monkeypatch.setattr(module, "open_detector", lambda name, device: open_detector(files[name], device))
    generator, dataset = make_generator(), make_dataset()
    shared = evaluate(
        "fid40_full,pr103_full", generator=generator, dataset=dataset, batch_size=16, progress=False
    )
    assert generator.rendered == 48
    assert sum(seen) == 2 * len(dataset) + 40 + 10
    assert [result.detector for result in shared] == ["inception", "vgg16"]
    alone = [
        evaluate(name, generator=generator, dataset=dataset, progress=False)[0]
        for name in ("fid40_full", "pr103_full")
    ]
    assert values(shared) == values(alone)


def test_the_training_images_measured_against_themselves(
    make_dataset: Any, make_generator: Any, detector_file: Write
) -> None:
    dataset, generator = make_dataset(count=32), make_generator()
    images = iter(torch.from_numpy(dataset.images).float().div(127.5).sub(1).add(1e-4).split(16))
    generator.forward = lambda z, c: next(images)
    found = values(
        evaluate(
            "fid32_full,pr323_full",
            generator=generator,
            dataset=dataset,
            detector=detector_file("pooled"),
            progress=False,
        )
    )
    assert found == {
        "fid32_full": pytest.approx(0, abs=1e-6),
        "pr323_full_precision": 1,
        "pr323_full_recall": 1,
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_conditional_and_greyscale(
    make_dataset: Any, make_generator: Any, detector_file: Write, channels: int
) -> None:
    dataset, generator = (
        make_dataset(channels=channels, classes=3),
        make_generator(channels=channels, c_dim=3),
    )
    found = evaluate(
        "fid20_full", generator=generator, dataset=dataset, detector=detector_file("pooled"), progress=False
    )
    assert np.isfinite(found[0].values["fid20_full"])


def test_nothing_to_do(make_dataset: Any, make_generator: Any) -> None:
    assert evaluate([], generator=make_generator(), dataset=make_dataset()) == []


def test_records(make_dataset: Any, make_generator: Any, detector_file: Write, tmp_path: Path) -> None:
    path, dataset = detector_file("pooled"), make_dataset()
    (result,) = evaluate(
        "pr203_full",
        generator=make_generator(),
        dataset=dataset,
        detector=path,
        mirror=True,
        seed=9,
        progress=False,
    )
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    lines = [append_result(result, run_dir, run_dir / "network-snapshot-000000.pkl") for _ in range(2)]
    assert (run_dir / "metric-pr203_full.jsonl").read_text() == "".join(line + "\n" for line in lines)
    record = json.loads(lines[0])
    assert list(record)[:7] == [
        "results",
        "metric",
        "total_time",
        "total_time_str",
        "num_gpus",
        "snapshot_pkl",
        "timestamp",
    ]
    assert record["results"] == result.values
    assert record["snapshot_pkl"] == "network-snapshot-000000.pkl"
    expected = {
        "detector": path,
        "count": 20,
        "num_real": 40,
        "seed": 9,
        "dataset": "arrays",
        "mirror": False,
        "resolution": 8,
    }
    assert expected.items() <= record.items()
    with pytest.raises(UserError, match="can't write"):
        append_result(result, tmp_path / "missing", "x.pkl")


def test_preflight_finds_what_would_stop_an_evaluation(
    make_dataset: Any, detector_file: Write, tmp_path: Path
) -> None:
    good = detector_file("pooled")
    preflight("none", "nope", make_dataset(count=1))
    preflight(METRICS, good, make_dataset())
    (tmp_path / "file").write_text("")
    for arguments, message in [
        (("kid50k_half", good, make_dataset()), "unknown metric"),
        ((METRICS, "nope", make_dataset()), "no detector 'nope'"),
        ((METRICS, detector_file("notfinite"), make_dataset()), "not finite"),
        ((METRICS, good, make_dataset(count=3)), "at least 4 real images, but the data set 'arrays' has 3"),
        ((METRICS, good, make_dataset(channels=2)), "2 channels"),
        (("fid20_full,is20", good, make_dataset()), "has no class probabilities"),
        (("fid20_full,ppl2_20_wend", good, make_dataset()), "has no perceptual distance"),
        ((METRICS, detector_file("unpooled"), make_dataset()), r"must give features \[N, F\]"),
        ((METRICS, detector_file("averaged"), make_dataset()), r"of N images, but gave \[1, 3\] of 2"),
    ]:
        with pytest.raises(UserError, match=message):
            preflight(*arguments)
    preflight(EVERYTHING, detector_file("all"), make_dataset())
    preflight(
        "is20,ppl2_20_wend", detector_file("all"), make_dataset(count=1)
    )  # nothing to compare with is needed
    preflight("pr203", good, make_dataset(count=2), mirror=True)
    with pytest.raises(UserError, match="at least 4 real images, but the data set 'arrays' has 2"):
        preflight("pr203_full", good, make_dataset(count=2), mirror=True)
    with pytest.raises(UserError, match="at least 4 measured images, but the data set 'arrays' has 3"):
        preflight("pr203_full", good, make_dataset(), images=make_dataset(count=3))
    with pytest.raises(UserError, match="can't be written"):
        preflight(METRICS, good, make_dataset(), cache_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("generator", "dataset", "message"),
    [
        (
            {"resolution": 16},
            {},
            "renders images of 16x16 with 3 channels, but those of the data set 'arrays' are 8x8 with 3",
        ),
        ({"channels": 1}, {}, "renders images of 8x8 with 1 channel, but"),
        ({"c_dim": 3}, {}, "labels of 3 numbers, but those of the data set 'arrays' have 0"),
    ],
)
def test_generator_and_data_set_must_fit(
    make_dataset: Any,
    make_generator: Any,
    detector_file: Write,
    generator: dict[str, int],
    dataset: dict[str, int],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(
            "fid20_full",
            generator=make_generator(**generator),
            dataset=make_dataset(**dataset),
            detector=detector_file("pooled"),
        )


def test_every_metric_is_that_of_the_maths(
    make_dataset: Any, make_linear_generator: Any, detector_file: Write
) -> None:
    dataset, path = make_dataset(), detector_file("all")
    results = evaluate(
        EVERYTHING,
        generator=make_linear_generator(),
        dataset=dataset,
        mirror=True,
        detector=path,
        seed=3,
        progress=False,
    )
    found, detector = values(results), open_detector(path, "cpu")
    images = torch.cat(
        list(fake_images(make_linear_generator(), dataset, 40, seed=3, device=torch.device("cpu")))
    )
    real, fake = detector(torch.from_numpy(dataset.images)), detector(images)
    assert found["kid30_full"] == kernel_distance(real, fake[:30], num_subsets=100, max_subset_size=1000)
    assert found["kid30"] == kernel_distance(real[:30], fake[:30], num_subsets=100, max_subset_size=1000)
    assert found["fid30"] == pytest.approx(
        frechet_distance(*moments(real[:30]), *moments(fake[:30])), rel=1e-9
    )
    assert (found["pr303_precision"], found["pr303_recall"]) == precision_recall(real[:30], fake[:30], 3)
    assert (found["dc305_full_density"], found["dc305_full_coverage"]) == density_coverage(real, fake[:30], 5)
    assert (found["is30_mean"], found["is30_std"]) == inception_score(detector.probabilities(images[:30]), 10)
    for name, paths in [
        ("ppl2_20_wend", PathSampling("w", "end", crop=False)),
        ("ppl_20_zfull", PathSampling("z", "full", crop=True)),
    ]:
        parts = path_distances(
            make_linear_generator(),
            dataset,
            detector,
            paths,
            microbatches(20, 16),
            seed=3,
            device=torch.device("cpu"),
        )
        assert found[name] == path_length(np.concatenate(list(parts)))
    assert list(found) == [
        "fid40_full",
        "kid30_full",
        "pr303_full_precision",
        "pr303_full_recall",
        "dc305_full_density",
        "dc305_full_coverage",
        "ppl2_20_wend",
        "is30_mean",
        "is30_std",
        "fid30",
        "kid30",
        "pr303_precision",
        "pr303_recall",
        "ppl_20_zfull",
    ]
    assert [result.num_real for result in results] == [40, 40, 40, 40, 0, 0, 30, 30, 30, 0]


def test_metrics_of_the_same_images_share_their_distances(
    make_dataset: Any, make_generator: Any, detector_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, list[int], bool]] = []
    plain = overlaps

    def counting(real: torch.Tensor, fake: torch.Tensor, ks: set[int], recall: bool) -> dict[int, Overlap]:
        calls.append((len(fake), sorted(ks), recall))
        return plain(real, fake, ks, recall=recall)

    monkeypatch.setattr(module, "overlaps", counting)

    def run(names: str) -> dict[str, float]:
        options = {"dataset": make_dataset(), "detector": detector_file("pooled"), "progress": False}
        return values(evaluate(names, generator=make_generator(), **options))

    shared = run("dc305_full,fid30_full,pr303_full,dc205_full")
    assert calls == [(30, [3, 5], True), (20, [5], False)]
    calls.clear()
    alone = {**run("dc305_full"), **run("fid30_full"), **run("pr303_full"), **run("dc205_full")}
    assert calls == [(30, [5], False), (30, [3], True), (20, [5], False)]
    assert shared == alone


def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.astype(np.float64).mean(0), np.cov(rows.astype(np.float64), rowvar=False)


def test_mirrored_copies_follow_the_images_for_the_older_metrics_alone(
    make_dataset: Any, make_generator: Any, detector_file: Write, seen: list[int]
) -> None:
    dataset, path, names = make_dataset(count=25), detector_file("pooled"), ["fid40", "fid20", "fid40_full"]

    def run(mirror: bool) -> list[MetricResult]:
        return evaluate(
            names, generator=make_generator(), dataset=dataset, mirror=mirror, detector=path, progress=False
        )

    plain, mirrored = run(False), run(True)
    assert [(r.num_real, r.mirror) for r in plain] == [(25, False), (20, False), (25, False)]
    assert [(r.num_real, r.mirror) for r in mirrored] == [(40, True), (20, False), (25, False)]
    assert plain[2].values == mirrored[2].values
    assert plain[1].values == mirrored[1].values  # the first 20 are no copies
    both = np.concatenate([dataset.images, dataset.images[..., ::-1]])[:40]
    detector = open_detector(path, "cpu")
    fake = torch.cat(list(fake_images(make_generator(), dataset, 40, seed=0, device=torch.device("cpu"))))
    expected = frechet_distance(*moments(detector(torch.from_numpy(both))), *moments(detector(fake)))
    assert mirrored[0].values["fid40"] == pytest.approx(expected, rel=1e-9)
    assert plain[0].values["fid40"] != pytest.approx(expected, rel=1e-3)
    assert values(run(True)) == values(mirrored)  # now from the cache


def test_images_in_place_of_a_generator(
    make_dataset: Any, detector_file: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, dataset, images = detector_file("all"), make_dataset(count=30), make_dataset(count=50, seed=1)
    options = {"dataset": dataset, "detector": path, "progress": False}
    detector = open_detector(path, "cpu")
    names = ["fid40_full", "pr50k3_full", "is20"]
    results = evaluate(names, images=images, **options)
    real, other = detector(torch.from_numpy(dataset.images)), detector(torch.from_numpy(images.images))
    found = values(results)
    assert found["fid40_full"] == pytest.approx(
        frechet_distance(*moments(real), *moments(other[:40])), rel=1e-9
    )
    assert (found["pr50k3_full_precision"], found["pr50k3_full_recall"]) == precision_recall(real, other)
    assert (
        found["is20_mean"]
        == inception_score(detector.probabilities(torch.from_numpy(images.images[:20])), 10)[0]
    )
    assert [result.count for result in results] == [40, 50, 20]
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Note")]
    assert notes == ["Note: pr50k3_full measures all 50 images of 'arrays', not 50000"]
    assert module._limited(parse_metrics("fid2_full")[0], make_dataset(count=1)).count == 1
    assert "fid2_full measures the one image of 'arrays'" in capsys.readouterr().err
    same = values(evaluate("fid30_full,pr303_full", images=make_dataset(count=30), **options))
    assert same == {
        "fid30_full": pytest.approx(0, abs=1e-3),
        "pr303_full_precision": 1,
        "pr303_full_recall": 1,
    }


@pytest.mark.parametrize(
    ("metric", "images", "message"),
    [
        ("ppl2_20_wend", {}, "'ppl2_20_wend' walks through a network's latent space; image files have none"),
        ("pr203_full", {"count": 3}, "at least 4 measured images, but the data set 'arrays' has 3"),
        (
            "fid20_full",
            {"resolution": 16},
            "'arrays' are 16x16 with 3 channels, but those of the data set 'arrays' are 8x8 with 3",
        ),
        ("fid20_full", {"channels": 1}, "'arrays' are 8x8 with 1 channel, but"),
    ],
)
def test_images_that_cannot_be_measured(
    make_dataset: Any,
    detector_file: Write,
    cache_root: Path,
    metric: str,
    images: dict[str, int],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(
            metric,
            images=make_dataset(**images),
            dataset=make_dataset(),
            detector=detector_file("all"),
            progress=False,
        )
    assert not cache_root.exists()


def test_either_a_generator_or_images(make_dataset: Any, make_generator: Any) -> None:
    for both in ({}, {"generator": make_generator(), "images": make_dataset()}):
        with pytest.raises(ValueError, match="either a generator or images"):
            evaluate("fid20_full", dataset=make_dataset(), **both)


def test_without_a_cache(
    make_dataset: Any, make_generator: Any, detector_file: Write, cache_root: Path, seen: list[int]
) -> None:
    path = detector_file("pooled")

    def run(use_cache: bool) -> dict[str, float]:
        seen.clear()
        options = {"dataset": make_dataset(), "detector": path, "use_cache": use_cache, "progress": False}
        return values(evaluate("fid20_full", generator=make_generator(), **options))

    first = run(False)
    assert run(False) == first
    assert sum(seen) == 40 + 20
    assert not cache_root.exists()
    assert run(True) == first
    assert cache_root.exists()


def test_too_few_samples_for_a_covariance_are_pointed_out_once(
    make_dataset: Any, make_generator: Any, detector_file: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    module._warn_once.cache_clear()
    options = {
        "generator": make_generator(),
        "dataset": make_dataset(),
        "detector": detector_file("pooled"),
        "progress": False,
    }
    for _ in range(2):
        evaluate("fid12_full,fid13_full,pr123_full", **options)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Warning: fid12_full fits a covariance of 12 features to 12 images")


def test_nothing_is_left_of_an_evaluation_that_fails(
    make_dataset: Any, make_generator: Any, detector_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator()
    options = {
        "generator": generator,
        "dataset": make_dataset(),
        "detector": detector_file("pooled"),
        "progress": False,
    }
    monkeypatch.setattr(
        "metrics.frechet_inception_distance.frechet_distance",
        lambda *arguments: np.linalg.cholesky(-np.eye(2)),
    )
    with pytest.raises(UserError, match="'fid20_full' can't be computed: Matrix is not positive definite"):
        evaluate("fid20_full", **options)
    generator.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="renders values that are not finite"):
        evaluate("pr203_full", **options)
