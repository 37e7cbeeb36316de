import numpy as np
import pytest
import torch

from metrics import neighbours
from metrics.density_coverage import density_coverage


def by_definition(real: np.ndarray, gen: np.ndarray, k: int) -> tuple[float, float]:
    radii = np.sort(np.linalg.norm(real[:, None] - real[None], axis=2), axis=1)[:, k]
    inside = np.linalg.norm(real[:, None] - gen[None], axis=2) <= radii[:, None]
    return float(inside.sum() / (k * len(gen))), float(inside.any(axis=1).mean())


@pytest.mark.parametrize("nhood_size", [1, 3, 5])
@pytest.mark.parametrize("tile", [7, 2048])
def test_agrees_with_the_definition_whatever_the_tiles(
    nhood_size: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "TILE", tile)
    rng = np.random.RandomState(0)
    real, gen = rng.randn(31, 4), rng.randn(23, 4) * 0.7 + 0.5
    expected = by_definition(real, gen, nhood_size)
    assert 0 < min(expected) < 1
    assert density_coverage(real, gen, nhood_size) == pytest.approx(expected, rel=1e-12)


def test_by_hand() -> None:
    real = np.arange(5.0)[:, None]  # with neighbourhood 1, every radius is 1, and the surface is inside
    assert density_coverage(real, np.array([[0.5], [2.0]]), nhood_size=1) == ((2 + 3) / 2, 4 / 5)


def test_a_set_against_itself() -> None:
    """Without ties a sample is in its own ball and in those of the samples it is a near neighbour of: k."""
    rows = np.random.RandomState(0).randn(200, 8)
    density, coverage = density_coverage(rows, rows)
    assert density == pytest.approx((5 + 1) / 5)
    assert coverage == 1
    assert density_coverage(np.repeat(rows, 7, axis=0), rows)[1] == 1  # radii of 0


def test_all_alike() -> None:
    assert density_coverage(np.full((9, 3), 7.0), np.full((8, 3), 7.0), nhood_size=3) == (3, 1)


def test_far_sets_give_0() -> None:
    rows = np.random.RandomState(0).randn(300, 4)
    assert density_coverage(rows, rows + 100) == (0, 0)
    assert density_coverage(torch.from_numpy(rows), torch.from_numpy(rows) + 100) == (0, 0)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="at least 6 real samples are needed, not 5"):
        density_coverage(np.zeros((5, 2)), np.zeros((9, 2)))
    with pytest.raises(ValueError, match="at least 1 sample, not 0"):
        density_coverage(np.zeros((5, 2)), np.zeros((9, 2)), nhood_size=0)
