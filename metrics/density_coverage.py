"""Density and coverage from k-nearest-neighbour balls about the reals (Naeem et al. 2020)."""

import torch

from metrics.neighbours import Features, pairs_within, points, squared_radii
from metrics.statistics import FeatureSet


def density_coverage(real: Features, gen: Features, nhood_size: int = 5) -> tuple[float, float]:
    """Density: how many balls about reals a generated sample is in, on average, over ``nhood_size`` (Naeem et al. 2020,
    eq. 4). Coverage: the fraction of reals whose ball holds a generated sample (eq. 5).

    A ball is as large as the distance to the sample's ``nhood_size``-th nearest neighbour among the reals, itself not
    counted; duplicates are neighbours. Its surface is inside, as in :func:`metrics.precision_recall.precision_recall`, so
    that a real that has many duplicates is covered by one more; the authors' prdc leaves the surface out. Density may be
    above 1; coverage depends on ``gen``'s size. Exactness and memory are those of precision and recall.

    Args: arrays or tensors ``[N, F]`` and ``[M, F]`` with N and M above ``nhood_size``.
    Returns: (density, coverage).
    Raises :class:`ValueError` on other shapes, too few samples, and features that are not finite.
    """
    if nhood_size < 1:
        raise ValueError(f"a neighbourhood must have at least 1 sample, not {nhood_size}")
    r, g = points(real, gen, fewest=nhood_size + 1)
    covered, hits = torch.zeros(len(r), dtype=torch.bool, device=r.rows.device), 0
    for i, _, inside, _ in pairs_within(r, g, squared_radii(r, nhood_size)):
        covered[i[inside]] = True
        hits += int(inside.sum())
    return hits / (nhood_size * len(g)), int(covered.sum()) / len(r)


def dc5(real: FeatureSet, fake: FeatureSet, device: torch.device) -> dict[str, float]:
    """The metric with neighbourhood 5. The keys are what follows the metric's name in the results."""
    density, coverage = density_coverage(real.on(device), fake.on(device), nhood_size=5)
    return {"_density": density, "_coverage": coverage}
