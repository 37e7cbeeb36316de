"""Fréchet distance between two normal distributions fitted to features (Heusel et al. 2017, "FID")."""

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from metrics.statistics import Moments


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """Squared Fréchet distance of N(mu1, sigma1) and N(mu2, sigma2), in squared feature units.

    ``|mu1 - mu2|^2 + tr(sigma1) + tr(sigma2) - 2 tr((sigma1 sigma2)^(1/2))``   (Heusel et al. 2017, eq. 6)

    With ``sigma1 = F F^T``, the eigenvalues of ``sigma1 sigma2`` are those of the symmetric positive
    semi-definite ``F^T sigma2 F``. The last trace is a sum of real square roots, so the value is neither
    complex nor NaN. ``F`` has one column for each eigenvalue of sigma1 above rounding error, which keeps
    singular covariances (fewer samples than features) exact.

    Args:
        mu1: mean ``[F]``; all is computed in float64.
        sigma1: covariance ``[F, F]``.
        mu2: mean ``[F]``.
        sigma2: covariance ``[F, F]``.

    Raises:
        ValueError: shapes that do not fit each other, or values that are not finite.
    """
    m1, m2 = np.asarray(mu1, np.float64), np.asarray(mu2, np.float64)
    s1, s2 = np.asarray(sigma1, np.float64), np.asarray(sigma2, np.float64)
    if m1.ndim != 1 or m2.shape != m1.shape or s1.shape != (len(m1), len(m1)) or s2.shape != s1.shape:
        raise ValueError(
            f"means and covariances do not belong together: {m1.shape}, {s1.shape}, {m2.shape}, {s2.shape}"
        )
    if not all(np.isfinite(a).all() for a in (m1, s1, m2, s2)):
        raise ValueError("means and covariances must be finite")
    values, vectors = scipy.linalg.eigh(s1)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    factor = vectors[:, kept] * np.sqrt(values[kept])
    product = factor.T @ s2 @ factor
    spectrum = scipy.linalg.eigvalsh((product + product.T) / 2)
    root_trace = np.sqrt(spectrum.clip(min=0)).sum()
    distance = np.square(m1 - m2).sum() + np.trace(s1) + np.trace(s2) - 2 * root_trace
    return float(max(distance, 0.0))


def fid(real: Moments, fake: Moments) -> dict[str, float]:
    """The metric on fitted moments. The key is what follows the metric's name in the results."""
    return {"": frechet_distance(fake.mean, fake.covariance, real.mean, real.covariance)}
