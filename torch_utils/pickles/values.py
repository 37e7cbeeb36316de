"""What network pickles hold besides plain containers: tensors, arrays, the reference's objects.

Each is read into an inert description. Memory for a tensor is taken only when the tensor is known to fit and
is used (:meth:`StoredTensor.read`), so a shape in a file costs nothing.
"""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torch_utils.pickles.arrays import ARRAY_NAMES, MAX_DIMENSIONS, names_table
from torch_utils.pickles.unpickler import DamagedPickle, Known, check_key, read_pickle

#: Storage classes of torch, and their elements. The names are in every pickled tensor.
STORAGE_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
MAX_SET = 16  # members of a set that is made by a call
MAX_STORAGE_HEAD, MAX_STORAGE_OPCODES = 1024, 100  # before a storage's elements: about 250 bytes, 40 opcodes

#: ``torch.save`` writes this before the object: its magic number and version 1001, each a pickle.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file has it: a strided view of a run of numbers.

    Attributes:
        data: the bytes of all elements.
        dtype: of an element.
        offset: of the first element, in elements.
        shape, stride: in elements.
    """

    data: memoryview
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.stride) or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {len(self.shape)} dimensions with {len(self.stride)} strides")
        if any(type(number) is not int or number < 0 for number in (self.offset, *self.shape, *self.stride)):
            raise ValueError("a tensor whose shape, stride or offset are not integers of at least 0")
        stored = len(self.data) // self.dtype.itemsize
        last = self.offset + sum(
            (size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)
        )
        if math.prod(self.shape) > stored or (math.prod(self.shape) > 0 and last >= stored):
            raise ValueError(
                f"{stored} stored elements for a tensor of shape {self.shape}, stride {self.stride}, offset "
                f"{self.offset}"
            )

    @staticmethod
    def contiguous(data: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> "StoredTensor":
        """The tensor with elements ``data``, row by row. Raises :class:`ValueError` if they don't fit."""
        if len(shape) > MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError("a tensor whose shape is none")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for a tensor of shape {shape}")
        stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        return StoredTensor(memoryview(data), dtype, 0, shape, stride)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, like: torch.Tensor) -> torch.Tensor:
        """The tensor on the CPU, with its own type, bit for bit, in the memory layout of ``like``."""
        elements = np.frombuffer(self.data, dtype=self.dtype, count=len(self.data) // self.dtype.itemsize)
        strides = tuple(step * self.dtype.itemsize for step in self.stride)
        view = np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides)
        # A copy, in native byte order and writable: torch takes no other arrays without a warning.
        tensor = torch.from_numpy(np.array(view, dtype=self.dtype.newbyteorder("="), order="C", copy=True))
        return torch.empty_like(like, device="cpu", dtype=tensor.dtype).copy_(tensor)


@dataclass(frozen=True)
class PersistentObject:
    """An object of a reference's class. Pickles have the source text of the class; it is never used.

    Attributes:
        class_name: of its class.
        state: its attributes.
    """

    class_name: str
    state: dict[Any, Any]

    @staticmethod
    def from_meta(meta: Any) -> "PersistentObject":
        """Read the argument of ``torch_utils.persistence._reconstruct_persistent_obj``, of any version."""
        name, state = meta["class_name"], meta["state"]
        if meta["type"] != "class" or type(name) is not str or type(state) is not dict:
            raise ValueError("a persistent object that is not an object of a class")
        return PersistentObject(name, state)


def _empty_dict() -> dict[Any, Any]:
    """The items follow one by one."""
    return {}


def _set(items: Any = ()) -> set[Any]:
    if type(items) is not list or len(items) > MAX_SET:
        raise ValueError("a large set")
    return {check_key(item) for item in items}


def _size(sizes: Any) -> tuple[Any, ...]:
    if type(sizes) is not tuple:
        raise TypeError("a size that is no tuple")
    return sizes


def _device(*parts: Any) -> str:
    return "cpu"  # where everything is read to


@dataclass(frozen=True)
class _Storage:
    data: memoryview
    dtype: np.dtype


def _storage_id(identity: Any) -> tuple[np.dtype, str, int]:
    """A storage's type, key and number of elements, from its persistent id."""
    kind, storage_type, key, _location, count, view = identity
    if (
        kind != "storage"
        or type(storage_type) is not Known
        or type(key) is not str
        or type(count) is not int
        or view is not None
    ):
        raise DamagedPickle("a storage of an unknown kind")
    return np.dtype(STORAGE_TYPES[storage_type.name.removeprefix("torch.")]), key, count


def _storage_from_bytes(payload: Any) -> _Storage:
    """A storage from what ``torch.save`` wrote for it, in the form that torch uses inside pickles.

    After the magic number and the version come three pickles (facts about the machine, the storage's
    persistent id, the list of its one key), the number of elements in eight bytes, and the elements.
    """
    if not isinstance(payload, bytes) or not payload.startswith(_LEGACY_START):
        raise DamagedPickle("a tensor whose contents are not in torch's form")
    stream = io.BytesIO(payload[:MAX_STORAGE_HEAD])
    stream.seek(len(_LEGACY_START))
    machine = read_pickle(stream, {}, max_opcodes=MAX_STORAGE_OPCODES)
    dtype, key, count = read_pickle(stream, _STORAGE_NAMES, _storage_id, max_opcodes=MAX_STORAGE_OPCODES)
    keys = read_pickle(stream, {}, max_opcodes=MAX_STORAGE_OPCODES)
    start = stream.tell() + 8
    if (
        machine["little_endian"] is not True
        or keys != [key]
        or payload[stream.tell() : start] != count.to_bytes(8, "little")
    ):
        raise DamagedPickle("a tensor whose contents are of an unknown kind")
    if len(payload) - start != count * dtype.itemsize:
        raise DamagedPickle(f"{len(payload) - start} bytes for {count} elements")
    return _Storage(memoryview(payload)[start:], dtype)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *flags: Any) -> StoredTensor:
    """Flags (gradient, hooks, metadata) are of no use here."""
    if not isinstance(storage, _Storage) or type(shape) is not tuple or type(stride) is not tuple:
        raise TypeError("a tensor without storage or shape")
    return StoredTensor(storage.data, storage.dtype, offset, shape, stride)


def _parameter(data: Any, *flags: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise TypeError("a parameter that is no tensor")
    return data


_STORAGE_NAMES = names_table({f"torch.{name}": None for name in STORAGE_TYPES})

#: Everything that a network pickle may refer to by name.
NAMES: dict[tuple[str, str], Known] = {
    **ARRAY_NAMES,
    **names_table(
        {
            "torch_utils.persistence._reconstruct_persistent_obj": PersistentObject.from_meta,
            "dnnlib.util.EasyDict": _empty_dict,
            "collections.OrderedDict": _empty_dict,
            "builtins.set": _set,
            "torch.storage._load_from_bytes": _storage_from_bytes,
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch.Size": _size,
            "torch.device": _device,
            **{
                f"torch.{name}": None
                for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
            },
        }
    ),
}
