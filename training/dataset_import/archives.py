"""The two classic data set files: CIFAR-10's tar of pickles, and MNIST's pairs of gzipped arrays."""

import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy._core.multiarray import _reconstruct

from dnnlib.errors import UserError
from dnnlib.untrusted import reason

CIFAR_BATCHES = [f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)]
MNIST_SIZE = 28
MNIST_PADDED = 32


def read_cifar10(path: Path) -> tuple[Path, np.ndarray, list[int]]:
    """``cifar-10-python.tar.gz``: the path, the training images uint8 ``[N, 32, 32, 3]`` and their classes.

    The pickles inside are read by an unpickler that knows plain values and arrays and nothing else, so none of their content
    is run. Raises :class:`UserError` when the file is damaged or something else.
    """
    images, labels = [], []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in CIFAR_BATCHES:
                member = archive.extractfile(name)
                if member is None:
                    raise ValueError(f"{name} is no file")
                batch = _ArrayUnpickler(io.BytesIO(member.read()), encoding="latin1").load()
                data, numbers = np.asarray(batch["data"]), [int(x) for x in batch["labels"]]
                if data.dtype != np.uint8 or data.shape != (len(numbers), 3 * 32 * 32):
                    raise ValueError(f"{name} is {data.dtype} {list(data.shape)} with {len(numbers)} labels")
                images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                labels.extend(numbers)
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"'{path}' cannot be read as CIFAR-10's cifar-10-python.tar.gz: {reason(error)}") from error
    return path, np.ascontiguousarray(np.concatenate(images)), labels


def read_mnist(path: Path, *, with_labels: bool = True) -> tuple[Path, np.ndarray, list[int] | None]:
    """``*-images-idx3-ubyte.gz`` of MNIST or Fashion-MNIST and the labels file beside it.

    Gives the path, the images uint8 ``[N, 32, 32]``, padded with black from 28x28, and their classes. Raises
    :class:`UserError` when a file is damaged or of another kind, or the labels are missing and asked for.
    """
    images = _read_idx(path, dimensions=3)
    if images.shape[1:] != (MNIST_SIZE, MNIST_SIZE) or not len(images):
        size = f"{images.shape[2]}x{images.shape[1]}"
        raise UserError(f"'{path}' holds {len(images)} images of {size}; MNIST's are {MNIST_SIZE}x{MNIST_SIZE}")
    border = (MNIST_PADDED - MNIST_SIZE) // 2
    padded = np.pad(images, [(0, 0), (border, border), (border, border)])
    if not with_labels:
        return path, padded, None
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path or not beside.is_file():
        raise UserError(f"the labels of '{path}' should be beside it as '{beside.name}'; put them there or use --labels=none")
    labels = _read_idx(beside, dimensions=1)
    if len(labels) != len(images):
        raise UserError(f"'{beside}' has {len(labels)} labels for the {len(images)} images of '{path}'; get both anew")
    return path, padded, [int(x) for x in labels]


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """A gzipped IDX file of bytes: two zero bytes, the type 8, the number of dimensions, their big-endian sizes, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"'{path}' cannot be unpacked: {reason(error)}; get it anew") from error
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"'{path}' is no IDX file of bytes in {dimensions} dimensions, as MNIST's are; give the images' .gz as the source")
    start = 4 + 4 * dimensions
    shape = [int(x) for x in np.frombuffer(content[4:start], dtype=">u4")]
    if len(shape) != dimensions or len(content) - start != np.prod(shape):
        raise UserError(f"'{path}' holds {max(len(content) - start, 0)} bytes of data where its header says {shape}; get it anew")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, numbers, strings and NumPy arrays. Any other name in the pickle is refused."""

    KNOWN: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in image data") from None
