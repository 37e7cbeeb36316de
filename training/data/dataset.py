"""Training images: a data set over a folder or a zip, the endless shuffled order, and batches from both."""

import contextlib
import hashlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import PIL.Image
import torch

from dnnlib.errors import UserError
from dnnlib.interrupt import SIGNALS, end_processes
from dnnlib.untrusted import one_line, parsing
from training.config.resolutions import MIN_RESOLUTION, is_resolution
from training.data.decode import (
    DEEP_GREY,
    FRAME_SUFFIXES,
    DeepValues,
    Loaded,
    NeedsOption,
    frames_note,
    has_more_frames,
    is_turned,
    load,
    upper_bytes_found,
)
from training.data.file_listing import LABEL_FILE
from training.data.file_tree import FileTree
from training.data.labels import label_array, notes_on_classes, read_labels

CHANNELS = {"L": 1, "RGB": 3}

#: States of before knew larger folders, by decoded bytes, by names and sizes alone.
READ_BEFORE = 2**30

#: Of so many images at most, all are looked into for further frames; of more, those in formats that mostly
#: have them.
FEW = 2000

#: Images, labels, and whatever else a data set has for each image.
Batch = tuple[torch.Tensor, ...]


class ImageFolderDataset(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray]]):
    """Square 8-bit images of one size in a folder (recursive) or a zip, with optional labels from
    ``dataset.json``.

    Item ``i`` is ``(image, label)``: uint8 ``[C, H, W]`` and float32 ``[label_dim]``. Images are ordered by
    name.

    Arguments:
        path: folder or zip.
        resolution: what the images must measure; None takes what they do.
        use_labels: give labels; without it every label is empty.
        max_size: keep this many images, picked at random by ``random_seed`` and kept in order; None keeps
            all.
        xflip: append a mirrored copy of everything: item ``num_images + i`` is item ``i`` mirrored.
        memory_budget_mb: keep all images decoded in memory when they take no more MiB than this. They are
            then decoded and checked at construction. Otherwise only the first is, and each other one when it
            is asked for. 0 never does.
        only_upright: refuse images with an EXIF orientation, in place of turning them upright.

    Attributes: ``name`` (the path's stem), ``path``, ``num_images`` (before mirroring; ``len()`` counts
        mirrored copies),
    ``image_shape`` (``[C, H, W]``), ``resolution``, ``num_channels``, ``has_labels`` (the source has usable
    labels, used or not), ``use_labels``, ``label_dim`` (0 when labels are off), ``label_shape``,
    ``in_memory``.

    Instances may be forked or pickled into worker processes; a pickled copy reads from disk rather than carry
    the pixels. Raises :class:`UserError`, at construction or from an item, for whatever is wrong with the
    path, an image or a label.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int | None = None,
        use_labels: bool = False,
        max_size: int | None = None,
        xflip: bool = False,
        random_seed: int = 0,
        memory_budget_mb: float = 1024,
        only_upright: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self.name = os.path.splitext(os.path.basename(os.path.abspath(self.path)))[0]
        self.use_labels = use_labels
        self.xflip = xflip
        self._only_upright = only_upright
        self._with_frames: set[str] = set()
        self._deep: DeepValues | None = None
        self._turned = False
        self._pixels: np.ndarray | None = None
        self._tree = FileTree(path)
        self._all_names = self._tree.require_images(
            "give a folder or zip of square images, or make one with dataset_tool.py"
        )
        kept = _subset(len(self._all_names), max_size, random_seed)
        self._names = [self._all_names[i] for i in kept]
        self.num_images = len(kept)
        self.image_shape = list(self._first_shape(resolution))
        self._labels: np.ndarray | None = None
        self._label_shape: list[int] = [0]
        self._label_notes: list[str] = []
        if use_labels:
            every, self._label_notes = self._every_label()
            self._label_shape = [int(every.max()) + 1] if every.ndim == 1 else list(every.shape[1:])
            self._labels = every[kept]
        if self._decoded_bytes <= memory_budget_mb * 2**20:
            self._pixels = self._load_all()

    def __len__(self) -> int:
        return self.num_images * (2 if self.xflip else 1)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        raw, mirrored = self._locate(index)
        image = self._load(raw) if self._pixels is None else self._pixels[raw]
        return (image[:, :, ::-1] if mirrored else image).copy(), self.get_label(index)

    def sample(self, index: int) -> tuple[np.ndarray, ...]:
        """What training sees of one item: ``(image, label)``. A data set with more to an item appends it."""
        return self[index]

    def get_label(self, index: int) -> np.ndarray:
        """The label of one item, float32 ``[label_dim]``: one-hot for a class, else the vector as it
        stands."""
        raw, _ = self._locate(index)
        if self._labels is None:
            return np.zeros(0, dtype=np.float32)
        if self._labels.ndim == 2:
            return self._labels[raw].copy()
        onehot = np.zeros(self.label_dim, dtype=np.float32)
        onehot[self._labels[raw]] = 1
        return onehot

    @property
    def resolution(self) -> int:
        return self.image_shape[1]

    @property
    def num_channels(self) -> int:
        return self.image_shape[0]

    @property
    def label_shape(self) -> list[int]:
        return list(self._label_shape)

    @property
    def label_dim(self) -> int:
        return self._label_shape[0]

    @property
    def in_memory(self) -> bool:
        return self._pixels is not None

    @cached_property
    def has_labels(self) -> bool:
        """Whether labels could be used. Unreadable labels that nobody asked for count as none."""
        return self.use_labels or self._unused_labels[0]

    @cached_property
    def _unused_labels(self) -> tuple[bool, str | None]:
        """Of labels that nobody asked for: whether they could be used, and what is wrong with those that
        could not."""
        try:
            file = read_labels(self._tree)
            return file is not None and bool(file.labels_of(self._all_names)), None
        except UserError as error:
            return False, str(error)

    def notes(self) -> list[str]:
        """Sentences for a person: files, frames and bits that are left out, labels without images, classes
        without images."""
        notes = [
            *self._tree.note(),
            *frames_note(len(self._with_frames) if self.in_memory else self._count_frames()),
        ]
        if self._deep is not None and self._deep.dark:
            notes.append(
                f"The values of images with 16 bits {self._deep.describe_dark()} (options of "
                "dataset_tool.py, which converts them)."
            )
        return [*notes, *self._label_notes]

    def notes_on_unused_labels(self) -> list[str]:
        """A sentence about labels that are there and not used, or cannot be."""
        if self.use_labels:
            return []
        usable, fault = self._unused_labels
        unused = (
            ["The data set has labels, which are not used; --cond=1 conditions on them."] if usable else []
        )
        return unused if fault is None else [f"The data set has labels that cannot be used: {fault}"]

    def check_apart(self, output: str | os.PathLike[str], option: str) -> None:
        """Raise :class:`UserError` where an output, given by ``option``, lies in what is read here."""
        self._tree.check_apart(output, option)

    def fingerprint(self) -> str:
        """A digest of all that decides the pixels: file contents, which of them and in which order,
        mirroring.

        The files are read once, not decoded; nothing but their contents matters, neither path nor time.
        """
        return f"{self._digest}-{'mirrored' if self.xflip else 'plain'}"

    def identity(self) -> str:
        """By what a continued run knows its data again: a digest of contents, labels, order and mirroring,
        whatever the path.

        Every file is read.
        """
        return self._identity(self._digest)

    def quick_identity(self) -> str:
        """The same for a first comparison, such as between ranks: of large data, contents of a part of the
        files count.

        See :meth:`training.data.file_tree.FileTree.quick_digest`; names count, too.
        """
        return self._identity(self._tree.quick_digest(self._names))

    def is_known_as(self, identity: str) -> bool:
        """Whether these are the data of which :meth:`identity` once said that, here or in an earlier version
        of the program."""
        return identity == self.identity() or identity == self.earlier_identity()

    def earlier_identity(self) -> str:
        """What :meth:`identity` was before zips and large folders were read: it is in older run states."""
        read = not self._tree.is_zip and self._decoded_bytes <= READ_BEFORE
        digest = self._digest
        outline = "upright" if self._turned else ""
        return self._identity(digest if read else outline + self._tree.outline(self._names))

    def _identity(self, files: str) -> str:
        labels = b"" if self._labels is None else self._labels.tobytes()
        return hashlib.sha256(f"{files} {len(self)} ".encode() + labels).hexdigest()

    @property
    def _decoded_bytes(self) -> int:
        return self.num_images * int(np.prod(self.image_shape))

    @cached_property
    def _digest(self) -> str:
        return self._tree.digest(self._names, self._mark)

    def _mark(self, content: bytes) -> bytes:
        """What a digest has beside a file's content: earlier versions of the program did not turn images
        upright."""
        if not is_turned(content):
            return b""
        self._turned = True
        return b"upright"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}

    def _locate(self, index: int) -> tuple[int, bool]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        mirrored, raw = divmod(int(index) % len(self), self.num_images)
        return raw, bool(mirrored)

    def _first_shape(self, resolution: int | None) -> tuple[int, ...]:
        first = self._names[0]

        def check(shape: tuple[int, int, int]) -> None:
            _, height, width = shape
            if height != width or not is_resolution(width):
                raise UserError(
                    f"'{first}' in '{self.path}' is {width}x{height}; images must be square with a power of "
                    "two of at least "
                    f"{MIN_RESOLUTION} a side: convert them with dataset_tool.py --transform=center-crop "
                    "--resolution=WxH"
                )
            if resolution is not None and resolution != width:
                raise UserError(
                    f"the images in '{self.path}' are {width}x{height}, not {resolution}x{resolution} as was "
                    "asked for"
                )

        return self._read(first, check).shape

    def _every_label(self) -> tuple[np.ndarray, list[str]]:
        """Labels of all images, before any subset is taken, so that a subset has the same label_dim; and
        notes about them."""
        file = read_labels(self._tree)
        if file is None:
            raise UserError(
                f"'{self.path}' has no labels in a {LABEL_FILE}, and a conditional model needs them; add "
                "them "
                "(dataset_tool.py --labels=subfolders takes them from folder names)"
            )
        labels = file.labels_of(self._all_names)
        return label_array(labels), [*file.notes(self._all_names), *notes_on_classes(labels)]

    def _load(self, raw: int) -> np.ndarray:
        """Decode one image that has the first one's shape."""
        name = self._names[raw]

        def check(shape: tuple[int, int, int]) -> None:
            if list(shape) != self.image_shape:
                raise UserError(
                    f"'{name}' in '{self.path}' is {_describe(shape)}, but '{self._names[0]}' is "
                    f"{_describe(self.image_shape)}; make them all alike with dataset_tool.py"
                )

        return self._read(name, check)

    def _read(self, name: str, check: Callable[[tuple[int, int, int]], None]) -> np.ndarray:
        """Decode one image, and remember what is worth a note."""
        image, loaded = read_pixels(self._tree, name, check)
        if loaded.orientation != 1 and self._only_upright:
            raise UserError(
                f"'{name}' in '{self.path}' is to be turned for display (EXIF orientation "
                f"{loaded.orientation}), and its counterpart "
                "does not say how it lies; turn both upright first"
            )
        if loaded.more_frames:
            self._with_frames.add(name)
        if loaded.depth == 16:
            self._deep = upper_bytes_found(image).join(self._deep)
        return image

    def _count_frames(self) -> int:
        """How many images have more than one frame or page, as far as headers that are quick to read say
        so."""
        few = len(self._names) <= FEW
        for name in self._names:
            if few or os.path.splitext(name)[1].lower() in FRAME_SUFFIXES:
                with contextlib.suppress(UserError):  # whoever decodes it says so
                    if has_more_frames(self._tree.read(name)):
                        self._with_frames.add(name)
        self._tree.close()
        return len(self._with_frames)

    def _load_all(self) -> np.ndarray:
        pixels = np.empty([self.num_images, *self.image_shape], dtype=np.uint8)
        for raw in range(
            self.num_images
        ):  # no threads: on images that are small enough to fit they take longer
            pixels[raw] = self._load(raw)
        self._tree.close()
        return pixels


def read_pixels(
    tree: FileTree, name: str, check: Callable[[tuple[int, int, int]], None] | None = None
) -> tuple[np.ndarray, Loaded]:
    """Decode one greyscale or RGB image as uint8 ``[C, H, W]``, upright; with it, what was found in the file.

    ``check`` is called with that shape before any pixel is decoded. Raises :class:`UserError` for an image
    that can't be used.
    """
    content, where = tree.read(name), f"'{one_line(name)}' in '{tree.path}'"

    def check_header(image: PIL.Image.Image) -> None:
        mode = image.mode + (" with transparency" if "transparency" in image.info else "")
        if mode not in CHANNELS:
            deep = " (more than 8 bits a value)" if mode in DEEP_GREY else ""
            raise UserError(
                f"{where} is {mode}{deep}, not RGB or 8-bit greyscale (L); convert the images with "
                "dataset_tool.py"
            )
        if check is not None:
            check((CHANNELS[mode], image.height, image.width))

    with parsing(where, "is broken", "mend or remove it"):
        try:
            loaded = load(content, check=check_header)
        except NeedsOption as error:
            raise UserError(
                f"{where} cannot be used: {error}; convert the images with dataset_tool.py"
            ) from error
        check_header(loaded.image)  # once more: some files change what they are as they are decoded
        pixels = np.asarray(loaded.image)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)), loaded


class EndlessShuffle(torch.utils.data.Sampler[int]):
    """Indices of a data set in an endless shuffled order that is a pure function of (seed, position).

    Position p lies in epoch ``p // size``; every epoch is a permutation of its own, drawn from (seed, epoch),
    and never begins with the item that the one before ended with (from three items up). From position
    ``start`` on, ``world_size`` ranks take turns of ``block`` positions each, so together they walk the order
    once, and with the batch of one rank as the block, every global batch is the same whatever the number of
    ranks.
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
    # Mending the seam touches places 0 and 1 alone, so the last item of an epoch is that of its raw
    # permutation.
    if size > 2 and epoch > 0 and order[0] == _permutation(size, seed, epoch - 1)[-1]:
        order[[0, 1]] = order[[1, 0]]
    return order


def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # RandomState, because NumPy promises never to change its streams: a run can be continued under another
    # NumPy.
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
) -> Generator[Batch, None, None]:
    """Endless batches ``(images uint8 [N, C, H, W], labels float32 [N, label_dim])`` in
    :class:`EndlessShuffle`'s order, with whatever else :meth:`ImageFolderDataset.sample` gives.

    ``start`` is the position of the first item over all ranks, ``batch_size`` counts one rank's images: rank
    r's are the r-th of ``world_size`` equal parts of each global batch, in order. A data set in memory
    is indexed directly; any other is read by ``workers`` processes (0: in this one). The global random
    generators are left alone. Close the iterator (``contextlib.closing``) to end the workers at once. Raises
    :class:`UserError`, with the file's name, for an image that can't be used, and :class:`ValueError` for
    senseless numbers.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"image_batches: {batch_size=} {workers=}")
    sampler = EndlessShuffle(
        len(dataset), seed=seed, start=start, rank=rank, world_size=world_size, block=batch_size
    )
    pin_memory = pin_memory and torch.cuda.is_available()
    if dataset.in_memory or workers == 0:
        return _direct_batches(dataset, sampler, batch_size, pin_memory)
    return _worker_batches(dataset, sampler, batch_size, pin_memory, workers)


def _direct_batches(
    dataset: ImageFolderDataset, sampler: EndlessShuffle, batch_size: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    indices = iter(sampler)
    while True:
        yield _tensors(_stack([dataset.sample(i) for i in itertools.islice(indices, batch_size)]), pin_memory)


def _worker_batches(
    dataset: ImageFolderDataset, sampler: EndlessShuffle, batch_size: int, pin_memory: bool, workers: int
) -> Generator[Batch, None, None]:
    loader: Any = torch.utils.data.DataLoader(
        _ErrorsAsItems(dataset),
        sampler=sampler,
        batch_size=batch_size,
        num_workers=workers,
        # to arrays, not tensors: those would need shared memory, which containers often lack,
        collate_fn=_stack_or_error,
        # and a handshake with the worker for each, which an interrupt can cut
        worker_init_fn=_obey_the_parent_alone,
        generator=torch.Generator(),  # without one of its own, the loader draws from the global generator
    )
    batches, processes = _started(loader)
    try:
        while True:
            batch = _next(batches, processes, dataset)
            if isinstance(batch, UserError):
                raise batch
            yield _tensors(batch, pin_memory)
    finally:
        end_processes(processes)  # the loader would ask them to end, which one that is blocked does not


def _started(loader: Any) -> tuple[Iterator[Any], list[BaseProcess]]:
    """The loader's iterator, and the processes that it has started.

    A worker that dies is noticed where a batch is taken from it. The loader would raise an exception wherever
    this process is.
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
        "fewer --workers, and go on"
        " from the last run state with --continue"
    )


class _ErrorsAsItems(torch.utils.data.Dataset[Any]):
    """Hands a :class:`UserError` over as an item; raised in a worker it would arrive buried in a traceback's
    text."""

    def __init__(self, dataset: ImageFolderDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...] | UserError:
        try:
            return self.dataset.sample(index)
        except UserError as error:
            return UserError(str(error))


def _stack(items: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(parts) for parts in zip(*items, strict=True))


def _tensors(arrays: tuple[np.ndarray, ...], pin_memory: bool) -> Batch:
    tensors = tuple(torch.from_numpy(array) for array in arrays)
    return tuple(tensor.pin_memory() for tensor in tensors) if pin_memory else tensors


def _stack_or_error(items: list[Any]) -> tuple[np.ndarray, ...] | UserError:
    return next((item for item in items if isinstance(item, UserError)), None) or _stack(items)


def _obey_the_parent_alone(_worker: int) -> None:
    # Signals reach the whole process group; the main process alone answers them, and needs its workers for
    # the current step. Its own SIGTERM, by which multiprocessing ends them, counts.
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


def _subset(size: int, max_size: int | None, random_seed: int) -> np.ndarray:
    """Sorted indices of the images to keep; the legacy generator, so that a subset is the reference's."""
    if max_size is not None and max_size < 1:
        raise UserError(f"the subset must have at least 1 image, not {max_size}")
    if max_size is None or max_size >= size:
        return np.arange(size)
    return np.sort(np.random.RandomState(random_seed % 2**32).permutation(size)[:max_size])


def _describe(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} {'greyscale' if channels == 1 else 'RGB'}"
