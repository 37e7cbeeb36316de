"""Checkpoints on disk: ``training-state-NNNNNNNNNN.pt``, N being images seen.

A file is what ``torch.save`` writes, followed by its checksum, which ``torch.load`` ignores. PyTorch does not
verify the checksums in its own files, and may take half a file for a whole one.
"""

import hashlib
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Any, TypedDict, cast

import torch

from dnnlib.checked import Rule, accepted
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.untrusted import one_line, parsing
from training.config.run_directory import images_in_state, state_paths

FORMAT = "stylegan2-ada-ggdr training state"
VERSION = 1
KEEP = 2  # checkpoints of a run: the last, and the one before in case the last is damaged

_MARK = b"SHA-256:"
_TRAILER = len(_MARK) + hashlib.sha256().digest_size


class Marked(TypedDict):
    """What every checkpoint says of itself."""

    format: Annotated[str, Rule(lambda value: value == FORMAT, f"'{FORMAT}'")]
    version: int


class DamagedState(Exception):
    """A checkpoint that is truncated or altered. The message says how that shows."""


class _HashingWriter:
    """Hashes what it writes to a stream, and keeps the stream's error."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self._stream.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._stream.flush()


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, nested in dictionaries, lists and tuples.

    Raises :class:`OSError`; ``path`` is then as before.
    """
    with atomic_write(path) as stream:
        writer = _HashingWriter(stream)
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, cast(IO[bytes], writer))
        except RuntimeError as error:  # as which torch reports a full disk, and any interruption
            if writer.failure is not None:
                raise writer.failure from None
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise
        stream.write(_MARK + writer.digest.digest())


def read_state(path: Path) -> dict[str, Any]:
    """Read what :func:`write_state` wrote, tensors on the CPU.

    Raises:
        DamagedState: the content does not match the checksum.
        UserError: the file is whole, but of another version.
        OSError: it can't be read.
    """
    with open(path, "rb") as stream:
        _verify(stream)
        stream.seek(0)
        try:
            with parsing(str(path)):
                _check_unpacked_size(stream)
                content = torch.load(stream, map_location="cpu", weights_only=True)
        except UserError as error:
            raise DamagedState(f"it cannot be unpacked ({one_line(str(error.__cause__), 80)})") from error
    if not accepted(content, Marked):
        raise UserError(f"{path} is not a checkpoint of this project")
    if content["version"] != VERSION:
        raise UserError(
            f"{path} has format version {content['version']}, this program reads version {VERSION}; update "
            "the program"
        )
    return content


def _verify(stream: IO[bytes]) -> None:
    length = os.fstat(stream.fileno()).st_size - _TRAILER
    if length <= 0:
        raise DamagedState(f"it has only {length + _TRAILER} bytes")
    digest, left = hashlib.sha256(), length
    while left > 0 and (block := stream.read(min(left, 1 << 22))):
        digest.update(block)
        left -= len(block)
    trailer = stream.read(_TRAILER)
    if not trailer.startswith(_MARK):
        raise DamagedState("it is truncated: its checksum is missing")
    if trailer != _MARK + digest.digest():
        raise DamagedState("its content does not match its checksum")


def _check_unpacked_size(stream: IO[bytes]) -> None:
    """Raise :class:`ValueError` for a file that unpacks to more than its size: PyTorch never compresses."""
    with zipfile.ZipFile(stream) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > os.fstat(stream.fileno()).st_size:
        raise ValueError(f"it unpacks to {unpacked} bytes, more than it has")
    stream.seek(0)


def newest_state(run_dir: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that is whole, with its path.

    A damaged one is named on standard error, and the one before it is taken.

    Raises:
        UserError: there is none that can be used.
    """
    paths = state_paths(run_dir)
    for path in paths:
        try:
            return path, read_state(path)
        except DamagedState as error:
            reason = str(error)
        except OSError as error:
            reason = f"it cannot be read ({error.strerror})"
        print(
            f"Warning: {path} is damaged: {reason}; looking for the one before it",
            file=sys.stderr,
            flush=True,
        )
    raise UserError(
        f"none of the {len(paths)} checkpoints in {run_dir} can be used; put a copy of a whole one there, or "
        "start a new run from its last network-snapshot-*.pkl with --resume"
    )


def prune_states(run_dir: Path, newest: Path) -> None:
    """Keep ``newest`` and the one before it.

    Later ones go too: they were damaged, or the run would have gone on from them.
    """
    paths = state_paths(run_dir)
    older = [path for path in paths if images_in_state(path) < images_in_state(newest)]
    for path in paths:
        if path not in (newest, *older[: KEEP - 1]):
            path.unlink(missing_ok=True)
