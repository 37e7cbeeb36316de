"""Kernel distance: unbiased squared maximum mean discrepancy on features (Bińkowski et al. 2018, "KID")."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics.statistics import FeatureSet


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """k(x, y) = (x·y / F + 1)³ of pairs: ``[N, F], [M, F] -> [N, M]`` (Bińkowski et al. 2018, section 4)."""
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def _unbiased_mmd2(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Unbiased estimate of MMD² from m samples each (Bińkowski et al. 2018, eq. 4, with m = n).

    1/(m(m-1)) Σ_{i≠j} [k(x_i, x_j) + k(y_i, y_j)] - 2/m² Σ_{i,j} k(x_i, y_j)
    """
    m = len(x)
    within = _kernel(x, x) + _kernel(y, y)
    off_diagonal = within.sum() - np.trace(within)
    return float(off_diagonal / (m * (m - 1)) - 2 * _kernel(x, y).mean())


def kernel_distance(
    real: ArrayLike, gen: ArrayLike, num_subsets: int, max_subset_size: int, seed: int = 0
) -> float:
    """Mean unbiased MMD² over random subsets, dimensionless; may be slightly below zero.

    Each of ``num_subsets`` rounds draws ``m = min(len(real), len(gen), max_subset_size)`` rows of each set
    without replacement, from ``seed``.

    Args:
        real: features ``[N, F]``; all is computed in float64.
        gen: features ``[M, F]``.
        num_subsets: number of rounds.
        max_subset_size: most rows of each set in a round.
        seed: of the subsets.

    Raises:
        ValueError: shapes that do not fit each other, or subsets of fewer than two rows.
    """
    r, g = np.asarray(real), np.asarray(gen)
    if r.ndim != 2 or g.ndim != 2 or r.shape[1] != g.shape[1]:
        raise ValueError(f"two feature arrays [N, F] and [M, F] are needed, not {r.shape} and {g.shape}")
    m = min(len(r), len(g), max_subset_size)
    if m < 2 or num_subsets < 1:
        raise ValueError(f"at least one subset of at least two rows is needed, not {num_subsets} of {m}")
    rng = np.random.RandomState(seed)

    def draw(rows: NDArray) -> NDArray[np.float64]:
        return rows[rng.choice(len(rows), m, replace=False)].astype(np.float64)

    return float(np.mean([_unbiased_mmd2(draw(r), draw(g)) for _ in range(num_subsets)]))


def kid(real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    """The metric, over the reference's 100 subsets of at most 1,000. The key follows the metric's name."""
    return {"": kernel_distance(real.features, fake.features, num_subsets=100, max_subset_size=1000)}
