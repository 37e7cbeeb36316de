"""Counts, means and deviations of reported values."""

import numpy as np
import pytest
import torch

from torch_utils.training_stats import StatsCollector


def test_summary_is_of_everything_reported_since_the_last_flush():
    stats = StatsCollector()
    stats.report("a", torch.tensor([1.0, 2.0]))
    stats.report("a", torch.tensor([[6.0]], requires_grad=True))
    stats.report("b", 4)
    found = stats.flush()
    assert list(found) == ["a", "b"]
    assert (found["a"].num, found["a"].mean) == (3, pytest.approx(3))
    assert found["a"].std == pytest.approx(np.std([1, 2, 6]))
    assert (found["b"].num, found["b"].mean, found["b"].std) == (1, 4, 0)
    assert stats.flush() == {}


def test_an_empty_report_has_no_mean():
    stats = StatsCollector()
    stats.report("a", torch.zeros([0]))
    assert stats.flush()["a"].num == 0


def test_large_values_keep_their_precision():
    stats = StatsCollector()
    for _ in range(1000):
        stats.report("a", torch.tensor([1e6, 1e6 + 1]))
    assert stats.flush()["a"].std == pytest.approx(0.5, rel=1e-3)
