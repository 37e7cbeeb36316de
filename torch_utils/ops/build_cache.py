"""Which of the builds that lie in a cache may be loaded.

Loading a library runs it. So a build is loaded only when its folder and its files belong to this user or to
the system's administrator, nobody else may write to them, and the library has the checksum that was recorded
when it was built.
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
    """A folder for builds belongs to somebody else: one line."""


def own_folder(folder: Path) -> tuple[Path, str | None]:
    """The folder for builds, made if need be, and a line where it is not the one that was asked for.

    Where ``folder`` belongs to another user, or to the administrator and everybody may write to it, that is
    one for this user alone beside it. Of a folder of this user the permission for others to write is taken
    back.

    Raises :class:`OSError` where it cannot be made, and :class:`NotOurs` where that one is somebody else's
    too.
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
    """Record a library's checksum beside it, let nobody else write to either, and put all of it on the
    disk."""
    library.chmod(0o755)
    with open(library, "rb") as stream:
        os.fsync(stream.fileno())
    with atomic_write(_record_of(library), "w", encoding="ascii") as stream:
        stream.write(file_sha256(library))
    _record_of(library).chmod(0o644)
    sync_folder(library.parent)


def fault(library: Path) -> str | None:
    """Why a library that is there is not to be loaded; None where it may be."""
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
    """Take a build that is not to be loaded out of the way, and remove what of it can be removed. Raises
    :class:`OSError`."""
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
    """Why what lies at a path may be somebody else's work."""
    found = path.stat()
    if found.st_uid not in (os.getuid(), 0):
        return f"{path} belongs to another user (number {found.st_uid})"
    if found.st_mode & 0o022:
        return f"{path} can be written by other users"
    return None
