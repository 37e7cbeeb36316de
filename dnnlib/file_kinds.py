"""What a file is that was given in place of another: told by its first bytes, in words for a message."""

import os
import re
import zipfile
from collections.abc import Collection
from typing import IO

from dnnlib.errors import UserError
from dnnlib.untrusted import open_ordinary, parsing

HEAD = 4096  # bytes that are looked at
MAX_NAMES = 2**20  # bytes of a checkpoint's pickle in which the names of its parts are looked for

LFS = "a Git LFS pointer, which stands for the file and is not it (run 'git lfs pull' where it came from)"
WEB_PAGE = (
    "a web page, most likely what a server sent in place of the file (download it again, in a browser if "
    "need be)"
)
STATE = "a run's training state, which --continue reads; networks are in network-snapshot-*.pkl beside it"
TORCH = "a checkpoint that torch.save wrote"
ROSINALITY = (
    "a checkpoint of another program, most likely rosinality's stylegan2-pytorch, whose networks cannot be "
    "opened here"
)
LIGHTNING = "a checkpoint of PyTorch Lightning"
ARCHIVE = "; unpack it first"

#: First bytes, a short name of the kind, and the kind in words. The first that fits counts.
SIGNATURES: list[tuple[bytes, str, str]] = [
    (b"version https://git-lfs", "lfs", LFS),
    (b"\x1f\x8b", "gzip", "compressed with gzip" + ARCHIVE),
    (b"BZh", "bzip2", "compressed with bzip2" + ARCHIVE),
    (b"\xfd7zXZ\x00", "xz", "compressed with xz" + ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "zstd", "compressed with zstd" + ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive" + ARCHIVE),
    (b"Rar!\x1a\x07", "rar", "a RAR archive" + ARCHIVE),
    (b"\x93NUMPY", "npy", "a numpy array (.npy)"),
    (b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file, such as Keras writes"),
    (b"\x89PNG\r\n\x1a\n", "image", "a picture (PNG)"),
    (b"\xff\xd8\xff", "image", "a picture (JPEG)"),
    (b"GIF8", "image", "a picture (GIF)"),
    (b"%PDF", "pdf", "a PDF document"),
    (b"\x7fELF", "program", "a program or library"),
    (b"MZ", "program", "a program or library of Windows"),
    (b"GGUF", "gguf", "a language model (GGUF)"),
    (b"SQLite format 3\x00", "sqlite", "an SQLite database"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch", TORCH),
    (b"#!", "script", "a script"),
]

#: Names in checkpoints, and whose they are.
CHECKPOINTS = [
    (b"stylegan2-ada-ggdr training state", "state", STATE),
    (b"pytorch-lightning_version", "torch", LIGHTNING),
    (b"g_ema", "torch", ROSINALITY),
    (b"latent_avg", "torch", ROSINALITY),
]

#: Parts of a zip's member names, most telling first.
ZIP_MEMBERS = [
    ("models/model.json", "pt2", "a program of torch.export"),
    ("code/__torch__", "torchscript", "a TorchScript program"),
    ("data.pkl", "torch", TORCH),
    ("saved_model.pb", "tensorflow", "a saved model of TensorFlow"),
    ("[Content_Types].xml", "office", "an office document"),
]
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


def refuse_other_kinds(
    path: str | os.PathLike[str], name: str, *, wanted: Collection[str], advice: str = ""
) -> None:
    """Raise :class:`UserError` if a file is recognisably of another kind than those ``wanted``.

    Args:
        path: of the file.
        name: how the message calls it.
        wanted: short names of kinds, see :func:`kind_of`; ``unknown`` is always among them.
        advice: what to give in its place.
    """
    with parsing(name), open_ordinary(path) as stream:
        kind, words = kind_of(stream)
    if kind not in wanted and kind != "unknown":
        raise UserError(f"{name} is {words}" + (f"; {advice}" if advice else ""))


def kind_of(stream: IO[bytes]) -> tuple[str, str]:
    """A file's kind as a short name and in words; ``unknown`` if nothing marks it. The position stays.

    The names are those of :data:`SIGNATURES` and :data:`ZIP_MEMBERS`, and ``empty``, ``zeros``, ``html``,
    ``json``, ``text``, ``safetensors``, ``onnx``, ``pickle``, ``npz``, ``images``, ``zip`` and ``state``.
    """
    start = stream.tell()
    head = stream.read(HEAD)
    try:
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _zip_kind(stream, head)
        kind, words = _head_kind(head)
        return _checkpoint_kind(head + stream.read(MAX_NAMES)) if kind == "torch" else (kind, words)
    finally:
        stream.seek(start)


def _head_kind(head: bytes) -> tuple[str, str]:
    if not head:
        return "empty", "empty"
    if not head.strip(b"\x00"):
        return "zeros", "full of zeros, as files are whose writing or download was cut off"
    for signature, kind, words in SIGNATURES:
        if head.startswith(signature):
            return kind, words
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle", "a pickle, as networks in .pkl are"
    if head[:1] == b"\x08" and re.search(rb"onnx|pytorch", head[:64]):
        return "onnx", "a graph in ONNX (whose name must end in .onnx)"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 2**30:
        return "safetensors", "a safetensors file (whose name must end in .safetensors)"
    return _text_kind(head)


def _text_kind(head: bytes) -> tuple[str, str]:
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \r\n\t")
    if re.match(r"<(!doctype html|html|head|body|\?xml|!--)", text, re.IGNORECASE):
        return "html", WEB_PAGE
    if not head.isascii() or not all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        return "unknown", "of an unknown kind"
    return ("json", "a JSON document") if text[:1] in ("{", "[") else ("text", "a text file")


def _zip_kind(stream: IO[bytes], head: bytes) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            for part, kind, words in ZIP_MEMBERS:
                found = next((name for name in names if part in name), None)
                if found is not None:
                    if kind == "torch":
                        with archive.open(found) as member:
                            return _checkpoint_kind(member.read(MAX_NAMES))
                    return kind, words
    except Exception:  # noqa: BLE001  zipfile raises nearly anything; what cannot be listed is called what its start says
        return (
            "zip",
            f"a {'checkpoint of torch.save' if b'data.pkl' in head[:100] else 'zip'} that is damaged or "
            "truncated",
        )
    if names and all(name.endswith(".npy") for name in names):
        return "npz", "an archive of numpy arrays (.npz)"
    if any(name.lower().endswith(IMAGES) for name in names):
        return "images", "a zip of images, such as --data takes"
    return "zip", "a zip" if names else "an empty zip"


def _checkpoint_kind(text: bytes) -> tuple[str, str]:
    """Whose checkpoint it is, by the names in the beginning of its pickle, which is not opened."""
    return next(((kind, words) for mark, kind, words in CHECKPOINTS if mark in text), ("torch", TORCH))
