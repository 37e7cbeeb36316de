"""metrics.gaussian: the fit, its shrinkage, and the order of samples."""

import numpy as np
import pytest
import scipy.stats

from metrics.gaussian import fit_gaussian, oas_shrinkage
from metrics.statistics import Moments, MomentsCollector


def moments_of(rows: np.ndarray) -> Moments:
    collector = MomentsCollector(len(rows))
    collector.append(rows)
    return collector.result()


def samples(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows whose features have standard deviations 1 to 3 about a mean far from 0, and are mixed."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal([width, width]))[0]
    rows = (rng.standard_normal([count, width]) * np.linspace(1, 3, width)) @ mixing + 50
    return np.asarray(rows, np.float32)


def test_log_likelihood_is_that_of_the_shrunk_covariance() -> None:
    rows = samples(40, 6)
    gaussian = fit_gaussian(moments_of(rows))
    covariance = np.cov(rows.T, bias=True)
    rho = oas_shrinkage(covariance, 40)
    assert 0 < rho < 1
    assert gaussian.shrinkage == pytest.approx(rho)
    shrunk = (1 - rho) * covariance + rho * np.trace(covariance) / 6 * np.eye(6)
    expected = scipy.stats.multivariate_normal(rows.mean(0), shrunk).logpdf(rows)
    np.testing.assert_allclose(gaussian.log_likelihood(rows), expected, rtol=1e-5)


def test_samples_are_ordered_by_their_distance_in_standard_deviations() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal([5000, 2]) * [10, 0.1]
    gaussian = fit_gaussian(moments_of(rows))
    assert gaussian.shrinkage < 0.01
    # The second is farther away than the third, but in the direction in which the data vary.
    probes = np.array([[0, 0], [15, 0], [0, 10], [0, 20]])
    assert np.argsort(gaussian.log_likelihood(probes)).tolist() == [3, 2, 1, 0]


def test_fewer_samples_than_features() -> None:
    rng = np.random.default_rng(1)
    rows = np.zeros([20, 64])
    rows[:, :8] = rng.standard_normal([20, 8])
    gaussian = fit_gaussian(moments_of(rows))
    within, outside = np.zeros([1, 64]), np.zeros([1, 64])
    within[0, 0] = outside[0, 40] = 3
    inside, off = gaussian.log_likelihood(np.concatenate([within, outside]))
    assert np.isfinite([inside, off]).all()
    assert off < inside


def test_an_eigenvalue_that_rounding_made_negative() -> None:
    gaussian = fit_gaussian(Moments(10**12, np.zeros(3), np.diag([1.0, 1.0, -1e-9])))
    assert (gaussian.variances > 0).all()
    assert gaussian.shrinkage < 1e-11


def test_shrinkage_by_hand() -> None:
    assert oas_shrinkage(np.diag([3.0, 1.0]), 10) == pytest.approx(16 / (10 * 2))
    assert oas_shrinkage(np.diag([4.0, 2.0, 1.0, 1.0]), 20) == pytest.approx((0.5 * 22 + 64) / (20.5 * 6))
    assert oas_shrinkage(np.diag([4.0, 2.0, 1.0, 1.0]), 3) == 1
    assert oas_shrinkage(np.eye(5), 1000) == 1


def test_features_that_do_not_vary_and_other_shapes() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        fit_gaussian(moments_of(np.ones([10, 3])))
    gaussian = fit_gaussian(moments_of(samples(10, 3)))
    for shape in ([3], [2, 4]):
        with pytest.raises(ValueError, match="must be"):
            gaussian.log_likelihood(np.zeros(shape))
