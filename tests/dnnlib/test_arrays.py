"""Numpy's files: what is read, and what a hostile one cannot do."""

import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnlib.arrays import read_arrays
from dnnlib.errors import UserError


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + data


def npz(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("a.npy", content)
    return stream.getvalue()


def pickled() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([{}], dtype=object), allow_pickle=True)
    return stream.getvalue()


HOSTILE = {
    "terabytes": npy("(1000000000000, 4)"),
    "more than a machine counts": npy("(1180591620717411303424, 4)"),
    "negative": npy("(-1, 4)"),
    "no tuple": npy("5"),
    "bool": npy("(True,)", data=bytes(4)),
    "too short": npy("(3,)", data=bytes(11)),
    "too long": npy("(3,)", data=bytes(13)),
    "deep": npy("(" * 3000),
    "records": npy("(1,)", "[('a', 'O')]", bytes(8)),
    "objects": pickled(),
    "text": npy("(1,)", "'<U4'", bytes(16)),
    "times": npy("(1,)", "'<M8[s]'", bytes(8)),
    "version": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    "nothing": b"",
}


@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_arrays_are_refused_in_little_memory(tmp_path: Path, content: Any, packed: Any) -> None:
    (tmp_path / "a").write_bytes(npz(content, zipfile.ZIP_DEFLATED) if packed else content)
    tracemalloc.start()
    try:
        with pytest.raises(
            UserError, match=r"^the file is damaged, or no \.npz or \.npy file: .+; get it anew$"
        ):
            read_arrays(tmp_path / "a", "the file", advice="get it anew")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_archives_that_unpack_to_much_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(npz(npy("(1000000,)", data=bytes(4_000_000)), zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="its arrays have more than 1000000 bytes"):
        read_arrays(tmp_path / "a", "a", limit=1_000_000)
    with pytest.raises(UserError, match="it unpacks to 4000"):
        read_arrays(tmp_path / "a", "a", packed=False)
    assert read_arrays(tmp_path / "a", "a")["a"].shape == (1_000_000,)
    with pytest.raises(UserError, match="more than the 10 that are read"):
        read_arrays(tmp_path / "a", "a", limit=10)


def test_arrays_of_every_form_are_read(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.int64(5),
        "empty": np.zeros([0, 3]),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big end": np.arange(3, dtype=">f4"),
        "truth": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz", "a")
        assert found.keys() == arrays.keys()
        for name, value in arrays.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype
            assert found[name].flags.writeable
    np.save(tmp_path / "a.npy", arrays["columns"])
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npy", "a")[""], arrays["columns"])


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(UserError, match="no ordinary file"):
        read_arrays(tmp_path / "a", "a")
