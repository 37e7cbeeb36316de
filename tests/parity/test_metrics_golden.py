"""Metric values on feature arrays against the reference's."""

import numpy as np
import pytest

from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance
from metrics.precision_recall import precision_recall
from tests.support.golden import load

DATA = load("metrics")
REAL, GEN = DATA["real"].astype(np.float64), DATA["gen"].astype(np.float64)


def test_frechet_distance() -> None:
    moments = [value for rows in (REAL, GEN) for value in (rows.mean(0), np.cov(rows, rowvar=False))]
    assert frechet_distance(*moments) == pytest.approx(float(DATA["fid"]), rel=1e-6)


def test_kernel_distance() -> None:
    size = len(GEN)
    value = kernel_distance(REAL[:size], GEN, num_subsets=1, max_subset_size=size)
    assert value == pytest.approx(float(DATA["kid_first600"]), rel=1e-6)


def test_precision_recall() -> None:
    precision, recall = precision_recall(DATA["real"], DATA["gen"], nhood_size=3)
    assert precision == pytest.approx(float(DATA["precision"]), abs=1e-6)
    assert recall == pytest.approx(float(DATA["recall"]), abs=1e-6)


def test_inception_score() -> None:
    exponentials = np.exp(DATA["logits"].astype(np.float64))
    probs = exponentials / exponentials.sum(1, keepdims=True)
    assert inception_score(probs, num_splits=1)[0] == pytest.approx(float(DATA["is_1"]), rel=1e-6)
    assert inception_score(probs, num_splits=10) == pytest.approx(
        (float(DATA["is_10"]), float(DATA["is_10_std"])), rel=1e-5
    )
