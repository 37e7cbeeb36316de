"""How two sets of features overlap: precision, recall, density and coverage from one pass over all pairs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from metrics.neighbours import Features, pairs_within, points, squared_radii


@dataclass(frozen=True)
class Overlap:
    """How far generated samples and reals lie in each other's k-nearest-neighbour balls.

    ``precision`` is a fraction of generated samples, ``recall`` and ``coverage`` are fractions of reals,
    and ``density`` is a mean number of balls over k.

    ``recall`` is None where balls about the generated samples were not looked at. For definitions and
    conventions see
    :func:`metrics.precision_recall.precision_recall` and :func:`metrics.density_coverage.density_coverage`.
    """

    precision: float
    recall: float | None
    density: float
    coverage: float


@dataclass(frozen=True)
class FromOverlap:
    """How a metric's values come from an :class:`Overlap`.

    Attributes:
        nhood_size: of the neighbourhood.
        recall: whether the metric has recall.
        values: its numbers, by what follows the metric's name.
    """

    nhood_size: int
    recall: bool
    values: Callable[[Overlap], dict[str, float]]


def overlaps(
    real: Features, gen: Features, nhood_sizes: Collection[int], *, recall: bool = True
) -> dict[int, Overlap]:
    """One :class:`Overlap` for each neighbourhood, from one pass over all pairs of samples.

    Comparisons are exact (see :mod:`metrics.neighbours`) and made on the features' device. Beside the
    features, memory is ``4 F (N + M)`` bytes and 0.1 to 0.4 GiB for tiles.

    Args:
        real: array or tensor ``[N, F]``, N above every neighbourhood.
        gen: array or tensor ``[M, F]``, M above every neighbourhood.
        nhood_sizes: numbers of neighbours.
        recall: whether recall is computed too, which needs the balls about the generated samples.

    Raises:
        ValueError: other shapes, too few samples, or features that are not finite.
    """
    ks = sorted(set(nhood_sizes))
    if ks[0] < 1:
        raise ValueError(f"a neighbourhood must have at least 1 sample, not {ks[0]}")
    r, g = points(real, gen, fewest=ks[-1] + 1)
    radii = squared_radii(r, ks), squared_radii(g, ks) if recall else None

    def none(count: int) -> torch.Tensor:
        return torch.zeros(len(ks), count, dtype=torch.bool, device=r.rows.device)

    hit_gen, hit_real, recalled = none(len(g)), none(len(r)), none(len(r))
    hits = torch.zeros(len(ks), dtype=torch.int64, device=r.rows.device)
    for i, j, in_real, in_gen in pairs_within(r, g, *radii):
        hits += in_real.sum(1)
        for n in range(len(ks)):
            hit_gen[n, j[in_real[n]]] = True
            hit_real[n, i[in_real[n]]] = True
            recalled[n, i[in_gen[n]]] = True
    return {
        k: Overlap(
            precision=int(hit_gen[n].sum()) / len(g),
            recall=int(recalled[n].sum()) / len(r) if recall else None,
            density=int(hits[n]) / (k * len(g)),
            coverage=int(hit_real[n].sum()) / len(r),
        )
        for n, k in enumerate(ks)
    }
