"""Files in place of others are called what they are."""

import gzip
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from dnnlib.file_kinds import kind_of, refuse_other_kinds
from torch_utils.persistence import load_network_pkl


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


STATE = {"format": "stylegan2-ada-ggdr training state", "version": 1}
FILES = {
    "web page": (b"<!DOCTYPE html><html><title>Virus scan warning</title></html>", "a web page"),
    "web page in capitals": (b"\xef\xbb\xbf\n  <HTML><BODY>", "a web page"),
    "XML answer": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 381673535\n",
        "git lfs pull",
    ),
    "gzip": (gzip.compress(b"x"), "compressed with gzip; unpack it first"),
    "bzip2": (b"BZh91AY&SY", "compressed with bzip2"),
    "xz": (b"\xfd7zXZ\x00\x00", "compressed with xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x00", "compressed with zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00", "a 7z archive"),
    "RAR": (b"Rar!\x1a\x07\x01", "a RAR archive"),
    "npy": (npy(), "a numpy array"),
    "npz": (zipped("w.npy"), "an archive of numpy arrays"),
    "images": (zipped("a/0.png", "dataset.json"), "a zip of images, such as --data takes"),
    "zip": (zipped("a.txt"), "but a zip;"),
    "truncated zip": (zipped("a.txt")[:40], "a zip that is damaged"),
    "state": (saved(STATE) + b"SHA-256:" + bytes(32), "a run's training state, which --continue reads"),
    "truncated state": (saved(STATE)[:300], "a checkpoint of torch.save that is damaged"),
    "rosinality": (saved({"g_ema": {"w": torch.zeros(3)}}), "rosinality"),
    "rosinality of before": (
        saved({"g_ema": {"w": torch.zeros(3)}}, _use_new_zipfile_serialization=False),
        "rosinality",
    ),
    "Lightning": (saved({"pytorch-lightning_version": "2", "state_dict": {}}), "PyTorch Lightning"),
    "torch.save": (saved({"model": torch.zeros(3)}), "a checkpoint that torch.save wrote"),
    "torch.export": (zipped("archive/models/model.json"), "a program of torch.export"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\x00", "an HDF5 file"),
    "safetensors": (struct.pack("<Q", 2) + b"{}".replace(b"{}", b'{"a":0}'), "a safetensors file"),
    "ONNX": (b"\x08\x0a\x12\x07pytorch\x1a\x032.9", "a graph in ONNX"),
    "picture": (b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
    "JSON": (json.dumps({"a": 1}).encode(), "a JSON document"),
    "text": (b"Not Found", "a text file"),
    "program": (b"\x7fELF\x02", "a program or library"),
    "empty": (b"", "empty"),
    "zeros": (bytes(1000), "full of zeros"),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_what_is_no_network_pickle_is_called_what_it_is(tmp_path: Path, content: Any, words: Any) -> None:
    (tmp_path / "net.pkl").write_bytes(content)
    with pytest.raises(UserError, match="is not a network pickle but ") as caught:
        load_network_pkl(tmp_path / "net.pkl")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["dnnlib.tflib.network Network", "tfutil Network"])
def test_networks_of_tensorflow_are_called_so(name: Any) -> None:
    module, class_name = name.split()
    content = b"\x80\x03c" + f"{module}\n{class_name}\n".encode() + b")\x81}b."
    with pytest.raises(UserError, match="StyleGAN's TensorFlow versions"):
        load_network_pkl(io.BytesIO(content))


def test_pickles_and_unknown_files_have_no_other_kind(tmp_path: Path) -> None:
    for content, kind in ((pickle.dumps({}), "pickle"), (b"\x01\x02\x03\xff" * 10, "unknown")):
        stream = io.BytesIO(b"--" + content)
        stream.seek(2)
        assert kind_of(stream)[0] == kind
        assert stream.tell() == 2
    (tmp_path / "a").write_bytes(b"\x01\x02\x03\xff")
    refuse_other_kinds(tmp_path / "a", "a", wanted=[])
    (tmp_path / "a").write_bytes(npy())
    refuse_other_kinds(tmp_path / "a", "a", wanted=["npy"])
    with pytest.raises(UserError, match=r"^a is a numpy array \(\.npy\); give another$"):
        refuse_other_kinds(tmp_path / "a", "a", wanted=["npz"], advice="give another")
