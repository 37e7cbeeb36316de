"""The same numbers as torch-fidelity 0.4.0, torchmetrics 1.9 and prdc 0.2, or a reason why not.

Where the packages differ from each other, this is what ours do, and why:

- Balls (precision, recall, density, coverage) contain their surface, as in the paper (Kynkäänniemi et al.
2019, eq. 2), in the
  reference and in torch-fidelity. prdc leaves it out. Without ties there is no difference. With ties ours is
  the one for which identical sets have precision and recall 1, however many duplicates they hold.
- KID draws its subsets as the reference and torch-fidelity do: both sets in turn, from one generator.
- The inception score is taken of images in their order; torch-fidelity and torchmetrics shuffle first unless
told not to.
- Everything is computed in float64 here, or as exactly. The others keep the features' own type, so they are
given float64. Even
  so, rounding decides their ties, except of whole numbers; here what is equal but for rounding is equal.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from metrics.density_coverage import density_coverage
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance
from metrics.precision_recall import precision_recall

WIDTH = 32
CLOSE = 1e-5  # relative


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Other people's packages may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def sets(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated features, different in number, float64 of float32 values."""
    rng = np.random.RandomState(0)
    mixing = rng.randn(WIDTH, WIDTH) / WIDTH**0.5
    real, gen = rng.randn(400, WIDTH) @ mixing + 0.3, rng.randn(300, WIDTH) @ mixing * 0.9 + 0.35
    if kind == "duplicates":  # within each set and from one to the other
        real[200:250] = real[:50]
        gen[100:150] = gen[:50]
        gen[150:200] = real[:50]
    elif kind == "ties":  # whole numbers: few different distances
        real, gen = (rng.randint(0, 3, (n, 6)) for n in (400, 300))
    return real.astype(np.float32).astype(np.float64), gen.astype(np.float32).astype(np.float64)


def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.mean(0), np.cov(rows, rowvar=False)


class Identity(torch.nn.Module):
    """What torchmetrics takes for a feature extractor: the features are the images."""

    num_features = WIDTH

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def updated(metric: Any, real: np.ndarray, gen: np.ndarray) -> float:
    metric = metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(gen), real=False)
    value = metric.compute()
    return float(value[0] if isinstance(value, tuple) else value)


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
def test_fid(kind: str) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    image = pytest.importorskip("torchmetrics.image.fid")
    real, gen = sets(kind)
    ours = frechet_distance(*moments(real), *moments(gen))
    statistics = [fidelity.fid_features_to_statistics(torch.from_numpy(rows)) for rows in (real, gen)]
    theirs = fidelity.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=CLOSE)
    assert ours == pytest.approx(
        updated(image.FrechetInceptionDistance(feature=Identity()), real, gen), rel=CLOSE
    )


@pytest.mark.parametrize("kind", ["plain", "duplicates", "ties"])
def test_kid_with_the_subsets_of_torch_fidelity(kind: str) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    real, gen = sets(kind)
    options = {"kid_subsets": 7, "kid_subset_size": 100, "rng_seed": 5, "verbose": False}
    theirs = fidelity.kid_features_to_metric(torch.from_numpy(real), torch.from_numpy(gen), **options)
    ours = kernel_distance(real, gen, num_subsets=7, max_subset_size=100, seed=5)
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=CLOSE)


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
def test_kid_of_whole_sets_with_torchmetrics(kind: str) -> None:
    image = pytest.importorskip("torchmetrics.image.kid")
    real, gen = sets(kind)
    real = real[: len(gen)]
    theirs = updated(
        image.KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=len(gen)), real, gen
    )
    assert kernel_distance(real, gen, num_subsets=1, max_subset_size=len(gen)) == pytest.approx(
        theirs, rel=CLOSE
    )


@pytest.mark.parametrize("count", [500, 503])
def test_inception_score(count: int) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    logits = torch.from_numpy(np.random.RandomState(0).randn(count, 40) * 3)
    logits[100:150] = logits[:50]
    ours = inception_score(logits.softmax(1).numpy(), num_splits=10)
    theirs = fidelity.isc_features_to_metric(logits, splits=10, shuffle=False)
    assert ours == pytest.approx((theirs["inception_score_mean"], theirs["inception_score_std"]), rel=CLOSE)


def test_inception_score_of_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchmetrics needs parts of equal size, and takes the sample's deviation (over parts less one)."""
    image = pytest.importorskip("torchmetrics.image.inception")
    logits = torch.from_numpy(np.random.RandomState(0).randn(500, WIDTH) * 3)
    metric = image.InceptionScore(feature=Identity(), splits=10).set_dtype(torch.float64)
    metric.update(logits)
    monkeypatch.setattr(torch, "randperm", torch.arange)  # it shuffles, and can't be told not to
    mean, deviation = metric.compute()
    ours = inception_score(logits.softmax(1).numpy(), num_splits=10)
    assert ours == pytest.approx((float(mean), float(deviation) * (9 / 10) ** 0.5), rel=CLOSE)


@pytest.mark.parametrize("save_memory", [False, True])
@pytest.mark.parametrize("nhood_size", [1, 3, 5])
@pytest.mark.parametrize("kind", ["plain", "ties"])
def test_precision_and_recall_with_torch_fidelity(kind: str, nhood_size: int, save_memory: bool) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    real, gen = sets(kind)
    options = {
        "prc_neighborhood": nhood_size,
        "prc_batch_size": 128,
        "save_cpu_ram": save_memory,
        "verbose": False,
    }
    theirs = fidelity.prc_features_to_metric(torch.from_numpy(gen), torch.from_numpy(real), **options)
    assert precision_recall(real, gen, nhood_size) == pytest.approx(
        (theirs["precision"], theirs["recall"]), rel=CLOSE
    )


@pytest.mark.parametrize("nhood_size", [1, 3, 5])
def test_with_prdc(nhood_size: int) -> None:
    prdc = pytest.importorskip("prdc")
    real, gen = sets("plain")
    theirs = prdc.compute_prdc(real, gen, nearest_k=nhood_size)
    assert all_four(real, gen, nhood_size) == pytest.approx(
        {name: float(value) for name, value in theirs.items()}, rel=CLOSE
    )


@pytest.mark.parametrize("nhood_size", [1, 3])
@pytest.mark.parametrize("kind", ["duplicates", "ties"])
def test_with_prdc_where_points_lie_on_surfaces(kind: str, nhood_size: int) -> None:
    """Our closed balls are prdc's open ones with slightly larger radii. Its own values are lower."""
    prdc = pytest.importorskip("prdc.prdc")
    real, gen = sets(kind)
    open_balls = prdc.compute_prdc(real, gen, nearest_k=nhood_size)
    plain = prdc.compute_nearest_neighbour_distances
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prdc, "compute_nearest_neighbour_distances", lambda rows, k: plain(rows, k) + 1e-6)
        closed = prdc.compute_prdc(real, gen, nearest_k=nhood_size)
    ours = all_four(real, gen, nhood_size)
    assert ours == pytest.approx({name: float(value) for name, value in closed.items()}, rel=CLOSE)
    assert all(ours[name] >= open_balls[name] for name in ours)
    assert ours["coverage"] > open_balls["coverage"]


def all_four(real: np.ndarray, gen: np.ndarray, nhood_size: int) -> dict[str, float]:
    precision, recall = precision_recall(real, gen, nhood_size)
    density, coverage = density_coverage(real, gen, nhood_size)
    return {"precision": precision, "recall": recall, "density": density, "coverage": coverage}


def test_identical_sets_of_duplicates() -> None:
    prdc = pytest.importorskip("prdc")
    rows = np.repeat(sets("plain")[0][:50], 8, axis=0)
    assert precision_recall(rows, rows) == (1, 1)
    assert prdc.compute_prdc(rows, rows, nearest_k=3)["precision"] < 1
