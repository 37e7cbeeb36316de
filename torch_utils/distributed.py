"""The collective operations that this project needs, on torch.distributed.

In a single process they do nothing.
Every call that waits for other ranks takes ``what``: a few words that name it in messages. If another rank
does not come, because it was killed, hangs or has failed, the call raises :class:`RankLost`, which names that
rank.
"""

import functools
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from dnnlib.interrupt import StoppedInOrder

#: Seconds to wait for the others: within a training step, and where one rank may have much more to do than
#: the others, such as a download or a metric.
TIMEOUT, PREPARE_TIMEOUT = 600.0, 3600.0

#: Seconds that a rank which lost contact waits for a sign of life from the others. It names the silent ones.
GRACE = 3.0

FAILED = "failed"  # key in the store: who failed first, and with what

F = TypeVar("F", bound=Callable[..., Any])


class RankLost(Exception):
    """Another rank failed, ended or does not answer. One line, which names it if it is known.

    It is neither a :class:`UserError` nor a RuntimeError: code that continues after those must not continue
    here.
    """


class Unequal(RuntimeError):
    """Something that must be equal on all ranks differs. One line, which names it and the ranks."""


@dataclass
class _World:
    """The group of processes.

    Attributes:
        store: shared by all ranks; outlives any one of them.
        control, patient: gloo groups for values on the host, with the shorter and the longer timeout.
        prepare_timeout: seconds, see :data:`TIMEOUT`.
        prepared: how often this rank has called :func:`rank0_first`.
    """

    store: dist.Store
    control: dist.ProcessGroup
    patient: dist.ProcessGroup
    prepare_timeout: float
    prepared: int = 0


_world: _World | None = None


@contextmanager
def joined(
    *, cuda: bool, timeout: float = TIMEOUT, prepare_timeout: float = PREPARE_TIMEOUT
) -> Iterator[None]:
    """Inside, this process is a member of the group that torchrun's environment variables describe.

    The group is destroyed at the end. With nccl it is not destroyed after an exception, SystemExit included
    (except :class:`StoppedInOrder`): nccl would wait for ranks that may be gone, and the process ends anyway.

    Args:
        cuda: use nccl for tensors on GPUs, beside gloo.
        timeout: seconds, see :data:`TIMEOUT`.
        prepare_timeout: seconds, see :data:`PREPARE_TIMEOUT`.

    Raises:
        RankLost: the others do not join in time.
    """
    global _world
    limit = timedelta(seconds=timeout)
    try:
        launcher, rank, size = next(iter(dist.rendezvous("env://", timeout=limit)))
        store = _meet(launcher, rank, size, timeout)
        # On the host, gloo detects a rank that hangs, and we report it. nccl would end the process, so it
        # gets more time.
        backend, longer = ("cpu:gloo,cuda:nccl", limit * 2) if cuda else ("gloo", limit)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=longer)
        control, patient = (_gloo_group(seconds) for seconds in (timeout, prepare_timeout))
    except (dist.DistError, RuntimeError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RankLost(
            f"rank {os.environ['RANK']} cannot connect to the others by way of {address}: "
            f"{_first_line(error)}"
        ) from error
    _world = _World(store, control, patient, prepare_timeout)
    in_order = False
    try:
        yield
        in_order = True
    except StoppedInOrder:
        in_order = True
        raise
    finally:
        _world = None
        if in_order or not cuda:  # nccl waits for all the others, who may not answer any more
            dist.destroy_process_group()


def _meet(launcher: dist.Store, rank: int, size: int, timeout: float) -> dist.Store:
    """Wait until all ranks have started; returns the store that they share.

    The launcher's store may still hold keys from before a restart. So each rank writes a new name of its own,
    and rank 0 answers with the name of a new part of the store.
    """
    name = uuid.uuid4().hex
    if rank > 0:
        launcher.set(f"hello/{rank}", name)
        if _absent(launcher, [f"answer/{name}"], timeout):
            raise RankLost(
                f"rank 0 did not start within {timeout:g} seconds (--dist-timeout); look at what its machine "
                "printed"
            )
        name = launcher.get(f"answer/{name}").decode()
    store = dist.PrefixStore(name, launcher)
    store.set(f"here/{rank}", "yes")
    deadline = time.monotonic() + timeout
    keys = {f"here/{r}": r for r in range(size)}
    while absent := _absent(store, keys, 0.05):
        if rank == 0:
            for r in range(1, size):
                if launcher.check([f"hello/{r}"]):
                    launcher.set(f"answer/{launcher.get(f'hello/{r}').decode()}", name)
        if time.monotonic() > deadline:
            ranks = _ranks([keys[key] for key in absent])
            raise RankLost(
                f"{ranks} did not start within {timeout:g} seconds (--dist-timeout); look at what their "
                "machines printed"
            )
    return store


def _gloo_group(timeout: float) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
    assert isinstance(group, dist.ProcessGroup)  # every rank is a member
    return group


def _absent(store: dist.Store, keys: Iterable[str], seconds: float, pause: float = 0.05) -> list[str]:
    """Wait until all keys are in the store, a rank has failed, or time is up; returns the missing keys."""
    deadline = time.monotonic() + seconds
    absent = [key for key in keys if not store.check([key])]
    while absent and time.monotonic() < deadline and not store.check([FAILED]):
        time.sleep(pause)
        absent = [key for key in absent if not store.check([key])]
    return absent


def active() -> bool:
    """Whether several processes work together."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number. Rank 0 prints and writes."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if active() else 1


def is_rank0() -> bool:
    """Whether this is rank 0."""
    return rank() == 0


def _waiting(function: F) -> F:
    """Decorate a collective operation on (value, what): its transport's failures become :class:`RankLost`."""

    @functools.wraps(function)
    def wrapper(value: Any, what: str, **options: Any) -> Any:
        start = time.monotonic()
        try:
            return function(value, what, **options)
        except (dist.DistError, RuntimeError) as error:  # gloo raises plain RuntimeErrors too
            own_fault = isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError))
            if own_fault or not active():
                raise
            raise RankLost(_diagnosis(what, time.monotonic() - start, error)) from error

    return wrapper  # type: ignore[return-value]


@_waiting
def all_gather(value: Any, what: str, *, patient: bool = False) -> list[Any]:
    """The values of all ranks, in the order of ranks.

    Args:
        value: anything that pickles; arrays and tensors may differ in shape.
        what: see the top of this module.
        patient: wait with the longer timeout, because the others may have much more to do.

    Raises:
        RankLost: a rank does not come.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    world = _get_world()
    dist.all_gather_object(values, value, group=world.patient if patient else world.control)
    return values


@_waiting
def maxima(values: Sequence[int], what: str) -> list[int]:
    """The maximum over the ranks of each of several whole numbers."""
    if world_size() == 1:
        return list(values)
    largest = torch.tensor(values)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_get_world().control)
    return largest.tolist()


@_waiting
def sum_(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """Replace a tensor by its sum over the ranks, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_flat_(tensors: Sequence[torch.Tensor], what: str) -> None:
    """Replace tensors of one type by their sums over the ranks, in place, with a single message."""
    if world_size() == 1:
        return
    flat = sum_(torch.cat([tensor.flatten() for tensor in tensors]), what)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(
        list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
    )


@contextmanager
def rank0_first(what: str) -> Iterator[None]:
    """Run the block on rank 0 while the others wait, then on the others, which find what rank 0 prepared.

    The others raise :class:`RankLost` if rank 0 fails, or takes longer than the timeout for preparing.
    """
    if world_size() == 1:
        yield
        return
    world = _get_world()
    world.prepared += 1
    key = f"prepared/{world.prepared}"
    if not is_rank0():
        _wait_for_rank0(world, key, what)
        yield
        return
    yield
    world.store.set(key, "yes")


def _wait_for_rank0(world: _World, key: str, what: str) -> None:
    try:
        if not _absent(world.store, [key], world.prepare_timeout, pause=0.2):
            return
        if world.store.check([FAILED]):
            raise RankLost(_failure(world.store))
    except dist.DistError as error:
        raise RankLost(f"contact with the launcher was lost while rank 0 prepared {what}") from error
    raise RankLost(
        f"rank 0 was not done with {what} within {world.prepare_timeout:g} seconds (--prepare-timeout)"
    )


def report_failure(error: BaseException) -> bool:
    """Tell the other ranks that this one ends with ``error``. Returns whether it is the first to do so."""
    if world_size() == 1:
        return True
    lines = str(error).splitlines() or [""]
    ours = f"rank {rank()} failed: {type(error).__name__}: {lines[0]}"
    try:
        return _get_world().store.compare_set(FAILED, "", ours).decode() == ours
    except dist.DistError:  # the launcher is gone, and the store with it
        return True


def check_equal(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Compare tensors over all ranks, bit for bit, by a checksum. Every rank gives the same names.

    Raises:
        Unequal: some differ; names the first, the ranks that differ from rank 0, and the number of tensors.
    """
    if world_size() == 1:
        return
    sums = torch.stack([_checksum(tensor) for tensor in tensors.values()]).tolist()
    theirs = all_gather(dict(zip(tensors, map(tuple, sums), strict=True)), what)
    differing = {
        name: odd
        for name in tensors
        if (odd := [r for r, other in enumerate(theirs) if other.get(name) != theirs[0][name]])
    }
    if differing:
        name, odd = next(iter(differing.items()))
        raise Unequal(
            f"{what}: '{name}' is not the same on {_ranks(odd)} as on rank 0 ({len(differing)} of "
            f"{len(tensors)} tensors differ)"
        )


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    """Three int64 that depend on every bit of a tensor's values, their order and their number."""
    values = tensor.detach().contiguous().flatten().view(torch.uint8)
    words = torch.nn.functional.pad(values, (0, -len(values) % 4)).view(torch.int32).to(torch.int64)
    weights = torch.arange(1, len(words) + 1, device=words.device) * 2 + 1
    return torch.stack([words.sum(), (words * weights).sum(), words.new_tensor(len(values))]).cpu()


def _get_world() -> _World:
    if _world is None:
        raise RuntimeError("torch.distributed is initialised, but not by torch_utils.distributed.joined")
    return _world


def _diagnosis(what: str, seconds: float, error: BaseException) -> str:
    """One line on why a collective operation failed. Waits up to :data:`GRACE` seconds for other ranks."""
    world, me = _get_world(), rank()
    try:  # a rank that is alive loses contact at about the same time, and sets its key too
        world.store.set(f"alone/{me}", "yes")
        keys = {f"alone/{r}": r for r in range(world_size())}
        silent = [keys[key] for key in _absent(world.store, keys, GRACE)]
        if world.store.check([FAILED]):
            return _failure(world.store)
    except dist.DistError:
        return f"rank {me} lost contact with all others while waiting for {what}"
    who = f"the connection failed ({_first_line(error)})"
    if silent:
        who = f"{_ranks(silent)} do{'es' if len(silent) == 1 else ''} not answer"
    if isinstance(error, dist.DistBackendError):  # from nccl: tells what failed on this rank
        text = " ".join(str(error).split())[:600]
        return f"rank {me} failed in {what} after {seconds:.1f} seconds ({text}); {who}"
    return f"rank {me} gave up after waiting for {what} for {seconds:.1f} seconds: {who}"


def _failure(store: dist.Store) -> str:
    return store.get(FAILED).decode()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _ranks(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}"
