"""Whether all ranks still have the same run: every one computes all of it, so nothing else would tell when they drift apart."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from torch_utils import distributed
from training.checkpoint import RunState

#: Parts of a run state that each rank has its own of.
PER_RANK = ("stats", "timer")


def check_agreement(state: RunState) -> None:
    """Compare weights, optimisers and the rest of the state bit for bit over the ranks, by checksums.

    Raises:
        RuntimeError: a tensor differs; names it and the ranks.
    """
    distributed.check_equal(shared_tensors(state), f"the run's state after {state.steps} steps")


def shared_tensors(state: RunState) -> dict[str, torch.Tensor]:
    """Everything that must be the same on all ranks, by name, such as ``G_opt.synthesis.b4.const.exp_avg``."""
    optimised = {"G_opt": state.G, "D_opt": state.D}
    found: dict[str, torch.Tensor] = {}
    for part, stateful in state.parts().items():
        values = stateful.state_dict()
        if part in optimised:
            names = [name for name, _ in optimised[part].named_parameters()]
            values = {names[index]: moments for index, moments in values["state"].items()}
        if part not in PER_RANK:
            found.update(_tensors(values, part))
    return found


def _tensors(values: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(values, torch.Tensor):
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _tensors(value, f"{name}.{key}")
