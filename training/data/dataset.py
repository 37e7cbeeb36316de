"""Training images: a data set over a folder or a zip."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image
import torch

from dnnlib.errors import UserError
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

#: Decoded bytes. Checkpoints of earlier versions know larger folders by names and sizes alone.
READ_BEFORE = 2**30

#: Up to this many images, all are checked for further frames; beyond, only formats that often have them.
FEW = 2000


class ImageFolderDataset(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray]]):
    """Square 8-bit images of one size in a folder (recursive) or a zip, with labels from ``dataset.json``.

    Item ``i`` is ``(image, label)``: uint8 ``[C, H, W]`` and float32 ``[label_dim]``. Images are ordered by
    name. Instances may be forked or pickled into worker processes; a pickled copy reads from disk.

    Args:
        path: folder or zip.
        resolution: width and height that the images must have; None takes the first image's.
        use_labels: give labels; otherwise every label is empty.
        max_size: keep this many images, drawn by ``random_seed``, in order; None keeps all.
        xflip: append mirrored copies: item ``num_images + i`` is item ``i`` mirrored.
        random_seed: draws the subset.
        memory_budget_mb: keep all images decoded in memory if they take at most this many MiB. They are then
            decoded and checked at construction. Otherwise only the first is, and others when they are read.
        only_upright: refuse images with an EXIF orientation, in place of turning them upright.

    Attributes:
        name: the path's stem.
        path: of the folder or zip.
        num_images: before mirroring; ``len()`` includes mirrored copies.
        image_shape: ``[C, H, W]``.
        use_labels: as given.
        xflip: as given.

    Raises:
        UserError: the path, an image or a label cannot be used; at construction or from an item.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int | None = None,
        *,
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
        """One item for training: ``(image, label)``. A data set with more to an item appends it."""
        return self[index]

    def get_label(self, index: int) -> np.ndarray:
        """The label of one item, float32 ``[label_dim]``: a class as one-hot, or a vector."""
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
        """Width and height of the images in pixels."""
        return self.image_shape[1]

    @property
    def num_channels(self) -> int:
        """1 (greyscale) or 3 (RGB)."""
        return self.image_shape[0]

    @property
    def label_shape(self) -> list[int]:
        """``[label_dim]``."""
        return list(self._label_shape)

    @property
    def label_dim(self) -> int:
        """Length of a label; 0 when labels are off."""
        return self._label_shape[0]

    @property
    def in_memory(self) -> bool:
        """Whether all images are decoded in memory."""
        return self._pixels is not None

    @cached_property
    def has_labels(self) -> bool:
        """Whether the source has usable labels, whether or not they are used."""
        return self.use_labels or self._unused_labels[0]

    @cached_property
    def _unused_labels(self) -> tuple[bool, str | None]:
        """Of labels that are not used: whether they could be, and otherwise what is wrong with them."""
        try:
            file = read_labels(self._tree)
            return file is not None and bool(file.labels_of(self._all_names)), None
        except UserError as error:
            return False, str(error)

    def notes(self) -> list[str]:
        """Sentences about files, frames and bits that are left out, and labels or classes without images."""
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
        """A sentence about labels that are not used, or cannot be."""
        if self.use_labels:
            return []
        usable, fault = self._unused_labels
        unused = (
            ["The data set has labels, which are not used; --cond=1 conditions on them."] if usable else []
        )
        return unused if fault is None else [f"The data set has labels that cannot be used: {fault}"]

    def check_apart(self, output: str | os.PathLike[str], option: str) -> None:
        """Raise :class:`UserError` where an output, given by ``option``, lies in this data set."""
        self._tree.check_apart(output, option)

    def fingerprint(self) -> str:
        """A digest of what decides the pixels: the files' contents, their order, and mirroring.

        Every file is read. Paths and times do not matter.
        """
        return f"{self._digest}-{'mirrored' if self.xflip else 'plain'}"

    def identity(self) -> str:
        """A digest by which a continued run recognises its data: contents, labels, order and mirroring.

        Every file is read. The path does not matter.
        """
        return self._identity(self._digest)

    def quick_identity(self) -> str:
        """A quicker digest, for comparing ranks (:meth:`training.data.file_tree.FileTree.quick_digest`).

        It includes names, and of large data the contents of only some files.
        """
        return self._identity(self._tree.quick_digest(self._names))

    def is_known_as(self, identity: str) -> bool:
        """Whether :meth:`identity` gives this digest, in this version of the program or an earlier one."""
        return identity == self.identity() or identity == self.earlier_identity()

    def earlier_identity(self) -> str:
        """:meth:`identity` as in older checkpoints, when zips and large folders were not read."""
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
        """What a digest adds to a turned image's content: earlier versions did not turn images upright."""
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
                    f"two of at least {MIN_RESOLUTION} a side: convert them with dataset_tool.py "
                    "--transform=center-crop --resolution=WxH"
                )
            if resolution is not None and resolution != width:
                raise UserError(
                    f"the images in '{self.path}' are {width}x{height}, not {resolution}x{resolution}"
                )

        return self._read(first, check).shape

    def _every_label(self) -> tuple[np.ndarray, list[str]]:
        """Labels of all images, and notes on them. A subset has the same ``label_dim`` as all images."""
        file = read_labels(self._tree)
        if file is None:
            raise UserError(
                f"'{self.path}' has no labels in a {LABEL_FILE}, and a conditional model needs them; add "
                "them (dataset_tool.py --labels=subfolders takes them from folder names)"
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
                f"{loaded.orientation}), and its counterpart does not say how it lies; turn both upright "
                "first"
            )
        if loaded.more_frames:
            self._with_frames.add(name)
        if loaded.depth == 16:
            self._deep = upper_bytes_found(image).join(self._deep)
        return image

    def _count_frames(self) -> int:
        """How many images have more than one frame or page, by their headers (see :data:`FEW`)."""
        few = len(self._names) <= FEW
        for name in self._names:
            if few or os.path.splitext(name)[1].lower() in FRAME_SUFFIXES:
                with contextlib.suppress(UserError):  # decoding it will raise
                    if has_more_frames(self._tree.read(name)):
                        self._with_frames.add(name)
        self._tree.close()
        return len(self._with_frames)

    def _load_all(self) -> np.ndarray:
        pixels = np.empty([self.num_images, *self.image_shape], dtype=np.uint8)
        for raw in range(self.num_images):  # threads take longer on images this small
            pixels[raw] = self._load(raw)
        self._tree.close()
        return pixels


def read_pixels(
    tree: FileTree, name: str, check: Callable[[tuple[int, int, int]], None] | None = None
) -> tuple[np.ndarray, Loaded]:
    """Decode one greyscale or RGB image as uint8 ``[C, H, W]``, upright, with what the file says about it.

    Args:
        tree: holds the file.
        name: of the file.
        check: takes that shape before any pixel is decoded, and may raise.

    Raises:
        UserError: the image cannot be used.
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
        check_header(loaded.image)  # again: some files change size or mode as they are decoded
        pixels = np.asarray(loaded.image)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)), loaded


def _subset(size: int, max_size: int | None, random_seed: int) -> np.ndarray:
    """Sorted indices of the images to keep, drawn as the reference draws them."""
    if max_size is not None and max_size < 1:
        raise UserError(f"the subset must have at least 1 image, not {max_size}")
    if max_size is None or max_size >= size:
        return np.arange(size)
    return np.sort(np.random.RandomState(random_seed % 2**32).permutation(size)[:max_size])


def _describe(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} {'greyscale' if channels == 1 else 'RGB'}"
