"""Checkpoints that somebody else made: what is in them is valid, or refused in one line."""

import copy
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.runs import small_state
from training.run.state import COUNTERS, RunState
from training.run.state_file import VERSION, DamagedState, read_state, write_state
from training.run.state_form import check_document


@pytest.fixture(scope="module")
def original() -> tuple[RunState, dict[str, Any]]:
    """A state after one step of each optimiser, and what is saved of it."""
    state = small_state(aug="ada")
    for module, optimizer in ((state.G, state.G_opt), (state.D, state.D_opt)):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    state.stats.report("Loss/G/loss", torch.tensor([1.0, 2.0]))
    state.stats.flush()
    state.stats.report("Loss/D/loss", torch.tensor([1.0, float("nan")]))
    state.steps, state.images_seen = 2, 2 * state.config.schedule.batch_size
    state.snapshots, state.pending = ["network-snapshot-000000.pkl"], "network-snapshot-000000.pkl"
    return state, {**state.state_dict(), "data": "identity"}


def take(state: RunState, saved: Any) -> None:
    state.load_state_dict(check_document(saved, COUNTERS, "state.pt:"))


def test_the_names_in_the_file_are_those_of_its_format(original: tuple[RunState, dict[str, Any]]) -> None:
    """So checkpoints that an earlier version wrote go on: other names need another format version."""
    _, saved = original
    assert VERSION == 1
    assert sorted(saved) == ["config", "counters", "data", "parts"]
    assert " ".join(saved["counters"]) == (
        "steps images_seen tick tick_start snapshots pending snapshot_at p_at_most"
    )
    assert " ".join(saved["parts"]) == "G D G_ema pipe ada G_opt D_opt objective stats health timer"
    assert sorted(saved["parts"]["objective"]) == ["pl_mean"]
    assert sorted(saved["parts"]["ada"]) == ["batches", "totals"]


def test_an_honest_state_passes(original: tuple[RunState, dict[str, Any]]) -> None:
    state, saved = original
    take(state, copy.deepcopy(saved))
    found = state.state_dict()
    moments = [entry["exp_avg"] for entry in found["parts"]["G_opt"]["state"].values()]
    assert all(
        torch.equal(a, b["exp_avg"])
        for a, b in zip(moments, saved["parts"]["G_opt"]["state"].values(), strict=True)
    )
    assert found["counters"] == saved["counters"]


DELETED = object()


def edited(saved: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path, or without it; all that is not on the path is shared."""
    if not path:
        return value
    copied = dict(saved)
    copied[path[0]] = edited(copied.get(path[0]), path[1:], value)
    if copied[path[0]] is DELETED:
        del copied[path[0]]
    return copied


ODD: list[Any] = [
    None,
    "x",
    -1,
    1.5,
    True,
    [],
    {},
    [5],
    (1,),
    b"x",
    1j,
    10**5000,
    float("nan"),
    torch.zeros(3),
    torch.zeros(0),
]
LEAVES = [
    *[
        ("counters", name)
        for name in ("steps", "images_seen", "tick", "tick_start", "snapshot_at", "p_at_most")
    ],
    ("parts", "G"),
    ("parts", "D", "b4.out.bias"),
    ("parts", "pipe", "p"),
    ("parts", "ada", "totals"),
    ("parts", "ada", "batches"),
    ("parts", "objective", "pl_mean"),
    ("parts", "health", "counts"),
    ("parts", "health", "rows", "G_main"),
    ("parts", "timer", "total"),
    ("parts", "stats"),
    ("parts", "stats", "last", "Loss/G/loss"),
    ("parts", "stats", "moments", "Loss/D/loss"),
    ("parts", "G_opt"),
    ("parts", "G_opt", "state"),
    ("parts", "G_opt", "state", 0),
    ("parts", "G_opt", "state", 0, "step"),
    ("parts", "D_opt", "state", 0, "exp_avg"),
    ("config",),
    ("data",),
    ("parts",),
    ("counters",),
]
#: Where such a value is good all the same.
GOOD: dict[str, list[Any]] = {
    "snapshot_at": [-1],
    "p_at_most": [1.5],
    "total": [1.5],
    "data": ["x"],
    "config": [{}],  # which check_same_run holds against the run's
    "state": [{}],
    "0": [DELETED],
    "Loss/G/loss": [DELETED],
    "Loss/D/loss": [DELETED],
}


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_no_odd_value_goes_through_anywhere(
    original: tuple[RunState, dict[str, Any]], path: tuple[Any, ...]
) -> None:
    state, saved = original
    good = GOOD.get(str(path[-1]), [])
    for value in [DELETED, *ODD]:
        if any(type(value) is type(other) and value == other for other in good):
            continue
        try:
            take(state, edited(saved, path, value))
        except UserError:
            continue
        pytest.fail(f"{path} took {str(value)[:80] if type(value) is not int else 'an integer'}")


def grown(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("counters", "snapshots"),
            ["../home/thesis.tex"],
            r"snapshots\[0\] must be the name of a snapshot, not '../home/thesis.tex'",
        ),
        (("counters", "snapshots"), ["network-snapshot-٣٣٣٣٣٣.pkl"], "the name of a snapshot"),
        (("counters", "snapshots"), ["network-snapshot-000000.pkl\n"], "the name of a snapshot"),
        (("counters", "pending"), "/etc/passwd", "pending must be the name of a snapshot or null"),
        (("counters", "pending"), "network-snapshot-000009.pkl", "pending must be one of its snapshots"),
        (("counters", "steps"), 7, "at most images_seen|not its steps times the batch"),
        (("counters", "steps"), 1, "not its steps times the batch"),
        (("counters", "tick_start"), 99, "tick_start must be at most images_seen"),
        (("parts", "G", "\x1b[2J"), torch.zeros(1), r"G has '\\x1b\[2J', which is not in this run"),
        (("parts", "pipe", "p"), torch.tensor(float("nan")), "pipe.p must have finite numbers"),
        (
            ("parts", "pipe", "p"),
            torch.tensor(0.5, dtype=torch.float64),
            r"pipe.p must be float32 \[\], not float64 \[\]",
        ),
        (("parts", "pipe", "p"), grown(torch.tensor(0.5)), "of another kind"),
        (("parts", "pipe", "p"), torch.tensor(0.5, device="meta"), "of another kind"),
        (("parts", "stats", "last", "Loss/G/loss"), [0.0, 1.0, 1.0, 0.0], "moments of at least one value"),
        (("parts", "stats", "last", "a\nb"), [1.0, 1.0, 1.0, 0.0], "the name of a value"),
        (("parts", "stats", "moments", "a"), torch.full([4], float("inf"), dtype=torch.float64), "moments"),
        (("parts", "G_opt", "state", 10**6), {}, "belongs to no parameter of this run"),
        (("parts", "G_opt", "state", 0, "step"), torch.tensor(-1.0), "step must be a number from 0"),
    ],
)
def test_what_a_hostile_state_could_ask_for(
    original: tuple[RunState, dict[str, Any]], path: tuple[Any, ...], value: Any, message: str
) -> None:
    state, saved = original
    with pytest.raises(UserError, match=message):
        take(state, edited(saved, path, value))


def test_an_optimiser_keeps_its_own_options_and_tensors(original: tuple[RunState, dict[str, Any]]) -> None:
    state, saved = original
    shape = saved["parts"]["G_opt"]["state"][0]["exp_avg"].shape
    one_place = torch.zeros(1).expand(shape)  # no step can be written there
    hostile = edited(saved, ("parts", "G_opt", "state", 0, "exp_avg"), one_place)
    take(
        state,
        edited(hostile, ("parts", "G_opt", "param_groups"), [{"lr": "x", "betas": (5,), "foreach": True}]),
    )
    for parameter in state.G.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.G_opt.step()
    assert state.G_opt.param_groups[0]["betas"] == saved["parts"]["G_opt"]["param_groups"][0]["betas"]


def test_sums_that_overflow_are_reported(original: tuple[RunState, dict[str, Any]]) -> None:
    state, saved = original
    take(state, edited(saved, ("parts", "stats", "last", "Loss/G/loss"), [1.0, 1e200, 1e300, 0.0]))
    assert state.stats.flush()["Loss/G/loss"].mean == 1e200


PICKLES = [
    b"\x80\x02.",
    b"\x80\x02h\x05.",
    b"\x80\x02\x86.",
    b"\x80\x02K\x01Q.",
    b"\x80\x02K\x01K\x01b.",
    pickle.dumps({1: 2}),
    b"hello",
]


@pytest.mark.parametrize("pickled", PICKLES)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_pytorch_cannot_unpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bytes, zipped: bool
) -> None:
    def save(content: Any, writer: Any) -> None:
        if not zipped:
            writer.write(pickled)
            return
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, data in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}.items():
                archive.writestr(f"a/{name}", data)
        writer.write((tmp_path / "a.zip").read_bytes())

    with monkeypatch.context() as context:
        context.setattr(torch, "save", save)
        write_state(tmp_path / "a.pt", {})
    with pytest.raises((DamagedState, UserError), match=r"cannot be unpacked|is not a checkpoint"):
        read_state(tmp_path / "a.pt")


def test_a_state_that_unpacks_to_more_than_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(content: Any, writer: Any) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data/0", bytes(10**6))
        writer.write((tmp_path / "a.zip").read_bytes())

    with monkeypatch.context() as context:
        context.setattr(torch, "save", save)
        write_state(tmp_path / "a.pt", {})
    with pytest.raises(DamagedState, match="unpacks to 1000000 bytes"):
        read_state(tmp_path / "a.pt")
