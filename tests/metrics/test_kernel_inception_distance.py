import numpy as np
import pytest

from metrics import kernel_inception_distance as module
from metrics.kernel_inception_distance import kernel_distance
from metrics.statistics import FeatureSet


def test_is_the_unbiased_estimator() -> None:
    rng = np.random.RandomState(0)
    x, y = rng.randn(7, 3), rng.randn(7, 3) + 1

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / (7 * 6)
    across = sum(k(x[i], y[j]) for i, j in pairs) / 49
    assert kernel_distance(x, y, num_subsets=1, max_subset_size=7) == pytest.approx(
        within - 2 * across, rel=1e-12
    )


def test_subsets_are_drawn_from_the_seed() -> None:
    rng = np.random.RandomState(0)
    x, y = rng.randn(50, 3), rng.randn(60, 3) + 1
    values = [kernel_distance(x, y, num_subsets=3, max_subset_size=10, seed=seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    many = kernel_distance(x, y, num_subsets=400, max_subset_size=40)
    assert many == pytest.approx(kernel_distance(x, y, num_subsets=400, max_subset_size=50), rel=0.1)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="two feature arrays"):
        kernel_distance(np.zeros((4, 2)), np.zeros((4, 3)), 1, 4)
    with pytest.raises(ValueError, match="two rows"):
        kernel_distance(np.zeros((1, 2)), np.zeros((4, 2)), 1, 4)


def test_the_metric_takes_the_references_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, int]] = []
    monkeypatch.setattr(module, "kernel_distance", lambda real, gen, **options: calls.append(options) or 0.0)
    module.kid(FeatureSet(np.zeros((4, 2), np.float32)), FeatureSet(np.zeros((4, 2), np.float32)))
    assert calls == [{"num_subsets": 100, "max_subset_size": 1000}]
