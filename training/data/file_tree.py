"""The files of a data set, in a folder or in a zip, read by name without extracting anything."""

import contextlib
import functools
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dnnlib.errors import UserError
from dnnlib.untrusted import one_line, parsing, read_bytes
from training.data.file_listing import Listing, list_folder, list_zip

MAX_FILE = 2**31  # bytes of one file

#: Files in one task of a digest's threads, and the number of threads, at most.
READ_IN_TURN, READERS = 64, 8

#: Bytes that :meth:`FileTree.quick_digest` reads, at most, in whole files.
QUICK_BYTES = 2**28


class FileTree:
    """The files below a folder or inside a zip, by relative names with ``/`` between the parts.

    The folder may lie in a zip: ``pairs.zip/images``. Hidden files and macOS' ``__MACOSX`` shadows are left
    out; linked folders are followed. Each process opens zips itself, so an instance may be forked or pickled
    into workers.

    Attributes:
        path: of the folder or zip.
        is_zip: whether the files lie in a zip.
        listing: the files, and counts of what is left out.
        names: of all files, sorted.

    Raises:
        UserError: the path is missing, is neither folder nor zip, or cannot be listed; or a zip has two
            images of one name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle: zipfile.ZipFile | None = None
        self._handle_pid: int | None = None
        self._place, self._inside = split_zip(path)
        self.is_zip = self._place.is_file()
        self.listing = self._list()
        if not self._place.exists() or (self._inside and not self.listing.names):
            raise UserError(f"'{self.path}' does not exist; give a folder of images or a zip of them")
        self.names = self.listing.names
        self._members = self.listing.members

    @property
    def image_names(self) -> list[str]:
        """The names with an image's suffix, sorted."""
        return self.listing.image_names()

    def require_images(self, advice: str) -> list[str]:
        """The names of the images. Without any, raises :class:`UserError` with what is there instead."""
        names = self.image_names
        if not names:
            there = self.listing.left_out()
            unread = (
                f" that are read (not read: {there}). {self.listing.advice()}".rstrip(" .") if there else ""
            )
            raise UserError(f"'{self.path}' holds no images{unread}; {advice}")
        return names

    def note(self) -> list[str]:
        """A sentence about the files that are left out; none where there are none."""
        there = self.listing.left_out()
        return (
            [f"Not read in '{one_line(str(self.path))}': {there}. {self.listing.advice()}".rstrip()]
            if there
            else []
        )

    def read(self, name: str) -> bytes:
        """The content of one file. Raises :class:`UserError` where it cannot be read."""
        if not self.is_zip:
            return read_bytes(self.path / name, limit=MAX_FILE)
        with parsing(f"'{one_line(name)}' in '{self.path}'"):
            info = self._zip().getinfo(self._members[name])
            if info.file_size > MAX_FILE:
                raise ValueError(f"it has {info.file_size} bytes, more than the {MAX_FILE} that are read")
            return self._zip().read(info)

    def digest(self, names: Sequence[str], mark: Callable[[bytes], bytes] | None = None) -> str:
        """SHA-256 over the SHA-256 of each file's content, in order: the same for a folder and a zip of it.

        What ``mark`` gives for a content follows its SHA-256. Threads read all files. On a terminal, a bar
        shows the progress.
        """
        if self.is_zip:
            self._zip()  # one handle for all threads
        parts = [names[start : start + READ_IN_TURN] for start in range(0, len(names), READ_IN_TURN)]
        total = hashlib.sha256()
        pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
        try:
            digests_of = functools.partial(self._digests, mark=mark)
            found = pool.map(digests_of, parts) if len(parts) > 1 else map(digests_of, parts)
            for digests in tqdm(
                found,
                total=len(parts),
                unit="part",
                desc="reading the data",
                delay=2,
                leave=False,
                disable=None,
            ):
                total.update(digests)
        finally:
            pool.shutdown(cancel_futures=True)
            self.close()
        return total.hexdigest()

    def quick_digest(self, names: Sequence[str]) -> str:
        """A digest of names, sizes, a zip's checksums, and contents.

        All contents are read where they have at most :data:`QUICK_BYTES`, else those of every n-th file.
        """
        sizes = [size for size, _ in self._facts(names)]
        sample = names[:: max(1, -(-sum(sizes) // QUICK_BYTES))]
        listed = "\n".join(names).encode("utf-8", "surrogateescape")
        return hashlib.sha256(
            listed + self.outline(names).encode() + self.digest(sample).encode()
        ).hexdigest()

    def outline(self, names: Iterable[str]) -> str:
        """SHA-256 of names and sizes in a folder, of checksums and sizes in a zip.

        Earlier versions recognised zips and large folders by it. Other contents can have the same outline.
        """
        if self.is_zip:
            text = "".join(f"{checksum:08x} {size}\n" for size, checksum in self._facts(names))
        else:
            text = "\n".join(
                f"{name} {size}" for name, (size, _) in zip(names, self._facts(names), strict=True)
            )
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def check_apart(self, output: str | os.PathLike[str], option: str) -> None:
        """Raise :class:`UserError` where an output, given by ``option``, is or lies in what is read here."""
        check_apart(output, self.path, option, self.listing.folders)

    def close(self) -> None:
        """Close the zip handle of this process; reading again opens a new one."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _list(self) -> Listing:
        if not self.is_zip:
            if self._place.exists() and not self._place.is_dir():
                raise UserError(
                    f"'{self.path}' is a pipe, socket or device; give a folder of images or a zip of them"
                )
            return list_folder(self.path) if self._place.exists() else Listing()
        with parsing(f"'{self.path}'", "is no zip that can be read", "give a folder of images or a zip"):
            found = list_zip(self._zip().infolist(), self._inside, self.path)
        found.folders.update(_identities([self._place]))
        self.close()
        return found

    def _digests(self, names: Sequence[str], mark: Callable[[bytes], bytes] | None = None) -> bytes:
        contents = map(self.read, names)
        return b"".join(
            hashlib.sha256(content).digest() + (mark(content) if mark else b"") for content in contents
        )

    def _facts(self, names: Iterable[str]) -> list[tuple[int, int]]:
        """Size and, in a zip, CRC-32 of each file, as its directory says."""
        if not self.is_zip:
            return [((self.path / name).stat().st_size, 0) for name in names]
        found = [
            (info.file_size, info.CRC)
            for info in (self._zip().getinfo(self._members[name]) for name in names)
        ]
        self.close()
        return found

    def _zip(self) -> zipfile.ZipFile:
        if self._handle is None or self._handle_pid != os.getpid():
            with parsing(f"'{self.path}'", "is no zip that can be read", "give a folder of images or a zip"):
                self._handle = zipfile.ZipFile(self._place)
            self._handle_pid = os.getpid()
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_handle_pid": None}


def split_zip(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """``pairs.zip/images`` to ``(pairs.zip, "images/")`` for a file pairs.zip; others to ``(path, "")``."""
    whole = Path(path)
    files = [] if whole.exists() else [parent for parent in whole.parents if parent.is_file()]
    return (files[0], f"{whole.relative_to(files[0]).as_posix()}/") if files else (whole, "")


def folder_exists(path: str | os.PathLike[str]) -> bool:
    """Whether a folder exists, on disk or in a zip. Raises :class:`UserError` for an unreadable zip."""
    place, inside = split_zip(path)
    return any(name.startswith(inside) for name in FileTree(place).names) if inside else place.is_dir()


def check_apart(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    option: str,
    folders: Iterable[tuple[int, int]] = (),
) -> None:
    """Raise :class:`UserError` where an output is an input or lies in one, whatever links lead there.

    Args:
        output: a path, which need not exist.
        source: a folder or file that is read.
        option: gives the output, for the message.
        folders: device and inode of further folders that are read with ``source``.
    """
    place, _ = split_zip(source)
    itself = set(_identities([place]))
    real = Path(os.path.realpath(output))
    if itself & set(_identities([real])):
        raise UserError(f"'{source}' and {option} '{output}' are the same; give another place")
    around = Path(os.path.realpath(Path(output).parent))  # the place of a link itself
    if (itself | set(folders)) & set(_identities([real, *real.parents, around, *around.parents])):
        raise UserError(
            f"{option} '{output}' lies in '{source}', which is read: what is written would become part of "
            "the data; give a place outside it"
        )


def _identities(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Device and inode of each path that exists."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):  # it does not exist yet
            status = os.stat(path)
            found.append((status.st_dev, status.st_ino))
    return found
