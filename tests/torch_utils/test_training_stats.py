"""Counts, means and deviations of reported values."""

import dataclasses

import numpy as np
import pytest
import torch

from torch_utils.training_stats import StatsCollector


def test_summary_is_of_everything_reported_since_the_last_flush() -> None:
    stats = StatsCollector()
    stats.report("a", torch.tensor([1.0, 2.0]))
    stats.report("a", torch.tensor([[6.0]], requires_grad=True))
    stats.report("b", 4)
    found = stats.flush()
    assert list(found) == ["a", "b"]
    assert (found["a"].num, found["a"].mean) == (3, pytest.approx(3))
    assert found["a"].std == pytest.approx(np.std([1, 2, 6]))
    assert (found["b"].num, found["b"].mean, found["b"].std) == (1, 4, 0)


def test_a_name_once_reported_stays_with_its_last_values() -> None:
    stats = StatsCollector()
    stats.report("a", torch.tensor([1.0, 3.0]))
    stats.report("b", torch.tensor([float("inf")]))
    first = stats.flush()
    stats.report("b", 4)
    continued = StatsCollector()
    continued.load_state_dict(stats.state_dict())
    for collector in (stats, continued):
        second = collector.flush()
        assert list(second) == ["a", "b"]
        assert second["a"] == dataclasses.replace(first["a"], num=0)
        assert (second["b"].num, second["b"].mean) == (1, 4)
        assert collector.flush()["b"].nonfinite == 0


def test_an_empty_report_is_none() -> None:
    stats = StatsCollector()
    stats.report("a", torch.zeros([0]))
    assert stats.flush() == {}


def test_large_values_keep_their_precision() -> None:
    stats = StatsCollector()
    for _ in range(1000):
        stats.report("a", torch.tensor([1e6, 1e6 + 1]))
    assert stats.flush()["a"].std == pytest.approx(0.5, rel=1e-3)
