"""The same batch cut up for one, two and four processes gives the same run."""

from typing import Any

import pytest
import torch

from tests import ranks

CASES = {
    "none": {"reg_type": "none"},
    "ggdr": {"reg_type": "ggdr", "cond": True},
    "seg": {"reg_type": "seg"},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sizes")
    ranks.run("training:compare_group_sizes", 4, folder, cases=CASES)
    return {
        (case, size): torch.load(folder / f"{case}-{size}.pt", weights_only=True)
        for case in CASES
        for size in (1, 2, 4)
    }


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_gradients_do_not_depend_on_the_number_of_processes(results: Any, case: Any, size: Any) -> None:
    alone, together = results[case, 1]["gradients"], results[case, size]["gradients"]
    assert {name.split(".")[0] for name in alone} == {"G_main", "G_reg", "D_main", "D_reg"}
    for name, gradient in alone.items():
        torch.testing.assert_close(
            together[name], gradient, rtol=1e-5, atol=1e-5 * max(float(gradient.abs().max()), 1e-3), msg=name
        )


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_five_steps_end_at_the_same_weights(results: Any, case: Any, size: Any) -> None:
    alone, together = results[case, 1], results[case, size]
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], weight, rtol=1e-3, atol=1e-4, msg=name)
    assert alone["rest"]["batches"] == 5
    for name, value in alone["rest"].items():
        torch.testing.assert_close(together["rest"][name], value, rtol=1e-4, atol=1e-6, msg=name)
    for name, value in alone["stats"].items():
        assert together["stats"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
