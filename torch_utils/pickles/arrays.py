"""Reads numpy arrays and plain values in pickles as data. It needs no PyTorch.

numpy gets no argument from the file that was not checked. An array is a view of the file's own bytes.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from torch_utils.pickles.unpickler import Known, check_key

DTYPE = re.compile(r"[<>|=]?[biuf][1248]")
MAX_DIMENSIONS = 8
MAX_DEPTH, MAX_PARTS = 32, 100_000  # of plain values such as a run's configuration


class StoredDtype:
    """A numpy type; its byte order follows as a state."""

    def __init__(self, name: str, *flags: Any) -> None:
        if DTYPE.fullmatch(name) is None:
            raise ValueError(f"an array of type {name!r:.40}")
        self.dtype = np.dtype(name)

    def set_state(self, state: Any) -> None:
        """Take ``(version, byte order, ...)``; the rest is for structured types, which are refused."""
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("a byte order that is none")
        self.dtype = self.dtype.newbyteorder(state[1])


class StoredArray:
    """A numpy array; its contents follow as a state."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Take ``(version, shape, type, whether columns come first, bytes)``."""
        _, shape, dtype, fortran, data = state
        self.array = _array(data, dtype, shape, "F" if fortran else "C")


def plain(value: Any) -> Any:
    """A copy of ``value`` in Python's own types and arrays, safe to print, copy and compare.

    It may be None, a boolean, a number, text, bytes, or a list, tuple, dictionary or set of these. Numpy
    scalars become numbers. Nothing is shared in the copy, so a value that is too deep or contains itself is
    refused.

    Raises:
        TypeError: anything else.
        ValueError: more than :data:`MAX_PARTS` parts, or nested deeper than :data:`MAX_DEPTH`.
    """
    return _Plain().copy(value, 0)


class _Plain:
    def __init__(self) -> None:
        self.parts = 0

    def copy(self, value: Any, depth: int) -> Any:
        self.parts += 1
        if self.parts > MAX_PARTS or depth > MAX_DEPTH:
            raise ValueError("a value that is too large, nested too deeply, or contains itself")
        if isinstance(value, np.generic):
            return value.item()
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, StoredArray) and value.array is not None:
            return value.array
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return value
        if isinstance(value, Mapping):
            return {check_key(key): self.copy(part, depth + 1) for key, part in value.items()}
        if isinstance(value, list | tuple | set):
            parts = [self.copy(part, depth + 1) for part in value]
            return (
                tuple(parts) if isinstance(value, tuple) else set(parts) if isinstance(value, set) else parts
            )
        raise TypeError(f"a value of class {type(value).__name__}, which is not plain")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """A view of the bytes. Everything is checked before numpy gets it."""
    if isinstance(data, str) and len(data) < 256:  # a short byte string of Python 2
        data = data.encode("latin1")
    if not (isinstance(data, bytes) and isinstance(dtype, StoredDtype)):
        raise TypeError("an array without elements or type")
    if (
        type(shape) is not tuple
        or len(shape) > MAX_DIMENSIONS
        or any(type(size) is not int or size < 0 for size in shape)
    ):
        raise ValueError("an array whose shape is none")
    if math.prod(shape) * dtype.dtype.itemsize != len(data) or order not in ("C", "F"):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape}")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> StoredArray:
    stored = StoredArray()
    stored.array = _array(data, dtype, shape, order)
    return stored


def _array_shell(kind: Any, shape: Any, code: Any) -> StoredArray:
    if kind is not _NDARRAY:
        raise TypeError("an array of an unknown class")
    return StoredArray()


def names_table(entries: Mapping[str, Callable[..., Any] | None]) -> dict[tuple[str, str], Known]:
    """The table for :func:`~torch_utils.pickles.unpickler.read_pickle`: dotted names and their builders."""
    names = {}
    for dotted, build in entries.items():
        module, _, name = dotted.rpartition(".")
        names[module, name] = Known(dotted, build)
    return names


_NDARRAY = Known("numpy.ndarray")


#: Everything that a pickle of arrays may refer to by name.
ARRAY_NAMES: dict[tuple[str, str], Known] = {
    ("numpy", "ndarray"): _NDARRAY,
    **names_table(
        {
            "numpy.dtype": StoredDtype,
            **{f"{module}.multiarray.scalar": _scalar for module in ("numpy.core", "numpy._core")},
            **{f"{module}.multiarray._reconstruct": _array_shell for module in ("numpy.core", "numpy._core")},
            **{f"{module}.numeric._frombuffer": _frombuffer for module in ("numpy.core", "numpy._core")},
        }
    ),
}
