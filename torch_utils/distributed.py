"""The few collective operations that this project needs, on torch.distributed. In a single process each does
nothing.

Every call that waits for other ranks takes ``what``, a few words for what is waited for. Where the others do
not come, because one was killed, hangs or has failed, it raises :class:`RankLost`, which names them.
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

#: Seconds to wait for the others: within a training step, and where some may have much more to do than
#: others, such as preparing a download or computing a metric.
TIMEOUT, PREPARE_TIMEOUT = 600.0, 3600.0

#: Seconds that a rank which lost contact waits for a sign of life from the others before it names those who
#: gave none.
GRACE = 3.0

FAILED = "failed"  # key in the store: who failed first, and with what

F = TypeVar("F", bound=Callable[..., Any])


class RankLost(Exception):
    """Another rank failed, ended or does not answer: one line, which names it where that can be known.

    Neither :class:`UserError` nor RuntimeError, so that nothing that goes on after those takes it for one of
    them.
    """


class Unequal(RuntimeError):
    """What must be the same on all ranks is not: one line, which names it and the ranks."""


@dataclass
class _World:
    """What this process knows of the others.

    Attributes:
        store: shared by all ranks; outlives any one of them.
        control, patient: gloo groups for what lives on the host, with the shorter and the longer timeout.
        prepare_timeout: seconds, see :data:`TIMEOUT`.
        prepared: how often this rank has been at :func:`rank0_first`.
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
    """While open, this process is one of those that torchrun's environment variables speak of.

    At the end the group is destroyed; not so with nccl after an exception, SystemExit included: it would wait
    for ranks that may be gone, and the process is expected just to end. (:class:`StoppedInOrder` is no such
    exception.)

    Args:
        cuda: use nccl for tensors on GPUs, beside gloo.
        timeout, prepare_timeout: seconds, see :data:`TIMEOUT`.

    Raises :class:`RankLost` where the others do not join in time.
    """
    global _world
    limit = timedelta(seconds=timeout)
    try:
        launcher, rank, size = next(iter(dist.rendezvous("env://", timeout=limit)))
        store = _meet(launcher, rank, size, timeout)
        # The host notices a rank that hangs by gloo, and says so; nccl, which would end the process, gets
        # more time.
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
        if in_order or not cuda:  # nccl takes its leave of all the others, who may not answer any more
            dist.destroy_process_group()


def _meet(launcher: dist.Store, rank: int, size: int, timeout: float) -> dist.Store:
    """Wait until all ranks are there; gives the store that these processes share.

    The launcher's store may still hold what the processes before a restart have written. So each one
    introduces itself by a name of its own, and rank 0 answers with the name of a part of the store that is
    new.
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
    assert isinstance(group, dist.ProcessGroup)  # not the mark of a rank outside of it
    return group


def _absent(store: dist.Store, keys: Iterable[str], seconds: float, pause: float = 0.05) -> list[str]:
    """Wait until all keys are in the store, some rank has failed, or the time is over; returns the keys that
    are not there."""
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
    """This process's number, 0 for the one that prints and writes."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if active() else 1


def is_rank0() -> bool:
    """Whether this is rank 0."""
    return rank() == 0


def _waiting(function: F) -> F:
    """Around a collective operation on (value, what): failures of the transport become :class:`RankLost`."""

    @functools.wraps(function)
    def wrapper(value: Any, what: str, **options: Any) -> Any:
        start = time.monotonic()
        try:
            return function(value, what, **options)
        except (dist.DistError, RuntimeError) as error:  # gloo raises plain RuntimeErrors too
            if not active() or isinstance(
                error, (torch.AcceleratorError, torch.OutOfMemoryError)
            ):  # faults of this rank's own GPU
                raise
            raise RankLost(_diagnosis(what, time.monotonic() - start, error)) from error

    return wrapper  # type: ignore[return-value]


@_waiting
def all_gather(value: Any, what: str, *, patient: bool = False) -> list[Any]:
    """What every rank gave, in the order of ranks. Values may be anything that pickles; arrays and tensors
    may differ in shape.

    ``patient`` gives the others the longer timeout, where they may have much more to do.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    world = _get_world()
    dist.all_gather_object(values, value, group=world.patient if patient else world.control)
    return values


@_waiting
def maxima(values: Sequence[int], what: str) -> list[int]:
    """The largest of each of several whole numbers over the ranks."""
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
    """Replace each of several tensors of one type by its sum over the ranks, in place, with a single
    message."""
    if world_size() == 1:
        return
    flat = sum_(torch.cat([tensor.flatten() for tensor in tensors]), what)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(
        list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
    )


@contextmanager
def rank0_first(what: str) -> Iterator[None]:
    """Rank 0 runs the block while the others wait; then they run it too (and find what rank 0 prepared).

    When it fails on rank 0, the others raise :class:`RankLost`, as they do when it takes longer than the
    timeout for preparing things.
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
    """Tell the other ranks that this one ends with ``error``. Returns whether this is the first to do so, or
    the only one."""
    if world_size() == 1:
        return True
    lines = str(error).splitlines() or [""]
    ours = f"rank {rank()} failed: {type(error).__name__}: {lines[0]}"
    try:
        return _get_world().store.compare_set(FAILED, "", ours).decode() == ours
    except dist.DistError:  # the launcher is gone, and with it whoever could tell
        return True


def check_equal(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Compare tensors bit for bit over all ranks, by a checksum. Every rank has to give the same names.

    Raises:
        Unequal: some differ; names the first, how many there are, and the ranks that have not what rank 0
            has.
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
    """Three int64 that change with any bit of a tensor's values, their order, and their number."""
    values = tensor.detach().contiguous().flatten().view(torch.uint8)
    words = torch.nn.functional.pad(values, (0, -len(values) % 4)).view(torch.int32).to(torch.int64)
    weights = torch.arange(1, len(words) + 1, device=words.device) * 2 + 1
    return torch.stack([words.sum(), (words * weights).sum(), words.new_tensor(len(values))]).cpu()


def _get_world() -> _World:
    if _world is None:
        raise RuntimeError("torch.distributed is initialised, but not by torch_utils.distributed.joined")
    return _world


def _diagnosis(what: str, seconds: float, error: BaseException) -> str:
    """One line on why a collective operation failed after so many seconds. Takes up to :data:`GRACE` seconds,
    to see who else is there."""
    world, me = _get_world(), rank()
    try:
        world.store.set(
            f"alone/{me}", "yes"
        )  # a rank that is alive loses contact at about the same time, and says so too
        keys = {f"alone/{r}": r for r in range(world_size())}
        silent = [keys[key] for key in _absent(world.store, keys, GRACE)]
        if world.store.check([FAILED]):
            return _failure(world.store)
    except dist.DistError:
        return f"rank {me} lost contact with all others while waiting for {what}"
    who = (
        f"{_ranks(silent)} do{'es' if len(silent) == 1 else ''} not answer"
        if silent
        else f"the connection failed ({_first_line(error)})"
    )
    if isinstance(error, dist.DistBackendError):  # nccl's, which says what of this rank's own failed
        return f"rank {me} failed in {what} after {seconds:.1f} seconds ({' '.join(str(error).split())[:600]}); {who}"
    return f"rank {me} gave up after waiting for {what} for {seconds:.1f} seconds: {who}"


def _failure(store: dist.Store) -> str:
    return store.get(FAILED).decode()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _ranks(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}"
