"""Clusters by cosine, and equal colours from picture to picture."""

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from dnnlib.errors import UserError
from experiments.analysis import clustering
from experiments.analysis.clustering import PALETTE, cluster_pixels, match_all, match_clusters, paint

# Three directions; the largest area is that of number 0, in both images together.
TRUTH = np.array(
    [
        [[0, 0, 1, 1], [0, 0, 1, 1], [2, 0, 0, 0], [2, 2, 0, 0]],
        [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 0]],
    ]
)


def maps_of(truth: np.ndarray, noise: float = 0.1) -> torch.Tensor:
    """Feature maps ``[N, 16, H, W]`` with a direction for each class, of very different lengths."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal([16, 16]))[0]
    lengths = rng.uniform(0.01, 100, truth.shape)
    values = (directions[truth] + noise * rng.standard_normal([*truth.shape, 16])) * lengths[..., None]
    return torch.from_numpy(values).permute(0, 3, 1, 2).float()


def test_directions_are_found_over_all_images_and_numbered_by_size() -> None:
    sizes = np.bincount(TRUTH.ravel())
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    np.testing.assert_array_equal(cluster_pixels(maps_of(TRUTH), 3, seed=0), rank[TRUTH])


@pytest.mark.parametrize("seed", range(4))
def test_pixels_belong_to_the_centre_of_largest_cosine(seed: int) -> None:
    maps = (
        torch.randn(2, 5, 20, 20, generator=torch.Generator().manual_seed(seed))
        + torch.tensor([1.5, 0, 0, 0, 0])[:, None, None]
    )
    labels = cluster_pixels(maps, 6, seed=0)
    pixels = torch.nn.functional.normalize(maps.permute(0, 2, 3, 1).reshape(-1, 5).double(), dim=1)
    flat = torch.from_numpy(labels.ravel())
    centres = torch.stack([pixels[flat == k].sum(0) for k in range(6)])
    cosines = pixels @ torch.nn.functional.normalize(centres, dim=1).T
    np.testing.assert_array_equal(cosines.argmax(1).numpy(), labels.ravel())
    np.testing.assert_array_equal(cluster_pixels(maps, 6, seed=0), labels)
    sizes = np.bincount(labels.ravel()).tolist()
    assert sizes == sorted(sizes, reverse=True)


def test_of_many_pixels_some_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MAX_FITTED", 20)
    monkeypatch.setattr(clustering, "_CHUNK", 7)
    np.testing.assert_array_equal(
        cluster_pixels(maps_of(TRUTH, noise=0.01), 3, seed=0),
        cluster_pixels(maps_of(TRUTH, noise=0), 3, seed=0),
    )
    assert len(np.unique(cluster_pixels(maps_of(TRUTH), 3, seed=0))) == 3


def test_a_diverged_map_is_refused() -> None:
    maps = maps_of(TRUTH)
    maps[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        cluster_pixels(maps, 3, seed=0)


def test_maps_with_little_in_them() -> None:
    assert not cluster_pixels(torch.zeros(1, 4, 8, 8), 3, seed=0).any()
    flat = maps_of(TRUTH, noise=0)
    exact = torch.eye(16)[torch.from_numpy(TRUTH)].permute(
        0, 3, 1, 2
    )  # three different pixels, fewer than clusters
    for maps in (flat, exact):
        labels = cluster_pixels(maps, 6, seed=0)
        assert all(len(np.unique(TRUTH[labels == k])) == 1 for k in np.unique(labels))
    assert len(np.unique(labels)) == 3
    for k in (1, len(PALETTE) + 1):
        with pytest.raises(ValueError, match="clusters can be shown"):
            cluster_pixels(flat, k, seed=0)


@pytest.mark.parametrize("names", list(itertools.permutations(range(3))))
def test_matching_undoes_any_renaming(names: tuple[int, ...]) -> None:
    renamed = np.array(names)[TRUTH]
    renamed[0, 0, 0] = renamed[0, 2, 2]  # one pixel apart
    matched = match_clusters(renamed, TRUTH)
    assert (matched != TRUTH).sum() <= 1
    assert sorted(np.unique(matched)) == [0, 1, 2]


def test_matching_across_sizes_and_numbers_of_clusters() -> None:
    large = TRUTH.repeat(2, axis=1).repeat(2, axis=2)
    shifted = (TRUTH + 1) % 3
    np.testing.assert_array_equal(match_clusters(shifted, large), TRUTH)
    np.testing.assert_array_equal(match_clusters(shifted.repeat(2, axis=1).repeat(2, axis=2), TRUTH), large)
    more = shifted.copy()
    more[1, 0] = 3  # a fourth cluster takes a number of its own
    matched = match_clusters(more, TRUTH)
    np.testing.assert_array_equal(matched[0], TRUTH[0])
    assert sorted(np.unique(matched)) == [0, 1, 2, 3]
    np.testing.assert_array_equal(match_clusters(TRUTH, more)[0], more[0])


def test_a_sequence_is_matched_to_its_end() -> None:
    swapped = np.array([1, 0, 2])[TRUTH]
    first, second, last = match_all([TRUTH, swapped, np.array([2, 0, 1])[TRUTH]])
    for matched in (first, second):
        np.testing.assert_array_equal(matched, last)
    np.testing.assert_array_equal(last, np.array([2, 0, 1])[TRUTH])


def test_each_is_matched_to_its_neighbour() -> None:
    """From one to the next 6 of 16 pixels change cluster: most stay. From the first to the last 12 do."""
    last = np.repeat([0, 1], 8)
    middle, first = last.copy(), last.copy()
    middle[2:8] = 1
    first[2:8], first[8:14] = 1, 0
    sequence = [values.reshape(1, 4, 4) for values in (first, middle, last)]
    for matched, values in zip(match_all(sequence), sequence, strict=True):
        np.testing.assert_array_equal(matched, values)


def test_a_cluster_has_one_colour_in_all_images() -> None:
    picture = paint(TRUTH, 8)
    assert picture.shape == (2, 3, 8, 8)
    assert picture.dtype == torch.uint8
    for n, y, x in itertools.product(range(2), range(8), range(8)):
        assert picture[n, :, y, x].tolist() == PALETTE[TRUTH[n, y // 2, x // 2]].tolist()
    assert len(np.unique(PALETTE, axis=0)) == len(PALETTE)
