"""A Gaussian fitted to features, and how likely it finds others: what sorts samples from worst to best.

Kumari et al. 2022 (Vision-aided GAN) sort generated images so, and Lee et al. 2022 (GGDR, figure 6b) after
them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics.statistics import Moments

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance) over features of width F, with the covariance as its eigenvectors and eigenvalues.

    Attributes:
        mean: ``[F]``.
        axes: ``[F, F]``, an eigenvector a column.
        variances: ``[F]``, above 0, along ``axes``.
        shrinkage: 0 … 1, how far the covariance was moved towards a multiple of the identity
            (:func:`oas_shrinkage`).
    """

    mean: Array
    axes: Array
    variances: Array
    shrinkage: float

    def log_likelihood(self, features: ArrayLike) -> Array:
        """``log N(x; mean, covariance)`` in nats of each row: ``[N, F]`` to ``[N]``.

        Raises :class:`ValueError` on other shapes.
        """
        rows = np.asarray(features, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"features must be [N, {len(self.mean)}], not {list(rows.shape)}")
        along = (rows - self.mean) @ self.axes
        distances: Array = (along**2 / self.variances).sum(axis=1)  # squared Mahalanobis distance
        return -0.5 * (distances + np.log(2 * np.pi * self.variances).sum())


def fit_gaussian(moments: Moments) -> Gaussian:
    """The Gaussian of some moments, its covariance shrunk so that it can be inverted.

    With fewer samples than features (2048 of Inception's, 1,854 emoji) the covariance is singular, and long
    before that its smallest eigenvalues are noise, which the likelihood divides by. It is therefore replaced
    by ``(1 − ρ) S + ρ tr(S)/F I``, with ρ from :func:`oas_shrinkage`. All directions count, those the reals
    never vary in too.

    Raises :class:`ValueError` when the samples do not vary at all.
    """
    covariance = moments.covariance * ((moments.count - 1) / moments.count)
    rho = oas_shrinkage(covariance, moments.count)
    variances, axes = np.linalg.eigh(covariance)
    shrunk = (1 - rho) * variances.clip(min=0) + rho * variances.mean()
    if not shrunk.min() > 0:
        raise ValueError("the features do not vary: there is no Gaussian to fit")
    return Gaussian(moments.mean, axes, shrunk, rho)


def oas_shrinkage(covariance: Array, count: int) -> float:
    """Weight ρ of the identity in oracle approximating shrinkage (Chen et al. 2010, equation 23).

    Args:
        covariance: ``[F, F]``, the maximum likelihood estimate S (divided by the number of samples).
        count: that number, n.

    Returns:
        ``((1 − 2/F) tr(S²) + tr(S)²) / ((n + 1 − 2/F) (tr(S²) − tr(S)²/F))``, at most 1: the estimate with
        the least expected squared error if the data are Gaussian. 1 where S is a multiple of the identity.
    """
    width = len(covariance)
    square_of_trace = float(np.trace(covariance)) ** 2
    trace_of_square = float((covariance**2).sum())
    spread = (count + 1 - 2 / width) * (trace_of_square - square_of_trace / width)
    weight = (1 - 2 / width) * trace_of_square + square_of_trace
    return 1.0 if spread <= weight else weight / spread
