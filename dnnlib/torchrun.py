"""Reads what torchrun tells a process in the environment. Nothing here imports torch.

Every function raises :class:`UserError` for a variable that is not a whole number. :func:`check` checks them
all.
"""

import os

from dnnlib.errors import UserError


def is_worker() -> bool:
    """Whether torchrun, or another program that sets its variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """This process's number among those of all machines; 0 outside torchrun."""
    return _number("RANK") if is_worker() else 0


def world_size() -> int:
    """The number of processes on all machines; 1 outside torchrun."""
    return _number("WORLD_SIZE") if is_worker() else 1


def local_rank() -> int:
    """This process's number among those of this machine."""
    return _number("LOCAL_RANK")


def local_world_size() -> int | None:
    """The number of processes on this machine; None outside torchrun."""
    return _number("LOCAL_WORLD_SIZE", 1) if is_worker() else None


def restarts() -> int:
    """How often the processes were restarted after a failure."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def check() -> None:
    """Raise :class:`UserError` if torchrun's variables are incomplete or contradict each other."""
    if not is_worker():
        return
    if not 0 <= rank() < world_size():
        raise UserError(_wrong(f"RANK={rank()} and WORLD_SIZE={world_size()} do not fit"))
    if (local_world_size() or 0) < 1 or not 0 <= _number("LOCAL_RANK", 0) < (local_world_size() or 0):
        raise UserError(
            _wrong(
                f"LOCAL_RANK={_number('LOCAL_RANK', 0)} and LOCAL_WORLD_SIZE={local_world_size()} do not fit"
            )
        )
    if restarts() < 0:
        raise UserError(_wrong(f"TORCHELASTIC_RESTART_COUNT={restarts()} is negative"))
    if not os.environ.get("MASTER_ADDR"):
        raise UserError(_wrong("MASTER_ADDR is not set"))
    if not 0 < _number("MASTER_PORT") < 2**16:
        raise UserError(_wrong(f"MASTER_PORT={_number('MASTER_PORT')} is no port"))


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    if text is None:
        raise UserError(_wrong(f"{name} is not set"))
    try:
        return int(text)
    except ValueError as error:
        raise UserError(_wrong(f"{name}={text} is not a whole number")) from error


def _wrong(what: str) -> str:
    return (
        f"the environment says that this is one of several processes, but {what}; start it with torchrun, or "
        "unset RANK and WORLD_SIZE"
    )
