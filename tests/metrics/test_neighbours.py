"""Neighbours and balls are exact: against distances written out in float64, in hostile cases too."""

import numpy as np
import pytest
import torch

from metrics import neighbours
from metrics.neighbours import Points, pairs_within, points, squared_radii


def by_definition(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances, difference by difference."""
    return np.stack([np.square(row.astype(np.float64) - b.astype(np.float64)).sum(1) for row in a])


def features(kind: str, n: int, seed: int) -> np.ndarray:
    rng = np.random.RandomState(seed)
    rows: np.ndarray = rng.randn(n, 24)
    if kind == "integers":  # few distances, ties everywhere
        rows = rng.randint(0, 2, (n, 6))
    elif kind == "copies":
        rows = np.repeat(rng.randn(n // 4, 24), 4, axis=0)
    elif kind == "collapsed":  # nearer to each other than float32 products can tell
        rows = 1 + 1e-4 * rng.randn(n, 24)
    elif kind == "collapsed far from others":
        rows = np.concatenate([1e-4 * rng.randn(n // 2, 24), 5 + 3 * rng.randn(n - n // 2, 24)])
    elif kind == "offset":  # small differences on top of large numbers
        rows = 1000 + rng.randn(n, 24)
    elif kind == "outlier":
        rows[0] *= 1e4
    elif kind == "huge":
        rows = rows * 1e30
    elif kind == "tiny":
        rows = rows * 1e-30
    elif kind == "tiny between outliers":  # products underflow in float32
        rows = rows * 1e-30
        rows[:2] = [[1e10], [-1e10]]
    return rows.astype(np.float32)


KINDS = ["normal", "integers", "copies", "collapsed", "collapsed far from others", "offset"]
KINDS += ["outlier", "huge", "tiny", "tiny between outliers"]


@pytest.mark.parametrize("crowded", [0, 1 / 32, 2])  # tiles merged whole; as usual; pair by pair
@pytest.mark.parametrize("tile", [5, 16, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_radii(kind: str, tile: int, crowded: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", tile)
    monkeypatch.setattr(neighbours, "CROWDED", crowded)
    rows = features(kind, 60, seed=0)
    a, _ = points(rows, rows[:1], 1)
    distances = by_definition(rows / a.scale, rows / a.scale)
    np.fill_diagonal(distances, np.inf)
    expected = np.sort(distances, axis=1)[:, [0, 2, 4]].T
    assert squared_radii(a, [1, 3, 5]).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert squared_radii(a, [3]).numpy() == pytest.approx(expected[1:2], rel=1e-9, abs=1e-14)


def test_radii_of_rows_in_the_worst_order(work: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tile brings nearer rows than all before it."""
    monkeypatch.setattr(neighbours, "TILE", 8)
    rows = np.exp(-np.arange(200.0) / 20)[:, None].astype(np.float32)
    a, _ = points(rows, rows[:1], 1)
    distances = by_definition(rows / a.scale, rows / a.scale)
    np.fill_diagonal(distances, np.inf)
    assert squared_radii(a, [4])[0].numpy() == pytest.approx(
        np.sort(distances, axis=1)[:, 3], rel=1e-9, abs=1e-14
    )


@pytest.mark.parametrize("tile", [16, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_pairs(kind: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", tile)
    real, gen = features(kind, 60, seed=0), features(kind, 44, seed=1)
    a, b = points(real, gen, 1)
    radii_a, radii_b = squared_radii(a, [3, 5]), squared_radii(b, [3, 5])
    found_a, found_b = np.zeros((2, 60, 44), bool), np.zeros((2, 60, 44), bool)
    times = np.zeros((60, 44), int)
    for i, j, in_a, in_b in pairs_within(a, b, radii_a, radii_b):
        found_a[:, i, j], found_b[:, i, j] = in_a, in_b
        np.add.at(times, (i.numpy(), j.numpy()), 1)
    distances = by_definition(real / a.scale, gen / a.scale)
    tie = 1e-12 * np.add.outer(a.norms.numpy(), b.norms.numpy())
    assert np.array_equal(found_a, distances <= radii_a.numpy()[:, :, None] + tie)
    assert np.array_equal(found_b, distances <= radii_b.numpy()[:, None, :] + tie)
    assert times.max() <= 1
    alone = np.zeros((2, 60, 44), bool)
    for i, j, in_a, in_b in pairs_within(a, b, radii_a):
        alone[:, i, j] = in_a
        assert not in_b.any()
    assert np.array_equal(alone, found_a)


@pytest.mark.parametrize("width", [1, 100, 2048])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lower_bounds_hold_and_are_close(width: int, dtype: type) -> None:
    rng = np.random.RandomState(0)
    sets: list[np.ndarray] = [rng.lognormal(sigma=3, size=(200, width)).astype(dtype) for _ in range(2)]
    real, gen = sets
    a, b = points(real, gen, 1)
    low = neighbours._lower_bounds(a, range(200), b, range(200)).double().numpy()
    distances = by_definition((real.astype(np.float64)) / a.scale, gen.astype(np.float64) / a.scale)
    sizes = np.add.outer(a.norms.numpy(), b.norms.numpy())
    assert (low <= distances - neighbours.TIE * sizes).all()
    assert (distances <= low + 2 * a.error * sizes + 2 * neighbours.UNDERFLOW).all()
    assert (distances - low <= 1e-3 * sizes + 1e-25).all()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many distances were taken in float64, of pairs and in products."""
    counts = {"pairs": 0, "products": 0}
    pairs, products = neighbours._distances_of_pairs, neighbours._distance_products

    def counting_pairs(a: Points, i: torch.Tensor, b: Points, j: torch.Tensor) -> torch.Tensor:
        counts["pairs"] += len(i)
        return pairs(a, i, b, j)

    def counting_products(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        counts["products"] += len(x) * len(y)
        return products(x, y)

    monkeypatch.setattr(neighbours, "_distances_of_pairs", counting_pairs)
    monkeypatch.setattr(neighbours, "_distance_products", counting_products)
    return counts


def test_float32_decides_nearly_everything(work: dict[str, int]) -> None:
    rng = np.random.RandomState(0)
    rows = rng.randn(500, 64).astype(np.float32)
    a, b = points(rows, rows[::-1].copy(), 1)
    radii = squared_radii(a, [3])
    assert 500 <= work["pairs"] < 550  # the k-th neighbour of each
    work["pairs"] = 0
    assert sum(int(in_a.sum()) for *_, in_a, _ in pairs_within(a, b, radii)) == 4 * 500
    assert 500 <= work["pairs"] < 550  # the copy of the k-th neighbour, which lies on the surface
    assert work["products"] == 0


def test_where_it_does_not_products_do(work: dict[str, int]) -> None:
    a, b = points(
        features("collapsed far from others", 200, seed=0),
        features("collapsed far from others", 200, seed=1),
        1,
    )
    radii = squared_radii(a, [3])
    assert work["products"] >= 100 * 200
    work.update(pairs=0, products=0)
    for _ in pairs_within(a, b, radii):
        pass
    assert work == {"pairs": 0, "products": 200 * 200}
