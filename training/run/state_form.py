"""What a checkpoint must look like.

Everything in it is checked for type, range and form before the run takes it over.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import torch

from dnnlib.checked import Count, Real, Rule, accepted, between, check, form, shown
from dnnlib.errors import UserError
from metrics.results import ValueName
from training.config.run_directory import SNAPSHOT_PATTERN

SnapshotName = Annotated[str, form(SNAPSHOT_PATTERN, "the name of a snapshot")]
Images = Annotated[int, between(0, 1e15)]
Seconds = Annotated[float, between(0, 1e12)]


class StateDocument(TypedDict):
    """The file on the outside."""

    config: dict[str, object]
    data: str
    counters: dict[str, object]
    parts: dict[str, dict[object, object]]


def plain_tensor(value: Any) -> bool:
    """Whether a value is a plain tensor in memory: dense, no subclass, without a gradient."""
    return (
        type(value) is torch.Tensor
        and value.layout is torch.strided
        and not (value.is_meta or value.requires_grad)
    )


def _moments(value: Any) -> bool:
    return (
        plain_tensor(value)
        and value.dtype is torch.float64
        and list(value.shape) == [4]
        and _countable(value.tolist())
    )


def _countable(row: list[float]) -> bool:
    """Count, sum, sum of squares and count of what is not finite; the sums may be anything."""
    return math.isfinite(row[0]) and row[0] >= 0 and math.isfinite(row[3]) and row[3] >= 0


class Statistics(TypedDict):
    """The state of :class:`torch_utils.training_stats.StatsCollector`."""

    moments: dict[
        ValueName, Annotated[object, Rule(_moments, "moments: count, sum, sum of squares, not finite")]
    ]
    last: dict[
        ValueName,
        Annotated[
            list[Real],
            Rule(
                lambda row: len(row) == 4 and _countable(row) and row[0] > 0, "moments of at least one value"
            ),
        ],
    ]


def check_document(saved: object, forms: Mapping[str, Any], where: str) -> StateDocument:
    """Check the file on the outside, and its counters.

    Args:
        saved: what the file holds.
        forms: of the counters, by key: annotations as :func:`dnnlib.checked.check` takes them.
        where: its name with a colon, for messages.

    Raises:
        UserError: something is wrong, as everywhere in this module.
    """
    document: StateDocument = check(saved, StateDocument, where)
    counters: dict[str, Any] = document["counters"]
    at = f"{where} counters"
    missing = sorted(forms.keys() - counters.keys())
    if missing:
        raise UserError(f"{at} lacks {', '.join(missing)}")
    for name, counter_form in forms.items():
        check(counters[name], counter_form, f"{at}.{name}")
    for name in ("tick_start", "snapshot_at", "tick", "steps"):
        if counters[name] > counters["images_seen"]:
            raise UserError(
                f"{at}.{name} must be at most images_seen, {counters['images_seen']}, and is more"
            )
    if counters["pending"] not in (None, *counters["snapshots"]):
        raise UserError(f"{at}.pending must be one of its snapshots, not {shown(counters['pending'])}")
    return document


def check_like(value: object, ours: object, where: str) -> None:
    """Check that a part has the same keys as ours, tensors of the same type and shape, and numbers from 0."""
    if isinstance(ours, torch.Tensor):
        if not (
            isinstance(value, torch.Tensor)
            and plain_tensor(value)
            and (value.dtype, value.shape) == (ours.dtype, ours.shape)
        ):
            raise UserError(f"{where} must be {_described(ours)}, not {_described(value)}")
    elif isinstance(ours, Mapping):
        entries: dict[Any, Any] = check(value, dict, where)
        if entries.keys() != ours.keys():
            missing = [str(key) for key in ours if key not in entries]
            more = [shown(key) for key in entries if key not in ours]
            fault = (
                f"lacks {', '.join(missing[:3])}"
                if missing
                else f"has {', '.join(more[:3])}, which is not in this run"
            )
            raise UserError(f"{where} {fault}")
        for key, item in entries.items():
            check_like(item, ours[key], f"{where}.{key}")
    else:
        check(value, Seconds if isinstance(ours, float) else Count, where)


def check_optimizer(value: object, optimizer: torch.optim.Optimizer, where: str) -> dict[str, Any]:
    """Check the state of Adam for the same parameters, some of which may have had no step.

    Returns:
        what the optimiser loads. Moments are copies, because an optimiser keeps the tensors that it loads.
        Learning rates and decays are this run's: they follow from the configuration.
    """
    ours = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved: dict[int, dict[object, object]] = check(
        check(value, dict[object, object], where).get("state"),
        dict[Count, dict[object, object]],
        f"{where}.state",
    )
    moments = {}
    for index, entry in saved.items():
        at = f"{where}.state.{index}"
        if index >= len(parameters):
            raise UserError(f"{at} belongs to no parameter of this run, which has {len(parameters)}")
        like = torch.empty_like(parameters[index], device="cpu")
        check_like(entry, {"step": torch.tensor(0.0), "exp_avg": like, "exp_avg_sq": like}, at)
        tensors = {
            name: tensor.detach().clone()
            for name, tensor in entry.items()
            if isinstance(tensor, torch.Tensor)
        }
        check(float(tensors["step"]), Annotated[float, between(0, 1e15)], f"{at}.step")
        moments[index] = {str(name): tensor for name, tensor in tensors.items()}
    return {"state": moments, "param_groups": ours["param_groups"]}


def check_numbers(value: torch.Tensor, high: float, where: str) -> None:
    """Check that all numbers lie between -``high`` and ``high``. Raises :class:`UserError`."""
    if not all(
        accepted(number, Annotated[float, between(-high, high)]) for number in value.flatten().tolist()
    ):
        raise UserError(f"{where} must have finite numbers of at most {high:g}, not {shown(value.tolist())}")


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" + (
            "" if plain_tensor(value) else " of another kind"
        )
    return shown(value)
