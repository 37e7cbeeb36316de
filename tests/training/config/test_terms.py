"""Weights of further loss terms in a configuration."""

import dataclasses
from typing import Any

import pytest

from dnnlib.errors import UserError
from tests.support.runs import described_data
from training.config import options, resolve
from training.config.continuation import continued
from training.config.options import Option
from training.config.schema import TrainConfig


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """With an option for a term."""
    row = Option("--far", float, "Weight", field="terms.far", changeable=True)
    monkeypatch.setitem(options.FLAGS, "terms.far", "--far")
    for module in ("options", "resolve", "run_name", "continuation"):
        monkeypatch.setattr(f"training.config.{module}.OPTIONS", (*options.OPTIONS, row))
    return resolve.resolve({"far": 0.5}, described_data())


def test_a_weight_is_written_and_read_again(config: TrainConfig) -> None:
    assert config.terms == {"far": 0.5}
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert options.as_options(config)["far"] == 0.5


def test_without_terms_the_options_file_stays_as_it_was(config: TrainConfig) -> None:
    without = dataclasses.replace(config, terms={})
    assert "terms" not in without.to_dict()
    assert TrainConfig.from_dict(without.to_dict()) == without
    assert options.as_options(without)["far"] is None


def test_an_option_that_may_change_changes_its_weight(config: TrainConfig) -> None:
    assert continued(config, {"far": 2.0}).terms == {"far": 2.0}
    assert continued(dataclasses.replace(config, terms={}), {"far": 2.0}).terms == {"far": 2.0}


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"far": -1}, r"--far \(terms\.far\) must be at least 0, not -1"),
        ({"far": float("nan")}, r"config\.terms\.far must be a finite number, not nan"),
        ({"far": "1"}, r"config\.terms\.far must be a finite number, not '1'"),
        ({"near": 1}, "config.terms has 'near', which is not a loss term"),
        ([1], "config.terms must be a dictionary"),
    ],
)
def test_what_is_not_a_weight_is_refused(config: TrainConfig, terms: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig.from_dict({**config.to_dict(), "terms": terms})
