"""Decides which of the builds in a cache may be loaded.

Loading a library runs it. So a build is loaded only if its folder and its files belong to this user or to
root, nobody else may write to them, and the library has the checksum that was recorded when it was built.
"""

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

from dnnlib.environment import CACHE, make_cache_folder
from dnnlib.files import atomic_write, file_sha256, sync_folder


class NotOurs(OSError):
    """The folder for builds belongs to another user. One line."""


def own_folder(folder: Path) -> tuple[Path, str | None]:
    """Make the folder for builds unless it exists, and let nobody else write to it.

    Args:
        folder: the folder to use. If it belongs to another user, or to root and everybody may write to it, a
            folder for this user beside it is used in its place.

    Returns:
        the folder in use, and a line that explains why it is not ``folder``, or None.

    Raises:
        OSError: it cannot be made.
        NotOurs: the folder beside it is another user's too.
    """
    line = None
    make_cache_folder(folder, mode=0o755)
    if (fault := _fault_of(folder)) is not None and folder.stat().st_uid != os.getuid():
        beside = folder.with_name(f"{folder.name}-{os.getuid()}")
        line = f"{fault}, so no compiled op in it is used; {beside} is used in its place"
        folder = beside
        make_cache_folder(folder, mode=0o755)
    found = folder.stat()
    if found.st_uid == os.getuid():
        if found.st_mode & 0o022:
            folder.chmod(stat.S_IMODE(found.st_mode) & ~0o022)
    elif (fault := _fault_of(folder)) is not None:
        raise NotOurs(f"{fault}; set {CACHE} to a folder of your own")
    return folder, line


def seal(library: Path) -> None:
    """Record a library's checksum beside it, let nobody else write to them, and flush both to the disk."""
    library.chmod(0o755)
    with open(library, "rb") as stream:
        os.fsync(stream.fileno())
    with atomic_write(_record_of(library), "w", encoding="ascii") as stream:
        stream.write(file_sha256(library))
    _record_of(library).chmod(0o644)
    sync_folder(library.parent)


def fault(library: Path) -> str | None:
    """Why an existing library may not be loaded; None if it may."""
    record = _record_of(library)
    try:
        for path in (library.parent, library, record):
            if (found := _fault_of(path)) is not None:
                return found
        if record.read_text(encoding="ascii").strip() != file_sha256(library):
            return f"{library} is damaged: it is not what was built"
    except (OSError, ValueError) as error:
        return f"{library} cannot be checked ({getattr(error, 'strerror', None) or error})"
    return None


def put_aside(folder: Path) -> None:
    """Rename a build that may not be loaded, and remove what can be removed. Raises :class:`OSError`."""
    aside = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, aside)  # also what belongs to others, in a folder that is ours
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink(missing_ok=True)


def _record_of(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


def _fault_of(path: Path) -> str | None:
    """Why a path may hold another user's work; None if it does not."""
    found = path.stat()
    if found.st_uid not in (os.getuid(), 0):
        return f"{path} belongs to another user (number {found.st_uid})"
    if found.st_mode & 0o022:
        return f"{path} can be written by other users"
    return None
