"""The few collective operations that this project needs, on torch.distributed. In a single process each does nothing.

Every call that waits for other ranks takes ``what``, a few words for what is waited for, which an error message names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist


def active() -> bool:
    """Whether several processes work together."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 for the one that prints and writes."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    """Whether this is rank 0."""
    return rank() == 0


def barrier(what: str) -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def all_gather(value: Any, what: str) -> list[Any]:
    """What every rank gave, in the order of ranks. Values may be anything that pickles; arrays and tensors may differ in shape."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any, what: str) -> Any:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def sum_(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """Replace a tensor by its sum over the ranks, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def main_first(what: str) -> Iterator[None]:
    """Rank 0 runs the block while the others wait; then they run it too (and find what rank 0 prepared).

    When it fails on rank 0, the others fail too.
    """
    if not is_main():
        _fail_with(broadcast(None, what), what)
        yield
        return
    try:
        yield
    except BaseException as error:
        broadcast(f"{type(error).__name__}: {error}", what)
        raise
    broadcast(None, what)


def _fail_with(failure: str | None, what: str) -> None:
    if failure is not None:
        raise RuntimeError(f"rank 0 failed at {what}: {failure}")
