"""The names of the files in a folder or a zip, and counts of those that are left out."""

import heapq
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnnlib.cli import plural
from dnnlib.errors import UserError
from dnnlib.untrusted import one_line, reason

#: Raster formats that Pillow reads by itself. Its registry also names formats that need other programs.
IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".pcx", ".sgi"),
}

#: Archives that people put beside images. They are not opened.
ARCHIVE_SUFFIXES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}

LABEL_FILE = "dataset.json"

#: Files of file managers. They are no data, so notes leave them out.
CLUTTER = {".DS_Store", "__MACOSX", "Thumbs.db", "desktop.ini"}

SHOWN_KINDS = 8  # endings that one message lists


@dataclass
class Listing:
    """The visible files of a folder or zip, and the number of others.

    Attributes:
        names: of the files, sorted, with ``/`` between the parts.
        members: of a zip, its own name for each of them.
        hidden: files and folders whose names begin with a dot.
        special: pipes, sockets and devices. They are never opened.
        broken: links that lead nowhere or cannot be followed.
        upward: members of a zip with ``..`` in their names.
        again: linked folders whose files are listed under another name already.
        folders: device and inode of every folder that was read, or of the zip.
    """

    names: list[str] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    hidden: int = 0
    special: int = 0
    broken: int = 0
    upward: int = 0
    again: list[str] = field(default_factory=list)
    folders: set[tuple[int, int]] = field(default_factory=set)

    def image_names(self) -> list[str]:
        """The names with an image's ending, sorted."""
        return [name for name in self.names if is_image_name(name)]

    def label_file(self) -> str | None:
        """The name of the ``dataset.json``: at the top, or in the one folder that holds everything."""
        tops = {name.split("/")[0] for name in self.names}
        places = [LABEL_FILE, *(f"{top}/{LABEL_FILE}" for top in tops if len(tops) == 1)]
        return next((name for name in places if name in self.names), None)

    def left_out(self) -> str:
        """Counts of other files than images and labels: ``20 .heic, 1 .zip, 2 hidden``; empty for none."""
        endings = self._unread()
        shown = [
            f"{number} {one_line(ending, 20) or 'without an ending'}"
            for ending, number in endings.most_common(SHOWN_KINDS)
        ]
        others = sum(endings.values()) - sum(number for _, number in endings.most_common(SHOWN_KINDS))
        counts = {
            f"{others} of other kinds": others,
            f"{self.hidden} hidden": self.hidden,
            f"{self.special} special (pipes, sockets or devices)": self.special,
            plural(self.broken, "broken link"): self.broken,
            f"{self.upward} with '..' in the name": self.upward,
        }
        shown += [text for text, number in counts.items() if number]
        if self.again:
            shown.append(
                f"{len(self.again)} linked to folders that are read already ('{one_line(self.again[0])}' "
                "first)"
            )
        return ", ".join(shown)

    def advice(self) -> str:
        """What to do about the files of :meth:`left_out`; empty for nothing."""
        endings = self._unread()
        ways = {
            "Unpack archives, or give a zip by itself.": endings.keys() & ARCHIVE_SUFFIXES,
            "Convert HEIC files to PNG or JPEG.": endings.keys() & {".heic", ".heif"},
            "Images are known by their endings: rename those without one.": endings.keys() & {""},
        }
        return " ".join(way for way, applies in ways.items() if applies)

    def _unread(self) -> Counter[str]:
        label_file = self.label_file()
        unread = (
            name
            for name in self.names
            if not is_image_name(name) and name != label_file and not _is_clutter(name)
        )
        return Counter(os.path.splitext(name)[1].lower() for name in unread)


def list_folder(folder: Path) -> Listing:
    """The files below a folder. Raises :class:`UserError` where a folder cannot be listed.

    Linked folders are followed. Each real folder is read once, at its own place rather than at a link, so
    that links neither lead in circles nor double the data.
    """
    found = Listing()
    waiting = [("", str(folder))]
    while waiting:
        name, path = heapq.heappop(waiting)
        for link in _list_real_folders(found, name, path):
            heapq.heappush(waiting, link)
    found.names.sort()
    return found


def list_zip(infos: Iterable[zipfile.ZipInfo], inside: str, path: Path) -> Listing:
    """The members of a zip whose names begin with ``inside``, by the rest of their names.

    Raises:
        UserError: two images, or two ``dataset.json``, have one name.
    """
    found = Listing()
    hidden = set()
    for info in infos:
        name = plain_name(info.filename)
        if info.is_dir() or not name.startswith(inside):
            continue
        name = name[len(inside) :]
        parts = name.split("/")
        if ".." in parts:
            found.upward += 1
        elif any(map(_is_hidden, parts)):
            depth = next(i for i, part in enumerate(parts) if _is_hidden(part))
            hidden.add("/".join(parts[: depth + 1]))
        elif name in found.members and (is_image_name(name) or parts[-1] == LABEL_FILE):
            first, second = one_line(found.members[name]), one_line(info.filename)
            spelled = "" if first == second else f" (as '{first}' and '{second}')"
            raise UserError(
                f"'{one_line(name)}' is in '{path}' twice{spelled}; make the zip anew with one file of each "
                "name"
            )
        else:
            found.members[name] = info.filename
    found.hidden = sum(not _is_clutter(name) for name in hidden)
    found.names = sorted(found.members)
    return found


def plain_name(name: str) -> str:
    """A file's name without ``./`` or ``/`` in front, and with ``/`` in place of backslashes."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def is_image_name(name: str) -> bool:
    """Whether a name has an image's ending."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _list_real_folders(found: Listing, name: str, path: str) -> Sequence[tuple[str, str]]:
    """Add the contents of a folder and of the real folders in it. Returns name and path of linked folders."""
    links = []
    stack = [(name, path)]
    while stack:
        name, path = stack.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in found.folders:
                found.again.append(name)
                continue
            found.folders.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    inner = (f"{name}/{entry.name}" if name else entry.name, entry.path)
                    kind = _kind(entry)
                    if kind == "folder" and entry.is_symlink():
                        links.append(inner)
                    elif kind == "folder":
                        stack.append(inner)
                    elif kind == "file":
                        found.names.append(inner[0])
                    elif kind != "clutter":
                        setattr(found, kind, getattr(found, kind) + 1)
        except OSError as error:
            raise UserError(f"cannot list '{one_line(path)}': {reason(error)}") from error
    return links


def _kind(entry: os.DirEntry[str]) -> str:
    """``file``, ``folder``, ``clutter``, or the attribute of :class:`Listing` that counts it."""
    if _is_clutter(entry.name) and _is_hidden(entry.name):
        return "clutter"
    if _is_hidden(entry.name):
        return "hidden"
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "special" if os.path.exists(entry.path) else "broken"
    except OSError:  # a link to itself, or to where one may not look
        return "broken"


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _is_clutter(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last in CLUTTER or last.startswith("._")
