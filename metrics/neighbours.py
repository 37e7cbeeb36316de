"""Nearest neighbours and balls among many feature vectors: exact, in bounded memory, mostly in float32.

For rows x and y, shifted to a common centre and rounded to float32, ``|x|² + |y|² - 2 x·y`` misses their true
squared distance by no more than ``η (|x|² + |y|²)``, in whatever order a matrix product sums (Higham 2002,
*Accuracy and Stability of Numerical Algorithms*, section 3.1). That decides nearly every comparison of a
distance with a radius. The few that it leaves open are decided by the distance in float64, of the rows as
they were given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torch_utils.device import full_float32

Features = NDArray[np.floating] | Tensor

# Distances are computed in tiles of at most TILE x TILE, whatever the number of samples.
TILE = 1024

# Candidates for the k-th neighbour kept beyond k, so that rounding in float32 can't push the right one out.
SPARE = 4

# Squared distances nearer to each other than this fraction of |x|² + |y|² are equal: they differ by float64
# rounding (a few 1e-16), far below the resolution of float32 features (1e-7).
TIE = 1e-12

# Of the pairs in a tile, the fraction from which on one float64 matrix product is faster than a distance for
# each pair.
CROWDED = 1 / 32

# More than underflow can change in a squared distance of rows that are scaled to at most 1 an element.
UNDERFLOW = 1e-30


@dataclass(frozen=True, eq=False)
class Points:
    """Rows of features, and what bounds their distances. Distances are in units of ``scale``.

    Attributes:
        rows: as given, ``[N, F]``.
        centre, scale: ``[F]`` float64, and the power of two that brings every element of ``rows - centre`` to
            at most 1.
        lean: ``(rows - centre) / scale`` in float32.
        norms: squared lengths of ``lean``, ``[N]`` float64.
    """

    rows: Tensor
    centre: Tensor
    scale: float
    lean: Tensor
    norms: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def error(self) -> float:
        """η: covers products and sums twice over, and in the 16 units rounding to float32 and TIE."""
        units = (self.rows.shape[1] + 16) * 2.0**-24
        return 2 * units / (1 - units)

    @property
    def blocks(self) -> list[range]:
        """The rows, in ranges of at most TILE."""
        return [range(start, min(start + TILE, len(self))) for start in range(0, len(self), TILE)]

    def exact(self, rows: Tensor | slice) -> Tensor:
        """Some rows, shifted and scaled, in float64."""
        return (self.rows[rows].double() - self.centre) / self.scale


def points(first: Features, second: Features, fewest: int) -> tuple[Points, Points]:
    """Two sets ``[N, F]`` and ``[M, F]`` about one centre, their mean, on the device they are on.

    Takes ``4 F (N + M)`` bytes beside the features, and a twentieth of a GiB for rows at work.
    Raises :class:`ValueError` on other shapes, fewer than ``fewest`` rows, and values that are not finite.
    """
    sets = [torch.as_tensor(features) for features in (first, second)]
    for rows, what in zip(sets, ("real", "generated"), strict=True):
        if rows.ndim != 2:
            raise ValueError(f"{what} features must be [N, F], not {tuple(rows.shape)}")
        if len(rows) < fewest:
            raise ValueError(f"at least {fewest} {what} samples are needed, not {len(rows)}")
        if not all(block.isfinite().all() for block in rows.split(_rows_at_work(rows))):
            raise ValueError(f"{what} features must be finite")
    if sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(
            f"real and generated features differ in width: {sets[0].shape[1]} and {sets[1].shape[1]}"
        )
    blocks = [block for rows in sets for block in rows.split(_rows_at_work(rows))]
    centre = torch.zeros(sets[0].shape[1], dtype=torch.float64, device=sets[0].device)
    for block in blocks:
        centre += block.double().sum(0)
    centre /= sum(map(len, sets))
    largest = max(float((block.double() - centre).abs().max()) for block in blocks)
    scale = float(2.0 ** np.ceil(np.log2(largest))) if largest > 0 else 1.0
    one, other = (_shifted(rows, centre, scale) for rows in sets)
    return one, other


def _shifted(rows: Tensor, centre: Tensor, scale: float) -> Points:
    lean = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    norms = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), _rows_at_work(rows)):
        block = slice(start, start + _rows_at_work(rows))
        lean[block] = (rows[block].double() - centre) / scale
        norms[block] = lean[block].double().square().sum(1)
    return Points(rows, centre, scale, lean, norms)


def _rows_at_work(rows: Tensor) -> int:
    """How many rows make 8 MiB in float64."""
    return max(1, 2**20 // max(rows.shape[1], 1))


def squared_radii(a: Points, ks: Sequence[int]) -> Tensor:
    """Squared distance of each row to its k-th nearest other row, for each of ``ks``: float64 ``[K, N]``.

    Each pair is looked at once. Duplicates count as neighbours, at distance 0.
    """
    low = torch.full((len(a), max(ks) + SPARE), torch.inf, device=a.lean.device)
    who = torch.zeros(low.shape, dtype=torch.int64, device=a.lean.device)
    for rows in a.blocks:  # every row's first candidates
        bounds = _lower_bounds(a, rows, a, rows)
        bounds.fill_diagonal_(torch.inf)
        _keep_nearest_of_tile(low, who, bounds, rows, rows)
    for number, rows in enumerate(a.blocks):
        for columns in a.blocks[number + 1 :]:
            bounds = _lower_bounds(a, rows, a, columns)
            r, c = _pairs_below(
                bounds, low[rows.start : rows.stop, -1], low[columns.start : columns.stop, -1]
            )
            if len(r) < CROWDED * bounds.numel():
                i, j, values = r + rows.start, c + columns.start, bounds[r, c]
                _keep_nearest(low, who, i, j, values)
                order = j.argsort()
                _keep_nearest(low, who, j[order], i[order], values[order])
            else:
                _keep_nearest_of_tile(low, who, bounds, rows, columns)
                _keep_nearest_of_tile(low, who, bounds.t().contiguous(), columns, rows)
    return torch.stack([_radii(a, low, who, k) for k in ks])


def _radii(a: Points, low: Tensor, who: Tensor, k: int) -> Tensor:
    """For one k, from each row's candidates."""
    radii = _kth_distance(a, low.double(), who, k)
    # Whoever is not among a row's candidates is at least as far as the last of them.
    undecided = (radii > low[:, -1]).nonzero().squeeze(1)
    for start in range(0, len(undecided), TILE):
        these = undecided[start : start + TILE]
        radii[these] = _kth_distance_of_all(a, these, k)
    return radii


def pairs_within(
    a: Points, b: Points, radii_a: Tensor, radii_b: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """All pairs nearer to each other than the radius of one of them, in parts.

    A point on a ball's surface is inside. Args: squared radii of balls about ``a`` and, where those matter,
    about ``b``: ``[K, N]`` and ``[K, M]``. Yields ``(i, j, in_a, in_b)``: indices ``[P]`` into ``a`` and
    ``b``, whether j is in the balls about i, and i in those about j, ``[K, P]``.
    """
    if radii_b is None:
        radii_b = radii_a.new_full((len(radii_a), len(b)), -torch.inf)
    # Rounding loses no pair: the bounds leave more room than that.
    most_a, most_b = radii_a.amax(0).float(), radii_b.amax(0).float()
    for rows in a.blocks:
        for columns in b.blocks:
            bounds = _lower_bounds(a, rows, b, columns)
            r, c = _pairs_below(bounds, most_a[rows.start : rows.stop], most_b[columns.start : columns.stop])
            i, j = r + rows.start, c + columns.start
            low, sizes = bounds[r, c].double(), a.norms[i] + b.norms[j]
            # An upper bound, which decides wherever it agrees with the lower one.
            squared = low + 2 * a.error * sizes + 2 * UNDERFLOW
            limits_a, limits_b = radii_a[:, i], radii_b[:, j]
            unsure = (
                ((low <= limits_a) & (squared > limits_a)) | ((low <= limits_b) & (squared > limits_b))
            ).any(0)
            if unsure.any():
                squared[unsure] = (
                    _squared_distances(a, i[unsure], b, j[unsure], rows, columns) - TIE * sizes[unsure]
                )
            yield i, j, squared <= limits_a, squared <= limits_b


def _lower_bounds(a: Points, rows: range, b: Points, columns: range) -> Tensor:
    """Lower bounds of squared distance less TIE, for all pairs of two blocks: float32 ``[R, C]``."""
    x, y = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
    ours, theirs = (((1 - a.error) * norms - UNDERFLOW / 2).float() for norms in (a.norms[x], b.norms[y]))
    with full_float32():
        return (ours[:, None] + theirs[None, :]).addmm_(a.lean[x], b.lean[y].T, alpha=-2)


def _pairs_below(bounds: Tensor, most_rows: Tensor, most_columns: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries of a tile ``[R, C]`` at most their row's or their column's threshold.

    Thresholds are ``[R]`` and ``[C]``. The entries are sorted by row.
    """
    places = (
        (bounds <= torch.maximum(most_rows[:, None], most_columns[None, :])).flatten().nonzero().squeeze(1)
    )
    rows = places // bounds.shape[1]
    return rows, places - rows * bounds.shape[1]


def _keep_nearest_of_tile(low: Tensor, who: Tensor, bounds: Tensor, rows: range, columns: range) -> None:
    """Merge a whole tile ``[R, C]`` into the candidates of its rows.

    Candidates are sorted by ``low`` (``[N, K]``, in place).
    """
    kept = slice(rows.start, rows.stop)
    new = bounds.topk(min(low.shape[1], bounds.shape[1]), dim=1, largest=False)
    low[kept], who[kept] = _nearest(low[kept], who[kept], new.values, new.indices + columns.start)


def _keep_nearest(low: Tensor, who: Tensor, i: Tensor, j: Tensor, values: Tensor) -> None:
    """Merge some pairs ``[P]``, in the order of ``i``, into the candidates of rows ``i``."""
    if not len(i):
        return
    rows, place, counts = i.unique_consecutive(return_inverse=True, return_counts=True)
    column = torch.arange(len(i), device=i.device) - (counts.cumsum(0) - counts)[place]
    new = low.new_full((len(rows), int(counts.max())), torch.inf)
    new_who = who.new_zeros(new.shape)
    new[place, column], new_who[place, column] = values, j
    low[rows], who[rows] = _nearest(low[rows], who[rows], new, new_who)


def _nearest(low: Tensor, who: Tensor, new: Tensor, new_who: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest ``K`` of ``[R, K]`` old and ``[R, L]`` new candidates, sorted, and who they are."""
    merged = torch.cat([low, new], dim=1).topk(low.shape[1], dim=1, largest=False)
    return merged.values, torch.cat([who, new_who], dim=1).gather(1, merged.indices)


def _kth_distance(a: Points, low: Tensor, who: Tensor, k: int) -> Tensor:
    """The k-th smallest squared distance among each row's candidates, given sorted lower bounds ``[N, K]``.

    A candidate whose interval of possible distances lies wholly below or above that of the k-th keeps its
    bound: of it, only the rank matters.
    """
    itself = torch.arange(len(a), device=low.device)[:, None].expand_as(who)
    high = low + 2 * a.error * (a.norms[itself] + a.norms[who]) + 2 * UNDERFLOW
    unsure = (low <= high.kthvalue(k, dim=1, keepdim=True).values) & (high >= low[:, k - 1 : k])
    squared = low.clone()
    squared[unsure] = _distances_of_pairs(a, itself[unsure], a, who[unsure])
    return squared.kthvalue(k, dim=1).values


def _kth_distance_of_all(a: Points, these: Tensor, k: int) -> Tensor:
    """For some rows ``[R]``, from float64 products with all rows."""
    mine = a.exact(these)
    nearest = torch.full((len(these), k), torch.inf, dtype=torch.float64, device=mine.device)
    for columns in a.blocks:
        tile = _distance_products(mine, a.exact(slice(columns.start, columns.stop)))
        tile[these[:, None] == torch.arange(columns.start, columns.stop, device=mine.device)] = torch.inf
        nearest = torch.cat([nearest, tile], dim=1).topk(k, dim=1, largest=False).values
    return nearest.amax(1)


def _squared_distances(a: Points, i: Tensor, b: Points, j: Tensor, rows: range, columns: range) -> Tensor:
    """In float64, for pairs within a tile: one product of the whole tile when they are many."""
    if len(i) < CROWDED * len(rows) * len(columns):
        return _distances_of_pairs(a, i, b, j)
    tile = _distance_products(
        a.exact(slice(rows.start, rows.stop)), b.exact(slice(columns.start, columns.stop))
    )
    return tile[i - rows.start, j - columns.start]


def _distances_of_pairs(a: Points, i: Tensor, b: Points, j: Tensor) -> Tensor:
    squared = torch.empty(len(i), dtype=torch.float64, device=i.device)
    for start in range(0, len(i), _rows_at_work(a.rows)):
        part = slice(start, start + _rows_at_work(a.rows))
        squared[part] = (a.exact(i[part]) - b.exact(j[part])).square().sum(1)
    return squared


def _distance_products(x: Tensor, y: Tensor) -> Tensor:
    scale = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
    return scale.addmm_(x, y.T, alpha=-2)
