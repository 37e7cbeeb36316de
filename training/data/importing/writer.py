"""Writing a data set: a folder or a zip that appears whole or not at all."""

import contextlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from dnnlib.cli import may_overwrite, print_notes
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.untrusted import reason
from training.data.file_listing import LABEL_FILE
from training.data.labels import Label

# Zlib's usual level. Files are a tenth to a fifth smaller than at level 1, and take as long to decode. At
# level 0, the reference's, decoding takes half the time at best, and files have two to six times the size.
COMPRESS_LEVEL = 6


def encode_png(image: PIL.Image.Image) -> bytes:
    """PNG bytes of an ``L`` or ``RGB`` image, without metadata, so that pixels alone decide them."""
    stream = io.BytesIO()
    PIL.Image.fromarray(np.asarray(image)).save(stream, format="png", compress_level=COMPRESS_LEVEL)
    return stream.getvalue()


#: Endings of archives that are not written.
OTHER_ARCHIVES = {".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".lmdb", ".mdb", ".hdf5", ".h5"}


class DatasetWriter:
    """Writes images in order as ``NNNNN/imgNNNNNNNN.png``, and ``dataset.json`` at the end."""

    def __init__(self, put: Callable[[str, bytes], None], class_names: list[str] | None = None) -> None:
        self._put = put
        self._class_names = class_names
        self._labels: list[tuple[str, Label | None]] = []

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, png: bytes, label: Label | None) -> None:
        """Write one image."""
        number = f"{len(self):08d}"
        name = f"{number[:5]}/img{number}.png"
        self._put(name, png)
        self._labels.append((name, label))

    def finish(self) -> None:
        """Write the labels, null unless every image has one, and the classes' names.

        The reference ignores the names.
        """
        labelled = all(label is not None for _, label in self._labels)
        document: dict[str, Any] = {"labels": self._labels if labelled else None}
        if labelled and self._class_names is not None:
            document["class_names"] = self._class_names
        self._put(LABEL_FILE, json.dumps(document).encode())


@contextlib.contextmanager
def open_writer(
    dest: str | os.PathLike[str], class_names: list[str] | None = None
) -> Iterator[DatasetWriter]:
    """A writer of a data set into :func:`open_store`."""
    with open_store(dest) as put:
        writer = DatasetWriter(put, class_names)
        yield writer
        writer.finish()


@contextlib.contextmanager
def open_store(dest: str | os.PathLike[str]) -> Iterator[Callable[[str, bytes], None]]:
    """A function ``put(name, content)`` that writes into a zip or a folder.

    ``dest`` is a zip if it ends in ``.zip``; an old one is replaced. A folder has to be new or empty.
    Files go to a temporary neighbour, which takes the final name at the end of the block. After an exception,
    Ctrl-C included, nothing stays behind. Raises :class:`UserError` where ``dest`` cannot be written.
    """
    path = Path(os.path.abspath(dest))
    if not is_zip_name(path):
        path = path.resolve()  # the target of a link
    check_dest(path)
    try:
        with _parents(path), _zip(path) if is_zip_name(path) else _folder(path) as put:
            yield put
    except OSError as error:
        raise UserError(f"cannot write '{dest}': {reason(error)}") from error


def check_dest(dest: str | os.PathLike[str]) -> None:
    """Raise :class:`UserError` where something is in the data set's place."""
    path = Path(dest)
    if is_zip_name(path):
        if path.is_dir():
            raise UserError(f"--dest '{dest}' is a folder with a zip's name; remove it or give another name")
    elif os.path.ismount(path):
        raise UserError(
            f"--dest '{dest}' is where a disk is mounted, which nothing can take the place of; give a folder "
            "in it"
        )
    elif path.is_dir() and any(path.iterdir()):
        raise UserError(f"--dest folder '{dest}' is not empty; empty it or give another one")
    elif path.exists() and not path.is_dir():
        raise UserError(f"--dest '{dest}' is a file; give a folder or a name that ends in .zip")
    elif path.suffix.lower() in OTHER_ARCHIVES:
        raise UserError(
            f"--dest '{dest}': {path.suffix} files are not written; give a folder or a name that ends in .zip"
        )


def note_replaced_zip(dest: str | os.PathLike[str]) -> None:
    """Print a note where a zip will be replaced, unless ``--overwrite`` was given.

    As in the reference, a zip is replaced. The old one stays until the new one is complete.
    """
    if is_zip_name(Path(dest)) and os.path.lexists(dest) and not may_overwrite():
        print_notes([f"{dest} is there already, and the new data set takes its place"])


def is_zip_name(path: Path) -> bool:
    """Whether a destination of this name becomes a zip."""
    return path.suffix.lower() == ".zip"


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    # Stored, since PNG is compressed already; fixed time and permissions, so that equal content gives equal
    # bytes.
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, content: bytes) -> None:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)

        yield put


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:

        def put(name: str, content: bytes) -> None:
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

        yield put
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the folders above ``path``; on an exception, remove the new ones."""
    made: Sequence[Path] = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise
