import numpy as np
import pytest

from metrics.statistics import FeatureCollector, MomentsCollector

ROWS = np.random.RandomState(0).randn(1300, 6).astype(np.float32) * np.arange(1, 7, dtype=np.float32)


def moments(rows: np.ndarray, batch: int, max_count: int) -> MomentsCollector:
    collector = MomentsCollector(max_count)
    for start in range(0, len(rows), batch):
        collector.append(rows[start : start + batch])
    return collector


def test_moments() -> None:
    found = moments(ROWS, 100, 1300).result()
    assert found.count == 1300
    np.testing.assert_allclose(found.mean, ROWS.astype(np.float64).mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        found.covariance, np.cov(ROWS.astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("batch", [1, 37, 512, 2000])
def test_batch_size_changes_no_bit(batch: int) -> None:
    found, expected = moments(ROWS, batch, 1300).result(), moments(ROWS, 100, 1300).result()
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.covariance, expected.covariance)


def test_features_far_from_zero_lose_no_digits() -> None:
    far = (ROWS + 1e6).astype(np.float32)
    found = moments(far, 100, 1300).result()
    np.testing.assert_allclose(
        found.covariance, np.cov(far.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-9
    )


def test_a_result_can_be_read_in_between() -> None:
    collector = MomentsCollector(1300)
    collector.append(ROWS[:700])
    first = collector.result()
    np.testing.assert_allclose(
        first.covariance, np.cov(ROWS[:700].astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-10
    )
    collector.append(ROWS[700:])
    assert np.array_equal(collector.result().covariance, moments(ROWS, 100, 1300).result().covariance)


def test_rows_beyond_the_maximum_are_left_out() -> None:
    capped = moments(ROWS, 100, 250)
    assert capped.full
    assert capped.count == 250
    assert np.array_equal(capped.result().covariance, moments(ROWS[:250], 100, 250).result().covariance)


@pytest.mark.parametrize("batch", [1, 30, 1000])
def test_feature_collector(batch: int) -> None:
    collector = FeatureCollector(70)
    for start in range(0, 200, batch):
        collector.append(ROWS[start : start + batch])
    assert collector.full
    assert np.array_equal(collector.result().features, ROWS[:70])


def test_feature_collector_that_is_not_full() -> None:
    collector = FeatureCollector(70)
    collector.append(ROWS[:5])
    assert not collector.full
    assert np.array_equal(collector.result().features, ROWS[:5])
    assert collector.result().count == 5


def test_wrong_input() -> None:
    collector = FeatureCollector(10)
    collector.append(ROWS[:2])
    with pytest.raises(ValueError, match=r"\[N, 6\]"):
        collector.append(ROWS[:2, :3])
    with pytest.raises(ValueError, match=r"\[N, F\]"):
        FeatureCollector(10).append(ROWS[0])
    with pytest.raises(ValueError, match="at least one row"):
        FeatureCollector(0)
    with pytest.raises(ValueError, match="two samples"):
        moments(ROWS[:1], 1, 10).result()
