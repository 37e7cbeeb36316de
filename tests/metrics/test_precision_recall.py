import numpy as np
import pytest
import torch

from metrics import neighbours
from metrics.precision_recall import precision_recall


def by_definition(real: np.ndarray, gen: np.ndarray, k: int) -> tuple[float, float]:
    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=2))

    def covered(probes: np.ndarray, manifold: np.ndarray) -> float:
        radii = np.sort(distance(manifold, manifold), axis=1)[:, k]
        return float((distance(probes, manifold) <= radii[None]).any(axis=1).mean())

    return covered(gen, real), covered(real, gen)


@pytest.mark.parametrize("nhood_size", [1, 3, 5])
@pytest.mark.parametrize("tile", [1, 7, 2048])
def test_agrees_with_the_definition_whatever_the_tiles(
    nhood_size: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "TILE", tile)
    rng = np.random.RandomState(0)
    real, gen = rng.randn(31, 4), rng.randn(23, 4) * 0.7 + 0.5
    expected = by_definition(real, gen, nhood_size)
    assert 0 < min(expected) < 1
    assert precision_recall(real, gen, nhood_size) == expected


@pytest.mark.parametrize("copies", [1, 2, 8])
def test_identical_sets_are_wholly_covered_even_with_duplicates(copies: int) -> None:
    rows = np.random.RandomState(0).randn(300, 33).astype(np.float32) * 50 + 1000
    rows = np.concatenate([rows] * copies)
    shuffled = rows[np.random.RandomState(1).permutation(len(rows))]
    assert precision_recall(rows, shuffled) == (1, 1)


def test_all_alike() -> None:
    """No extent to scale by, and every radius is 0."""
    assert precision_recall(np.full((9, 3), 7.0), np.full((8, 3), 7.0)) == (1, 1)
    assert precision_recall(np.full((9, 3), 7.0), np.full((8, 3), 7.5)) == (0, 0)


def test_rounding_of_the_matrix_product_does_not_decide_a_tie() -> None:
    """Five copies of each sample: every radius is 0, in whichever blocks the copies meet."""
    rows = np.concatenate([np.random.RandomState(0).randn(100, 1280) * 50 + 1] * 5)
    shuffled = rows[np.random.RandomState(1).permutation(len(rows))]
    assert precision_recall(rows, shuffled[:-3]) == (1, 1)


def test_the_surface_of_a_ball_is_inside() -> None:
    real = np.arange(5.0)[:, None]  # with neighbourhood 1, every radius is 1
    probes = np.array([[5.0], [5.0], [5.0 + 1e-6], [9.0]])
    assert precision_recall(real, probes, nhood_size=1)[0] == 0.5


def test_far_sets_are_not_covered() -> None:
    rows = np.random.RandomState(0).randn(20, 4)
    assert precision_recall(rows, rows + 100) == (0, 0)


def test_takes_tensors() -> None:
    rng = np.random.RandomState(0)
    real, gen = rng.randn(31, 4), rng.randn(23, 4)
    assert precision_recall(torch.from_numpy(real), torch.from_numpy(gen)) == precision_recall(real, gen)


@pytest.mark.parametrize(
    ("real", "gen", "message"),
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), "at least 4 real samples are needed, not 3"),
        (np.zeros((9, 2)), np.zeros((2, 2)), "at least 4 generated samples are needed, not 2"),
        (np.zeros((9, 2)), np.zeros((9, 3)), "differ in width"),
        (np.zeros(9), np.zeros((9, 3)), r"must be \[N, F\]"),
        (np.full((9, 2), np.nan), np.zeros((9, 2)), "finite"),
    ],
)
def test_wrong_input(real: np.ndarray, gen: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_recall(real, gen)
