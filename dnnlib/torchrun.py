"""What torchrun tells a process about itself, in the environment. Nothing here imports torch."""

import os


def is_worker() -> bool:
    """Whether this is one of the processes that torchrun started (or anything else that sets the same variables)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """This process's number among those of all machines; 0 outside torchrun."""
    return int(os.environ["RANK"]) if is_worker() else 0


def world_size() -> int:
    """How many processes there are on all machines; 1 outside torchrun."""
    return int(os.environ["WORLD_SIZE"]) if is_worker() else 1


def local_world_size() -> int | None:
    """How many of them are on this machine; None outside torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_worker() else None


def restarts() -> int:
    """How often the processes were started again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
