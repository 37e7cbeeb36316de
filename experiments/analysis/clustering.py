"""Clusters of feature maps' pixels as pictures (Lee et al. 2022, figures 3 and 8; Collins et al. 2020)."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dnnlib.errors import UserError
from dnnlib.optional import optional_import
from torch_utils.seeding import derive_seed

Labels = NDArray[np.int64]

#: Colours of clusters, ``[K, 3]``: the Okabe-Ito palette, which colour-blind readers can tell apart, and
#: four more.
PALETTE = np.array(
    [
        *(
            [230, 159, 0],
            [86, 180, 233],
            [0, 158, 115],
            [240, 228, 66],
            [0, 114, 178],
            [213, 94, 0],
            [204, 121, 167],
            [0, 0, 0],
        ),
        *([153, 153, 153], [136, 34, 85], [51, 34, 136], [221, 221, 221]),
    ],
    dtype=np.uint8,
)

#: Centres are fitted to at most this many pixels.
MAX_FITTED = 2**16

_MAX_STEPS = 300
_CHUNK = 2**16


def cluster_pixels(maps: torch.Tensor, k: int, seed: int) -> Labels:
    """Spherical k-means over the pixels of all samples: ``[N, C, H, W]`` to cluster numbers ``[N, H, W]``.

    Pixels become unit vectors. scikit-learn's k-means++ with 10 starts gives the first centres. Then pixels
    go to the centre of largest cosine, and centres to the direction of their pixels' sum, until nothing moves
    (Dhillon and Modha 2001). Clusters are numbered by size, the largest first. An all-zero pixel goes to the
    first centre. A map with fewer different pixels than k has fewer clusters. Centres are fitted to at most
    :data:`MAX_FITTED` pixels, drawn by ``seed``.

    Raises:
        UserError: scikit-learn is not installed, or a value is not finite.
        ValueError: k is below 2 or above the number of colours.
    """
    if not 2 <= k <= len(PALETTE):
        raise ValueError(f"between 2 and {len(PALETTE)} clusters can be shown, not {k}")
    n, _, height, width = maps.shape
    if not maps.isfinite().all():
        raise UserError(
            "a feature map has values that are not finite (NaN or infinity): the training has diverged"
        )
    pixels = maps.permute(0, 2, 3, 1).reshape(n * height * width, -1)
    if len(pixels) > MAX_FITTED:
        drawn = np.random.default_rng(derive_seed(seed, "clustered pixels")).permutation(len(pixels))[
            :MAX_FITTED
        ]
        fitted = _directions(pixels[np.sort(drawn)])
    else:
        fitted = _directions(pixels)
    centres = _spherical(fitted, _first_centres(fitted, k, seed))
    labels = np.concatenate([_nearest(_directions(chunk), centres) for chunk in pixels.split(_CHUNK)])
    order = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    rank = np.empty(k, np.int64)
    rank[order] = np.arange(k)
    numbered: Labels = rank[labels].reshape(n, height, width)
    return numbered


def _first_centres(pixels: NDArray[np.float64], k: int, seed: int) -> NDArray[np.float64]:
    kmeans = optional_import("sklearn.cluster", extra="analysis", purpose="clustering feature maps").KMeans
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore",
            optional_import("sklearn.exceptions", extra="analysis", purpose="clustering").ConvergenceWarning,
        )
        centres: NDArray[np.float64] = (
            kmeans(n_clusters=k, n_init=10, random_state=seed).fit(pixels).cluster_centers_
        )
    return centres


def _directions(pixels: torch.Tensor) -> NDArray[np.float64]:
    """``[N, C]`` to unit vectors."""
    vectors: NDArray[np.float64] = torch.nn.functional.normalize(pixels.double(), dim=1).numpy()
    return vectors


def _nearest(pixels: NDArray[np.float64], centres: NDArray[np.float64]) -> Labels:
    nearest: Labels = (pixels @ _unit(centres).T).argmax(axis=1)
    return nearest


def _spherical(pixels: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lloyd's steps on the unit sphere from centres ``[K, C]``.

    The centre of an empty cluster has cosine 0 with all pixels.
    """
    labels: Labels = np.full(len(pixels), -1, np.int64)
    for _ in range(_MAX_STEPS):
        before, labels = labels, _nearest(pixels, centres)
        if (labels == before).all():
            break
        centres = np.eye(len(centres))[labels].T @ pixels
    return centres


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-300)


def match_clusters(labels: Labels, reference: Labels) -> Labels:
    """Renumber the clusters of ``labels`` to agree with ``reference`` in as many pixels as possible.

    Both are cluster numbers ``[N, H, W]`` of the same samples. Their sizes may differ by a whole factor.
    Clusters without a counterpart take the remaining numbers. Pixels are compared because centres of two
    snapshots or resolutions lie in different feature spaces.
    """
    from scipy.optimize import linear_sum_assignment

    size = max(labels.shape[1], reference.shape[1])
    ours, theirs = _enlarged(labels, size).ravel(), _enlarged(reference, size).ravel()
    k = int(max(ours.max(), theirs.max())) + 1
    overlap = np.bincount(ours * k + theirs, minlength=k * k).reshape(k, k)
    _, renamed = linear_sum_assignment(overlap, maximize=True)
    return renamed.astype(np.int64)[labels]


def match_all(every: Sequence[Labels]) -> list[Labels]:
    """Renumber the clusters of each item to agree with the next one; the last one stays."""
    matched: list[Labels] = []
    for labels in reversed(every):
        matched.insert(0, match_clusters(labels, matched[0]) if matched else labels)
    return matched


def paint(labels: Labels, size: int) -> torch.Tensor:
    """Cluster numbers ``[N, H, W]`` as colours, uint8 ``[N, 3, size, size]``, without smoothing."""
    return torch.from_numpy(PALETTE[_enlarged(labels, size)]).permute(0, 3, 1, 2)


def _enlarged(labels: Labels, size: int) -> Labels:
    factor = size // labels.shape[1]
    return labels.repeat(factor, axis=1).repeat(factor, axis=2)
