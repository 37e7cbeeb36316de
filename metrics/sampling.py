"""The images that metrics look at: those of a data set, and a generator's as a function of (seed, index).

Both come in microbatches of whole chunks, which the ranks of a group take in turns, so that neither the batch
size nor the number of processes decides which images a detector sees together.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UserError
from torch_utils.pixels import to_uint8
from torch_utils.seeding import derive_seed

# Images are drawn, rendered and shown this many at a time or a multiple of it, so that no batch size and no
# count changes image i.
CHUNK = 16


class ImageDataset(Protocol):
    """What metrics need of a data set, such as ``training.data.dataset.ImageFolderDataset``.

    Items are read from threads.
    """

    @property
    def name(self) -> str:
        """For messages and results."""
        ...

    @property
    def resolution(self) -> int:
        """Height and width of the images, in pixels."""
        ...

    @property
    def num_channels(self) -> int:
        """Of the images."""
        ...

    @property
    def label_dim(self) -> int:
        """Width of the labels, 0 without any."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]: ...

    def get_label(self, index: int, /) -> np.ndarray:
        """The label of an item, float32 ``[label_dim]``."""
        ...


class Mirrored:
    """A data set, then a mirrored copy of it: item ``len + i`` is item ``i``, flipped from left to right."""

    def __init__(self, plain: ImageDataset) -> None:
        self._plain = plain
        self.name = plain.name
        self.resolution = plain.resolution
        self.num_channels = plain.num_channels
        self.label_dim = plain.label_dim
        self.in_memory = getattr(plain, "in_memory", False)

    def __len__(self) -> int:
        return 2 * len(self._plain)

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        image, label = self._plain[index % len(self._plain)]
        return (image if index < len(self._plain) else image[:, :, ::-1]), label

    def get_label(self, index: int, /) -> np.ndarray:
        """The label of an item, float32 ``[label_dim]``."""
        return self._plain.get_label(index % len(self._plain))


def microbatches(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[range]:
    """What of ``range(count)`` this rank takes: every ``world_size``-th microbatch, each of whole chunks.

    A microbatch is ``batch_size`` rounded up to chunks, or less where otherwise some rank would get nothing.
    Microbatch ``i`` of all belongs to rank ``i % world_size``; microbatch and rank together give the place,
    so that results can be put in order.
    """
    chunks = -(-count // CHUNK)
    size = CHUNK * max(1, min(-(-batch_size // CHUNK), -(-chunks // world_size)))
    return [range(start, min(start + size, count)) for start in range(rank * size, count, world_size * size)]


def real_images(
    dataset: ImageDataset, count: int, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[Tensor]:
    """This rank's :func:`microbatches` of the first ``count`` images: uint8 ``[N, C, H, W]`` on the CPU.

    A data set that says it is ``in_memory`` is indexed directly; any other is decoded by a few threads, two
    microbatches ahead. Raises whatever the data set raises, and :class:`UserError` when it has fewer images.
    """
    if count > len(dataset):
        raise UserError(f"the data set '{dataset.name}' has {len(dataset)} images, not {count}")
    mine = microbatches(count, batch_size, rank, world_size)

    def image(index: int) -> np.ndarray:
        return dataset[index][0]

    if getattr(dataset, "in_memory", False) or not mine:
        for microbatch in mine:
            yield torch.from_numpy(np.stack([image(i) for i in microbatch]))
        return
    image(mine[0].start)  # opens the archive, before threads could do it twice
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead: deque[list[Future[np.ndarray]]] = deque()
        try:
            for microbatch in mine:
                ahead.append([pool.submit(image, i) for i in microbatch])
                if len(ahead) > 2:
                    yield _stacked(ahead.popleft())
            while ahead:
                yield _stacked(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _stacked(images: list[Future[np.ndarray]]) -> Tensor:
    return torch.from_numpy(np.stack([image.result() for image in images]))


def fake_images(
    generator: Any,
    labels: ImageDataset,
    count: int,
    *,
    seed: int,
    device: torch.device,
    batch_size: int = CHUNK,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Tensor]:
    """This rank's :func:`microbatches` of ``count`` generated images: uint8 ``[N, C, H, W]`` on ``device``.

    Latents, labels (of uniformly drawn items of ``labels``, when the generator is conditional) and the
    generator's noise inputs for images ``16 k`` to ``16 k + 15`` come from ``(seed, k)``. Global random
    states are left as they were. Raises :class:`UserError` when the generator renders values that are not
    finite.
    """
    for microbatch in microbatches(count, batch_size, rank, world_size):
        chunks = []
        for k in range(microbatch.start // CHUNK, -(-microbatch.stop // CHUNK)):
            # NumPy promises never to change the streams of RandomState.
            rng = np.random.RandomState(derive_seed(seed, "metrics", k) % 2**32)
            z = torch.from_numpy(rng.randn(CHUNK, generator.z_dim).astype(np.float32))
            c = draw_labels(labels, rng, CHUNK, generator.c_dim)
            chunks.append(
                _render(generator, z.to(device), c.to(device), derive_seed(seed, "metrics noise", k))
            )
        # Every chunk is rendered whole, so that the last one's images are those of a longer run.
        yield torch.cat(chunks)[: len(microbatch)]


def draw_labels(dataset: ImageDataset, rng: np.random.RandomState, n: int, c_dim: int) -> Tensor:
    """Labels float32 ``[n, c_dim]`` of uniformly drawn items. An unconditional generator draws none."""
    if c_dim == 0:
        return torch.zeros(n, 0)
    return torch.from_numpy(np.stack([dataset.get_label(int(i)) for i in rng.randint(len(dataset), size=n)]))


def _render(generator: Any, z: Tensor, c: Tensor, noise_seed: int) -> Tensor:
    devices = [z.device] if z.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), evaluating(generator):
        torch.manual_seed(noise_seed)
        return to_uint8(finite(generator(z, c)))


def finite(images: Tensor) -> Tensor:
    """The images, which a diverged generator's are not. Raises :class:`UserError` then."""
    if not images.isfinite().all():
        raise UserError(
            "the generator renders values that are not finite (NaN or infinity): the training has diverged"
        )
    return images


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode, and back as it was."""
    training = getattr(module, "training", False)
    if training:
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()
