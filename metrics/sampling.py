"""The images that metrics look at: all of a data set, and a generator's, each a pure function of (seed, index)."""

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
from torch_utils.seeding import derive_seed

# Generated images are drawn this many at a time, so that neither the detector's batch nor the total count changes image i.
CHUNK = 16


class ImageDataset(Protocol):
    """What metrics need of a data set (``training.dataset.ImageFolderDataset`` has it). Items are read from threads."""

    @property
    def name(self) -> str: ...

    @property
    def resolution(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    @property
    def label_dim(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]: ...

    def get_label(self, index: int, /) -> np.ndarray: ...


def real_images(dataset: ImageDataset, count: int, batch_size: int) -> Iterator[Tensor]:
    """The first ``count`` images in order: uint8 ``[N, C, H, W]`` on the CPU, N at most ``batch_size``.

    A data set that says it is ``in_memory`` is indexed directly; any other is decoded by a few threads, two batches ahead.
    Raises whatever the data set raises, and :class:`UserError` when it has fewer images.
    """
    if count > len(dataset):
        raise UserError(f"the data set '{dataset.name}' has {len(dataset)} images, not {count}")
    starts = range(0, count, batch_size)

    def image(index: int) -> np.ndarray:
        return dataset[index][0]

    if getattr(dataset, "in_memory", False):
        for start in starts:
            yield torch.from_numpy(np.stack([image(i) for i in range(start, min(start + batch_size, count))]))
        return
    image(0)  # opens the archive, before threads could do it twice
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead: deque[list[Future[np.ndarray]]] = deque()
        try:
            for start in starts:
                ahead.append([pool.submit(image, i) for i in range(start, min(start + batch_size, count))])
                if len(ahead) > 2:
                    yield _stacked(ahead.popleft())
            while ahead:
                yield _stacked(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _stacked(images: list[Future[np.ndarray]]) -> Tensor:
    return torch.from_numpy(np.stack([image.result() for image in images]))


def fake_images(generator: Any, dataset: ImageDataset, count: int, *, seed: int, device: torch.device) -> Iterator[Tensor]:
    """``count`` images of the generator: uint8 ``[N, C, H, W]`` on ``device``, N at most CHUNK.

    Latents, labels (of uniformly drawn items of the data set, when the generator is conditional) and the generator's
    noise inputs for images ``16 k`` to ``16 k + 15`` come from ``(seed, k)``. Values in -1..1 become bytes as in the
    reference: ``x * 127.5 + 128``, clamped, cut off. Global random states are left as they were.
    Raises :class:`UserError` when the generator renders values that are not finite.
    """
    for k in range((count + CHUNK - 1) // CHUNK):
        rng = np.random.RandomState(derive_seed(seed, "metrics", k) % 2**32)  # NumPy promises never to change its streams
        z = torch.from_numpy(rng.randn(CHUNK, generator.z_dim).astype(np.float32))
        c = torch.zeros(CHUNK, generator.c_dim)
        if generator.c_dim > 0:
            c = torch.from_numpy(np.stack([dataset.get_label(int(i)) for i in rng.randint(len(dataset), size=CHUNK)]))
        images = _render(generator, z.to(device), c.to(device), derive_seed(seed, "metrics noise", k))
        # Every chunk is rendered whole, so that the last one's images are those of a longer run.
        yield images[: count - k * CHUNK]


def _render(generator: Any, z: Tensor, c: Tensor, noise_seed: int) -> Tensor:
    devices = [z.device] if z.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), _evaluating(generator):
        torch.manual_seed(noise_seed)
        images: Tensor = generator(z, c)
        if not images.isfinite().all():
            raise UserError("the generator renders values that are not finite (NaN or infinity): the training has diverged")
        return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode, and back as it was."""
    training = getattr(module, "training", False)
    if training:
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()


def rebatched(parts: Iterator[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Small batches joined into batches of at least ``batch_size`` (the last one excepted)."""
    held: list[Tensor] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= batch_size:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)
