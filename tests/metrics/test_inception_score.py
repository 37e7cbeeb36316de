import numpy as np
import pytest

from metrics.inception_score import inception_score


def test_certain_and_varied_predictions_score_the_number_of_classes() -> None:
    assert inception_score(np.eye(5)[np.arange(100) % 5], num_splits=10) == pytest.approx((5, 0))


def test_uninformative_predictions_score_one() -> None:
    assert inception_score(np.full((20, 4), 0.25), num_splits=2) == pytest.approx((1, 0))


def test_splits_are_consecutive() -> None:
    probs = np.eye(2)[[0, 0, 0, 0, 0, 1, 0, 1]]
    assert inception_score(probs, num_splits=2) == pytest.approx((1.5, 0.5))


def test_rows_that_do_not_divide_evenly_are_all_used() -> None:
    rng = np.random.RandomState(0)
    probs = rng.dirichlet(np.ones(4), size=11)
    changed = probs.copy()
    changed[-1] = [0.97, 0.01, 0.01, 0.01]
    assert inception_score(probs, num_splits=3) != inception_score(changed, num_splits=3)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="splits"):
        inception_score(np.eye(3), num_splits=4)
