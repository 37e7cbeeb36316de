"""The two classic data set files: CIFAR-10's tar of pickles, and MNIST's pairs of gzipped arrays."""

import gzip
import io
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import UserError
from dnnlib.untrusted import BoundedReader, parsing
from torch_utils.pickles.arrays import ARRAY_NAMES, names_table, plain
from torch_utils.pickles.unpickler import ForbiddenName, read_pickle

CIFAR_BATCHES = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]
CIFAR_CLASSES = 10
MAX_CIFAR_BATCH = 2**25  # bytes of one of these pickles, of which the real ones have 31 million
MAX_CIFAR_CALLS = 16  # in one of them: two arrays need 12. Each may copy the whole pickle
MAX_UNPACKED = 2**29  # bytes of an archive: the real ones have 186 million (CIFAR-10) and 47 million (MNIST)
MNIST_SIZE = 28
MNIST_PADDED = 32


def read_cifar10(path: Path) -> tuple[Path, np.ndarray, list[int]]:
    """``cifar-10-python.tar.gz``: the path, the training images uint8 ``[N, 32, 32, 3]`` and their classes.

    :mod:`torch_utils.pickles` reads the pickles inside as data and runs nothing in them. Raises
    :class:`UserError` where the file is damaged or of another kind.
    """
    with parsing(f"'{path}'", "cannot be read as CIFAR-10's cifar-10-python.tar.gz", "get it anew"):
        batches = {name: _cifar_batch(name, content) for name, content in _cifar_members(path)}
        missing = [name for name in CIFAR_BATCHES if name not in batches]
        if missing:
            raise ValueError(f"it lacks {missing[0]}")
        images, labels = zip(*(batches[name] for name in CIFAR_BATCHES), strict=True)
        return path, np.concatenate(images), [label for part in labels for label in part]


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes as protocol 2 writes them."""
    if type(text) is not str or encoding != "latin1":
        raise TypeError("bytes in an unknown encoding")
    return text.encode("latin1")


CIFAR_NAMES = {**ARRAY_NAMES, **names_table({"_codecs.encode": _encode})}


def _cifar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The pickles in the archive, by name, in one pass."""
    with (
        gzip.open(path) as unpacked,
        tarfile.open(fileobj=BoundedReader(unpacked, MAX_UNPACKED), mode="r:") as archive,
    ):
        for member in archive:
            stream = archive.extractfile(member) if member.name in CIFAR_BATCHES and member.isfile() else None
            if stream is not None:
                content = stream.read(MAX_CIFAR_BATCH + 1)
                if len(content) > MAX_CIFAR_BATCH:
                    raise ValueError(f"{member.name} has more than {MAX_CIFAR_BATCH} bytes")
                yield member.name, content


def _cifar_batch(name: str, content: bytes) -> tuple[np.ndarray, list[int]]:
    """Images uint8 ``[N, 32, 32, 3]`` and classes of one pickle."""
    try:
        batch = read_pickle(io.BytesIO(content), CIFAR_NAMES, max_calls=MAX_CIFAR_CALLS)
    except ForbiddenName as error:
        raise ValueError(f"it asks for {error}, which has no place in image data") from error
    if not isinstance(batch, dict):
        raise TypeError(f"{name} is no dictionary")
    data, labels = plain(batch["data"]), np.asarray(plain(batch["labels"])).reshape(-1)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(labels), 3 * 32 * 32):
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(
            f"{name} is {found} with {len(labels)} labels, not uint8 [N, {3 * 32 * 32}] with N labels"
        )
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0 or labels.max(initial=0) >= CIFAR_CLASSES:
        raise ValueError(f"{name} has labels that are no classes from 0 to {CIFAR_CLASSES - 1}")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels.tolist()


def read_mnist(path: Path, *, with_labels: bool = True) -> tuple[Path, np.ndarray, list[int] | None]:
    """``*-images-idx3-ubyte.gz`` of MNIST or Fashion-MNIST and the labels file beside it.

    Returns the path, the images uint8 ``[N, 32, 32]``, padded with black from 28x28, and their classes.
    Raises :class:`UserError` where a file is damaged or of another kind, or needed labels are missing.
    """
    images = _read_idx(path, dimensions=3)
    if images.shape[1:] != (MNIST_SIZE, MNIST_SIZE) or not len(images):
        size = f"{images.shape[2]}x{images.shape[1]}"
        raise UserError(
            f"'{path}' holds {len(images)} images of {size}; MNIST's are {MNIST_SIZE}x{MNIST_SIZE}"
        )
    border = (MNIST_PADDED - MNIST_SIZE) // 2
    padded = np.pad(images, [(0, 0), (border, border), (border, border)])
    if not with_labels:
        return path, padded, None
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path or not beside.is_file():
        raise UserError(
            f"the labels of '{path}' should be beside it as '{beside.name}'; put them there or use "
            "--labels=none"
        )
    labels = _read_idx(beside, dimensions=1)
    if len(labels) != len(images):
        raise UserError(
            f"'{beside}' has {len(labels)} labels for the {len(images)} images of '{path}'; get both anew"
        )
    return path, padded, [int(x) for x in labels]


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """A gzipped IDX file of bytes.

    It has two zero bytes, the type 8, the number of dimensions, their big-endian sizes, and the data.
    """
    with parsing(f"'{path}'", "cannot be unpacked", "get it anew"), gzip.open(path) as stream:
        content = BoundedReader(stream, MAX_UNPACKED).read()
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"'{path}' is no IDX file of bytes in {dimensions} dimensions, as MNIST's are; give the images' "
            ".gz as the source"
        )
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise UserError(
            f"'{path}' holds {max(len(content) - start, 0)} bytes of data where its header says {shape}; get "
            "it anew"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
