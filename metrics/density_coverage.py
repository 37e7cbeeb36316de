"""Density and coverage from k-nearest-neighbour balls about the reals (Naeem et al. 2020)."""

from metrics.neighbours import Features
from metrics.overlap import FromOverlap, overlaps


def density_coverage(real: Features, gen: Features, nhood_size: int = 5) -> tuple[float, float]:
    """Density and coverage of generated samples (Naeem et al. 2020).

    Density (eq. 4): how many balls about reals a generated sample is in, on average, over ``nhood_size``.
    Coverage (eq. 5): the fraction of reals whose ball holds a generated sample.

    The radius is the distance to the ``nhood_size``-th nearest other real; duplicates are neighbours. Its
    surface is inside, as in :func:`metrics.precision_recall.precision_recall`; the authors' prdc leaves the
    surface out. Density may be above 1. Coverage depends on the size of ``gen``. Exactness and memory are
    those of precision and recall.

    Args:
        real: array or tensor ``[N, F]``, N above ``nhood_size``.
        gen: array or tensor ``[M, F]``, M above ``nhood_size``.
        nhood_size: which nearest neighbour makes a ball's radius.

    Returns:
        (density, coverage).

    Raises:
        ValueError: other shapes, too few samples, or features that are not finite.
    """
    found = overlaps(real, gen, [nhood_size], recall=False)[nhood_size]
    return found.density, found.coverage


# The metric with neighbourhood 5. The keys are what follows the metric's name in the results.
DC5 = FromOverlap(
    nhood_size=5, recall=False, values=lambda found: {"_density": found.density, "_coverage": found.coverage}
)
