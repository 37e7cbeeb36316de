"""Improved precision and recall from k-nearest-neighbour manifolds (Kynkäänniemi et al. 2019)."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = NDArray[np.floating] | Tensor

# A tile of distances is at most ROWS x COLUMNS float64 values (32 MiB), whatever the number of samples.
ROWS, COLUMNS = 1024, 4096

# Squared distances nearer to each other than this fraction of |a|² + |b|² are equal: they differ by the
# rounding of the matrix product (a few 1e-16), far below the resolution of float32 features (1e-7).
TIE = 1e-12


class HasFeatures(Protocol):
    """What :func:`pr3` reads: features ``[N, F]``."""

    @property
    def features(self) -> NDArray[np.float32]: ...


def _as_matrix(features: Features, what: str, nhood_size: int) -> Tensor:
    matrix = torch.as_tensor(features)
    if matrix.ndim != 2:
        raise ValueError(f"{what} features must be [N, F], not {tuple(matrix.shape)}")
    if nhood_size < 1 or len(matrix) <= nhood_size:
        raise ValueError(f"a neighbourhood of {nhood_size} needs more than {nhood_size} {what} samples, not {len(matrix)}")
    if not matrix.isfinite().all():
        raise ValueError(f"{what} features must be finite")
    return matrix


def _distances(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances of all pairs of two float64 blocks and what counts as a tie, both ``[R, C]``."""
    scale = rows.square().sum(1)[:, None] + columns.square().sum(1)[None, :]
    return torch.addmm(scale, rows, columns.T, alpha=-2).clamp_(min=0), scale.mul_(TIE)


def _squared_radii(features: Tensor, nhood_size: int) -> Tensor:
    """Squared distance of every sample to its ``nhood_size``-th nearest other sample: ``[N, F] -> [N]`` float64."""
    radii = []
    for rows in features.split(ROWS):
        rows = rows.double()
        nearest = torch.empty(len(rows), 0, dtype=torch.float64, device=features.device)
        for columns in features.split(COLUMNS):
            tile = torch.cat([nearest, _distances(rows, columns.double())[0]], dim=1)
            nearest = tile.topk(min(nhood_size + 1, tile.shape[1]), dim=1, largest=False, sorted=True).values
        radii.append(nearest[:, nhood_size])  # entry 0 is the sample itself, at distance 0
    return torch.cat(radii)


def _fraction_covered(probes: Tensor, manifold: Tensor, squared_radii: Tensor) -> float:
    """Fraction of probes within the ball of at least one manifold sample (Kynkäänniemi et al. 2019, eq. 1)."""
    covered = 0
    for rows in probes.split(ROWS):
        rows = rows.double()
        hit = torch.zeros(len(rows), dtype=torch.bool, device=probes.device)
        for columns, radii in zip(manifold.split(COLUMNS), squared_radii.split(COLUMNS), strict=True):
            squared, tie = _distances(rows, columns.double())
            hit |= (squared <= radii + tie).any(dim=1)
        covered += int(hit.sum())
    return covered / len(probes)


def precision_recall(real: Features, gen: Features, nhood_size: int = 3) -> tuple[float, float]:
    """Precision: fraction of ``gen`` inside the manifold of ``real``. Recall: the other way round.

    A manifold is the union of balls about its samples, each as large as the distance to the sample's
    ``nhood_size``-th nearest neighbour, itself not counted (Kynkäänniemi et al. 2019, eq. 1 and 2). The
    convention is the reference's: a point exactly on a ball's surface is inside, and duplicates of a sample
    count as its neighbours (so that identical sets always have precision and recall 1).

    Distances are computed in float64 on the features' device, tile by tile: beside the features, memory is
    bounded by a few tiles of ROWS x COLUMNS and the float64 copy of ROWS + COLUMNS feature rows.

    Args: arrays or tensors ``[N, F]`` and ``[M, F]`` with N and M above ``nhood_size``.
    Returns: (precision, recall), each within [0, 1].
    Raises :class:`ValueError` on other shapes, too few samples, and features that are not finite.
    """
    r, g = _as_matrix(real, "real", nhood_size), _as_matrix(gen, "generated", nhood_size)
    if r.shape[1] != g.shape[1]:
        raise ValueError(f"real and generated features differ in width: {r.shape[1]} and {g.shape[1]}")
    precision = _fraction_covered(g, r, _squared_radii(r, nhood_size))
    recall = _fraction_covered(r, g, _squared_radii(g, nhood_size))
    return precision, recall


def pr3(real: HasFeatures, fake: HasFeatures) -> dict[str, float]:
    """The metric with neighbourhood 3. The keys are what follows the metric's name in the results."""
    precision, recall = precision_recall(real.features, fake.features, nhood_size=3)
    return {"_precision": precision, "_recall": recall}
