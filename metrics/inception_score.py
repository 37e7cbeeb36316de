"""Inception score of class probabilities (Salimans et al. 2016)."""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy

from metrics.statistics import FeatureSet


def inception_score(probs: ArrayLike, num_splits: int) -> tuple[float, float]:
    """``exp(E_x KL(p(y|x) || p(y)))`` on each of ``num_splits`` consecutive parts: mean, standard deviation.

    ``p(y)`` is the mean within the part (Salimans et al. 2016, section 4). Parts differ by at most one row
    when the rows do not divide evenly. A probability of 0 contributes 0.

    Args:
        probs: ``[N, classes]``, rows summing to 1; computed in float64.
        num_splits: number of parts.

    Returns:
        (mean, population standard deviation) over parts.

    Raises:
        ValueError: another shape, or fewer rows than parts.
    """
    p = np.asarray(probs, np.float64)
    if p.ndim != 2 or not 1 <= num_splits <= len(p):
        raise ValueError(
            f"probabilities [N, classes] with N of at least the {num_splits} splits are needed, not {p.shape}"
        )
    edges = np.arange(num_splits + 1) * len(p) // num_splits
    scores = []
    for start, stop in pairwise(edges):
        part = p[start:stop]
        marginal = part.mean(0)
        divergence = xlogy(part, part).sum(1) - xlogy(part, marginal).sum(1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))


def is10(real: None, fake: FeatureSet) -> dict[str, float]:
    """The metric on class probabilities, over 10 parts. The keys follow the metric's name in the results."""
    mean, std = inception_score(fake.features, num_splits=10)
    return {"_mean": mean, "_std": std}
