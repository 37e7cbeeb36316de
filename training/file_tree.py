"""The files of a data set, in a folder or in a zip, read by name without extracting anything."""

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dnnlib.errors import UserError
from dnnlib.untrusted import parsing, reason

# Raster formats that Pillow reads by itself. Not Pillow's whole registry: that names formats needing outside programs too.
IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".pcx", ".sgi"),
}


class FileTree:
    """The files below a folder (recursively) or inside a zip, by name relative to it with ``/`` between the parts.

    A folder may lie in a zip: ``pairs.zip/images``.

    Hidden files and macOS' ``__MACOSX`` shadows are left out. Zip handles are opened per process and never travel to
    another one, so an instance may be forked or pickled into workers.

    Attributes: ``path``, ``is_zip``, and ``names``, every file's name in sorted order.
    Raises :class:`UserError` when the path is missing, is neither folder nor zip, or can't be listed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle: zipfile.ZipFile | None = None
        self._handle_pid: int | None = None
        self._members: dict[str, str] = {}  # of a zip: what it calls each of its files
        self._place, self._inside = split_zip(path)
        self.is_zip = self._place.is_file()
        if self.is_zip:
            members = {_plain(info.filename): info.filename for info in self._zip().infolist()}
            inside = len(self._inside)
            self._members = {name[inside:]: real for name, real in members.items() if name.startswith(self._inside) and name[-1:] != "/"}
            names = list(self._members)
            self.close()
        elif self._place.exists():
            names = list(_walk(self.path))
        if not self._place.exists() or (self._inside and not names):
            raise UserError(f"'{self.path}' does not exist; give a folder of images or a zip of them")
        self.names = sorted(name for name in names if not _hidden(name))

    @property
    def image_names(self) -> list[str]:
        """The names with an image's suffix, sorted."""
        return [name for name in self.names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]

    def read(self, name: str) -> bytes:
        """The content of one file. Raises :class:`UserError` with its name when it can't be read."""
        with parsing(f"'{name}' in '{self.path}'"):
            return self._zip().read(self._members[name]) if self.is_zip else (self.path / name).read_bytes()

    def digest(self, names: Iterable[str]) -> str:
        """SHA-256 of the contents of some files, in order; of a zip, of the checksums and sizes that its directory records."""
        total = hashlib.sha256()
        for name in names:
            if self.is_zip:
                info = self._zip().getinfo(self._members[name])
                total.update(f"{info.CRC:08x} {info.file_size}\n".encode())
            else:
                total.update(hashlib.sha256(self.read(name)).digest())
        self.close()
        return total.hexdigest()

    def outline(self, names: Iterable[str]) -> str:
        """SHA-256 of the names and sizes of some files in a folder, without reading them."""
        lines = [f"{name} {(self.path / name).stat().st_size}" for name in names]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def close(self) -> None:
        """Close the zip handle of this process; reading again opens a new one."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _zip(self) -> zipfile.ZipFile:
        if self._handle is None or self._handle_pid != os.getpid():
            with parsing(f"'{self.path}'", "is no zip that can be read", "give a folder of images or a zip"):
                self._handle = zipfile.ZipFile(self._place)
            self._handle_pid = os.getpid()
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_handle_pid": None}


def split_zip(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """``pairs.zip/images`` to ``(pairs.zip, "images/")`` where pairs.zip is a file; any other path to itself and an empty string."""
    whole = Path(path)
    files = [] if whole.exists() else [parent for parent in whole.parents if parent.is_file()]
    return (files[0], f"{whole.relative_to(files[0]).as_posix()}/") if files else (whole, "")


def folder_exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a folder, on disk or in a zip. Raises :class:`UserError` for a zip that can't be read."""
    place, inside = split_zip(path)
    return any(name.startswith(inside) for name in FileTree(place).names) if inside else place.is_dir()


def _walk(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot list '{error.filename}': {reason(error)}") from error

    for root, _, files in os.walk(folder, onerror=refuse):
        for file in files:
            yield os.path.relpath(os.path.join(root, file), folder).replace(os.sep, "/")


def _plain(member: str) -> str:
    """A zip member's name as others write it: some archivers begin with ``./``, some put backslashes between the parts."""
    return member.replace("\\", "/").removeprefix("./")


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
