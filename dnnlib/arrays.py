"""Numpy's files, ``.npy`` and ``.npz``, read in bounded memory."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from dnnlib.untrusted import one_line, open_ordinary, parsing

MAX_ARRAYS = 2**30  # bytes of the arrays of one file
MAX_HEADER = 10_000  # characters
MAX_RATIO = 1032  # that deflate can reach
MAGIC = b"\x93NUMPY"
KINDS = "biuf"  # of elements: booleans, integers, floating-point numbers


def read_arrays(
    path: str | os.PathLike[str], name: str, *, limit: int = MAX_ARRAYS, packed: bool = True, advice: str = ""
) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file by name, or the array of an ``.npy`` file under an empty name.

    The content decides which it is.

    ``numpy.load`` takes the memory that a header asks for before it knows whether the file has as much, and
    reads other things than numbers. Here a header must agree with the bytes that follow it.

    Args:
        path: of the file.
        name: how messages call it.
        limit: bytes that the file may have, and that all of its arrays may have together.
        packed: whether its arrays may be compressed.
        advice: what to do about a faulty one, for the message.

    Raises:
        UserError: the file can't be read, is none of the two, is damaged or too large, or has arrays of
            something other than numbers.
    """
    with parsing(name, "is damaged, or no .npz or .npy file", advice), open_ordinary(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise ValueError(f"it has {size} bytes, more than the {limit} that are read")
        if stream.read(len(MAGIC)) == MAGIC:
            stream.seek(0)
            return {"": _array(stream, size)}
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > limit:
                raise ValueError(f"its arrays have more than {limit} bytes")
            return {
                Path(member.filename).stem: _member(archive, member, size, MAX_RATIO if packed else 1)
                for member in members
            }


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int, ratio: int) -> np.ndarray:
    """An array from an archive of ``size`` bytes, whose directory may say anything of it."""
    if member.compress_size > size or member.file_size > ratio * member.compress_size:
        raise ValueError(f"it unpacks to {member.file_size} bytes, more than it has")
    with archive.open(member) as stream:
        return _array(stream, member.file_size)


def _array(stream: IO[bytes], size: int) -> np.ndarray:
    """The array of an ``.npy`` file of ``size`` bytes. Raises nearly anything."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # later ones are for records with many fields
        raise ValueError(f"its array is in version {version[0]}.{version[1]} of the format")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_HEADER)
    if dtype.kind not in KINDS or dtype.hasobject:
        raise ValueError(f"its array is of {one_line(str(dtype), 40)}, not of numbers")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"its array has the shape {one_line(str(shape), 80)}")
    left = size - stream.tell()
    if math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"it has {left} bytes for an array of {dtype} {one_line(str(shape), 80)}")
    content = bytearray(left)
    view = memoryview(content)
    while view and (count := stream.readinto(view)):  # type: ignore[attr-defined]
        view = view[count:]
    if view or stream.read(1):
        raise ValueError("it ends too early or too late")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if columns_first else "C")
