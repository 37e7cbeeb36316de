"""Checks that all ranks have the same run.

Program, options and data are compared before the start, the state from then on. Every rank computes all of
the state, so nothing else would show a difference.
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import UserError
from torch_utils import distributed
from torch_utils.device import pick_device
from torch_utils.parallel import all_ranks
from training.run.state import RunState

#: Parts of the state that differ between ranks.
PER_RANK = ("stats", "timer")

#: The folders of the program, whose sources are compared.
_SOURCES = ("dnnlib", "torch_utils", "metrics", "training")


def check_same_options(command: str, options: Mapping[str, Any], device: str | None) -> None:
    """Compare what the ranks were started with: the program, PyTorch, the kind of device, and the options.

    Every rank calls this before any other work in common, whatever its options say.

    Args:
        command: what runs, such as ``train.py``.
        options: name to value, without those in which ranks may differ.
        device: as on the command line; None is ``auto``.

    Raises:
        UserError: a rank differs from rank 0. One line names it and the first difference.
    """
    if distributed.world_size() == 1:
        return
    program = {
        "the command": command,
        "the program's sources": _digest_of_sources(),
        "PyTorch": torch.__version__,
    }
    machine = {
        "the device": pick_device(device or "auto").type,
        "--ops": os.environ.get("GGDR_OPS") or "auto",
    }
    _check_same(
        {**program, **options, **machine},
        "comparing options",
        "start all ranks with the same program and command line",
    )


def check_same_content(contents: Mapping[str, str]) -> None:
    """Compare the SHA-256 of what the ranks read, by name.

    Raises :class:`UserError` as :func:`check_same_options`.
    """
    if distributed.world_size() > 1:
        _check_same(
            {name: digest[:16] for name, digest in contents.items()},
            "comparing data",
            "give all ranks the same files",
        )


def _check_same(values: Mapping[str, Any], what: str, remedy: str) -> None:
    theirs = all_ranks(lambda: {name: _shown(value) for name, value in values.items()}, what)
    first = theirs[0]
    for number, other in enumerate(theirs):
        for name in [*first, *(name for name in other if name not in first)]:
            mine, expected = other.get(name, "nothing"), first.get(name, "nothing")
            if mine != expected:
                raise UserError(
                    f"rank {number} has {_pair(name, mine)}, rank 0 has {_pair(name, expected)}; {remedy}"
                )


def _pair(name: str, value: str) -> str:
    return f"{name}={value}" if name.startswith("--") else f"{name}: {value}"


def _shown(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.encode(errors="backslashreplace").decode()


@functools.cache
def _digest_of_sources() -> str:
    root, digest = Path(__file__).resolve().parent.parent.parent, hashlib.sha256()
    for path in sorted(path for folder in _SOURCES for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def check_same_start(state: RunState) -> None:
    """Compare the state before the first step, where ranks differ if they read different files.

    Raises :class:`UserError`.
    """
    try:
        distributed.check_equal(shared_tensors(state), "the run's state before the first step")
    except distributed.Unequal as error:
        raise UserError(
            f"{error}; give all ranks the same files (--resume, --continue) and the same libraries"
        ) from error


def check_agreement(state: RunState) -> None:
    """Compare the state bit for bit over the ranks, by checksums.

    Raises:
        RuntimeError: a tensor differs. The message names it and the ranks.
    """
    try:
        distributed.check_equal(shared_tensors(state), f"the run's state after {state.steps} steps")
    except distributed.Unequal as error:
        raise RuntimeError(f"{error}; this is a fault of the program or of a machine's memory") from error


def shared_tensors(state: RunState) -> dict[str, torch.Tensor]:
    """All tensors that must agree between ranks, by name, such as ``G_opt.synthesis.b4.const.exp_avg``."""
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
