"""Batches of training images, in an endless shuffled order that a run can enter anywhere."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch

from dnnlib.errors import UserError
from dnnlib.interrupt import SIGNALS, end_processes
from training.data.dataset import ImageFolderDataset

#: Images, labels, and whatever else a data set has for each image.
ImageBatch = tuple[torch.Tensor, ...]


class EndlessShuffle(torch.utils.data.Sampler[int]):
    """Indices of a data set in an endless shuffled order that is a pure function of (seed, position).

    Position p lies in epoch ``p // size``. Each epoch is a permutation drawn from (seed, epoch). From three
    items up, none begins with the item that ended the epoch before. From position ``start`` on,
    ``world_size`` ranks take turns of ``block`` positions each. With the batch of one rank as the block,
    global batches do not depend on the number of ranks.
    """

    def __init__(
        self, size: int, *, seed: int, start: int = 0, rank: int = 0, world_size: int = 1, block: int = 1
    ) -> None:
        if size < 1 or seed < 0 or start < 0 or not 0 <= rank < world_size or block < 1:
            raise ValueError(f"EndlessShuffle: {size=} {seed=} {start=} {rank=} {world_size=} {block=}")
        self.size = size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self.block = block

    def __iter__(self) -> Iterator[int]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for turn in itertools.count():
            first = self.start + (turn * self.world_size + self.rank) * self.block
            for position in range(first, first + self.block):
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = epoch_order(self.size, self.seed, epoch)
                yield int(order[position % self.size])


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation int64 ``[size]`` of one epoch of :class:`EndlessShuffle`."""
    order = _permutation(size, seed, epoch)
    # This changes places 0 and 1 alone, so an epoch ends as its raw permutation does.
    if size > 2 and epoch > 0 and order[0] == _permutation(size, seed, epoch - 1)[-1]:
        order[[0, 1]] = order[[1, 0]]
    return order


def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy promises never to change RandomState's streams: a run can continue under another NumPy.
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    return np.random.RandomState(bits).permutation(size).astype(np.int64)


def image_batches(
    dataset: ImageFolderDataset,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int = 2,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[ImageBatch, None, None]:
    """Endless batches in :class:`EndlessShuffle`'s order; the global random generators stay as they are.

    A batch is (images uint8 ``[N, C, H, W]``, labels float32 ``[N, label_dim]``), and whatever else
    :meth:`ImageFolderDataset.sample` gives. Close the iterator (``contextlib.closing``) to end the workers.

    Args:
        dataset: indexed directly if it is in memory.
        batch_size: images of one rank. Rank r has the r-th of ``world_size`` equal parts of a global batch.
        seed: of the order.
        start: position of the first item over all ranks.
        workers: processes that read a data set that is not in memory; 0 reads in this one.
        pin_memory: give tensors in pinned memory where there is a GPU.
        rank: of this process.
        world_size: number of ranks.

    Raises:
        UserError: an image cannot be used; the message names the file.
        ValueError: a number is out of range.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"image_batches: {batch_size=} {workers=}")
    sampler = EndlessShuffle(
        len(dataset), seed=seed, start=start, rank=rank, world_size=world_size, block=batch_size
    )
    pin_memory = pin_memory and torch.cuda.is_available()
    if dataset.in_memory or workers == 0:
        return _direct_batches(dataset, sampler, batch_size, pin_memory=pin_memory)
    return _worker_batches(dataset, sampler, batch_size, workers, pin_memory=pin_memory)


def _direct_batches(
    dataset: ImageFolderDataset, sampler: EndlessShuffle, batch_size: int, *, pin_memory: bool
) -> Generator[ImageBatch, None, None]:
    indices = iter(sampler)
    while True:
        items = [dataset.sample(i) for i in itertools.islice(indices, batch_size)]
        yield _tensors(_stack(items), pin_memory=pin_memory)


def _worker_batches(
    dataset: ImageFolderDataset, sampler: EndlessShuffle, batch_size: int, workers: int, *, pin_memory: bool
) -> Generator[ImageBatch, None, None]:
    loader: Any = torch.utils.data.DataLoader(
        _ErrorsAsItems(dataset),
        sampler=sampler,
        batch_size=batch_size,
        num_workers=workers,
        # Arrays: tensors would need shared memory, which containers often lack, and a handshake with the
        # worker, which an interrupt can cut.
        collate_fn=_stack_or_error,
        worker_init_fn=_obey_the_parent_alone,
        generator=torch.Generator(),  # otherwise the loader draws from the global generator
    )
    batches, processes = _started(loader)
    try:
        while True:
            batch = _next(batches, processes, dataset)
            if isinstance(batch, UserError):
                raise batch
            yield _tensors(batch, pin_memory=pin_memory)
    finally:
        end_processes(processes)  # the loader would only ask them to end, and a blocked one would not


def _started(loader: Any) -> tuple[Iterator[Any], list[BaseProcess]]:
    """The loader's iterator, and the processes that it has started.

    :func:`_next` notices a dead worker. The loader's own handler would raise at any place in this process.
    """
    before, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    return batches, [child for child in multiprocessing.active_children() if child not in before]


def _next(batches: Iterator[Any], processes: Sequence[BaseProcess], dataset: ImageFolderDataset) -> Any:
    """The loader's next batch. Raises :class:`UserError` where one of its processes is gone."""
    try:
        if all(process.is_alive() for process in processes):
            return next(batches)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
    raise UserError(
        f"a process that reads images of '{dataset.path}' was killed, most likely for want of memory; use "
        "fewer --workers, and go on from the last checkpoint with --continue"
    )


class _ErrorsAsItems(torch.utils.data.Dataset[Any]):
    """Gives a :class:`UserError` as an item: raised in a worker, it would arrive as text of a traceback."""

    def __init__(self, dataset: ImageFolderDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...] | UserError:
        try:
            return self.dataset.sample(index)
        except UserError as error:
            return UserError(str(error))


def _stack(items: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(parts) for parts in zip(*items, strict=True))


def _tensors(arrays: tuple[np.ndarray, ...], *, pin_memory: bool) -> ImageBatch:
    tensors = tuple(torch.from_numpy(array) for array in arrays)
    return tuple(tensor.pin_memory() for tensor in tensors) if pin_memory else tensors


def _stack_or_error(items: list[Any]) -> tuple[np.ndarray, ...] | UserError:
    return next((item for item in items if isinstance(item, UserError)), None) or _stack(items)


def _obey_the_parent_alone(_worker: int) -> None:
    # Signals reach the whole process group. The main process answers them, and needs its workers for the
    # current step. A worker obeys the main process's SIGTERM alone, by which multiprocessing ends it.
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is not the main process

    def end_when_told() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
            pass
        os._exit(0)

    threading.Thread(target=end_when_told, daemon=True).start()
