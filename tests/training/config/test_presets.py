"""training.config.presets on any number of GPUs. The numbers: tests/parity/test_options_golden.py."""

import pytest

from dnnlib.errors import UserError
from tests.support.runs import resolved_config
from training.config.presets import PRESETS, find_preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("gpus", [1, 2, 8, 16])
def test_every_preset_runs_on_any_number_of_gpus(name: str, gpus: int) -> None:
    """The batch stays the preset's, and all GPUs work on it."""
    resolved = resolved_config(cfg=name, gpus=gpus)
    schedule = resolved.schedule
    assert schedule.batch_size == resolved_config(cfg=name, gpus=1).schedule.batch_size or name == "auto"
    assert schedule.batch_size % (resolved.microbatch * gpus) == 0


@pytest.mark.parametrize(
    ("name", "gpus", "recorded", "microbatch"),
    [("cifar", 8, 32, 8), ("paper256", 16, 8, 4), ("stylegan2", 1, 4, 4)],
)
def test_a_preset_records_its_microbatch_and_no_gpu_takes_more_than_its_share(
    name: str, gpus: int, recorded: int, microbatch: int
) -> None:
    resolved = resolved_config(cfg=name, gpus=gpus)
    assert (resolved.schedule.batch_gpu, resolved.microbatch) == (recorded, microbatch)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UserError, match="no --cfg=nope; choose one of auto "):
        find_preset("nope", 64, 1)
