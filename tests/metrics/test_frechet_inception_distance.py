import numpy as np
import pytest
import scipy.linalg

from metrics.frechet_inception_distance import frechet_distance


def covariance(seed: int, samples: int, width: int) -> np.ndarray:
    return np.cov(
        np.random.RandomState(seed).randn(samples, width) @ np.diag(np.linspace(0.1, 3, width)), rowvar=False
    )


def test_diagonal_covariances_have_a_closed_form() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 0.25, 1.0])
    value = frechet_distance([0, 0, 1], np.diag(a), [2, 0, 0], np.diag(b))
    assert value == pytest.approx(5 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-12)


def test_agrees_with_the_matrix_square_root() -> None:
    s1, s2 = covariance(0, 200, 16), covariance(1, 200, 16)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = np.trace(s1) + np.trace(s2) - 2 * np.trace(root)
    assert frechet_distance(np.zeros(16), s1, np.zeros(16), s2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("samples", [2, 5, 64])
def test_singular_covariances(samples: int) -> None:
    """With fewer samples than features, the value is that of the subspace that the samples span."""
    s = covariance(0, samples, 64)
    zero = np.zeros(64)
    assert frechet_distance(zero, s, zero, s) == pytest.approx(0, abs=1e-9 * np.trace(s))
    assert frechet_distance(zero, s, zero, 4 * s) == pytest.approx(np.trace(s), rel=1e-9)


def test_never_negative() -> None:
    """Rounding may make the trace of the root larger than the traces, by a little."""
    for seed in range(20):
        s = covariance(seed, 200, 16)
        assert 0 <= frechet_distance(np.ones(16), s, np.ones(16), s) < 1e-9


def test_degenerate_covariances() -> None:
    zero = np.zeros((3, 3))
    assert frechet_distance(np.zeros(3), zero, np.ones(3), zero) == 3
    assert frechet_distance(np.zeros(3), zero, np.zeros(3), np.eye(3)) == 3


def test_symmetric() -> None:
    s1, s2 = covariance(0, 10, 16), covariance(1, 200, 16)
    m1, m2 = np.zeros(16), np.ones(16)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(frechet_distance(m2, s2, m1, s1), rel=1e-7)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="belong together"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.zeros(2), np.eye(2), np.array([0, np.nan]), np.eye(2))
