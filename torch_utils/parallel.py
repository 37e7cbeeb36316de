"""Work that all ranks do together, and that fails on all of them if it fails on one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dnnlib.errors import UserError
from torch_utils import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    message: str
    kind: type[UserError] | None


def all_ranks(work: Callable[[], T], what: str) -> list[T]:
    """Do ``work`` on every rank; returns all results in the order of ranks, on every rank.

    No rank is left waiting for one that failed: where ``work`` fails here, its exception is raised. Where it
    failed on another rank, the same :class:`UserError` is raised, or a :class:`RuntimeError` with the same
    message.
    """
    try:
        mine = work()
    except Exception as error:
        kind = type(error) if isinstance(error, UserError) else None
        distributed.all_gather(_Failure(str(error) or type(error).__name__, kind), what, patient=True)
        raise
    gathered: list[Any] = distributed.all_gather(mine, what, patient=True)
    for part in gathered:
        if isinstance(part, _Failure):
            raise (
                RuntimeError(f"another process failed at {what}: {part.message}")
                if part.kind is None
                else part.kind(part.message)
            )
    return gathered


def on_rank0(work: Callable[[], T], what: str) -> T:
    """Do ``work`` on rank 0 only; returns its result on every rank. Fails as :func:`all_ranks` does."""
    found: list[Any] = all_ranks(lambda: work() if distributed.is_rank0() else None, what)
    result: T = found[0]
    return result
