"""The environment variables that this program has of its own, all checked in one place."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dnnlib import torchrun
from dnnlib.errors import UserError
from dnnlib.paths import expand_path

CACHE = "GGDR_CACHE_DIR"
OFFLINE = "GGDR_OFFLINE"

#: Variables that take one of a few words. Empty is as good as not set.
CHOICES = {"GGDR_OPS": ("auto", "native", "ref"), "GGDR_HOST_MEMORY": ("keep", "system")}

NAME = "stylegan2-ada-ggdr"


def check_environment() -> None:
    """Look at every variable that begins with ``GGDR_``, and at torchrun's. Raises :class:`UserError`.

    Rank 0 says on standard error which of them are unknown, and where the cache is when there is no home
    folder.
    """
    torchrun.check()
    for name, words in CHOICES.items():
        _check_choice(name, words)
    root = cache_root()  # whether it can be written is a question for those who use it
    if torchrun.rank() > 0:
        return
    for name in sorted(os.environ):
        if name.startswith("GGDR_") and name not in (CACHE, OFFLINE, *CHOICES):
            known = ", ".join((CACHE, OFFLINE, *CHOICES))
            print(f"Note: the environment variable {name} has no effect; known are {known}", file=sys.stderr)
    if not _chosen() and _home() is None:
        print(
            f"Note: this user has no home folder, so the cache is {root}; {CACHE} sets another",
            file=sys.stderr,
        )


def cache_root() -> Path:
    """The folder for everything that is cached, as an absolute path.

    That is ``$GGDR_CACHE_DIR``, or ``~/.cache/stylegan2-ada-ggdr``, or without a home folder one for this
    user among the system's temporary files.

    Raises:
        UserError: the variable holds no path, or the folder among the temporary files
            belongs to somebody else.
    """
    if chosen := _chosen():
        try:
            return Path(expand_path(chosen)).absolute()
        except UserError as error:
            raise UserError(
                f"{CACHE}={ascii(chosen[:100])[1:-1]}: {error}; set {CACHE} to a folder that can be written"
            ) from error
    home = _home()
    return _temporary_cache() if home is None else home / ".cache" / NAME


def make_cache_folder(folder: Path, mode: int = 0o775) -> None:
    """Make a folder of the cache, and those that it lies in; one that is there stays as it is.

    Whatever the umask is, not everybody may write there. ``mode`` is what the umask leaves or less.
    Raises :class:`OSError` as :meth:`Path.mkdir` does.
    """
    if not folder.is_dir():
        if not folder.parent.exists():
            make_cache_folder(folder.parent)
        folder.mkdir(mode=mode, exist_ok=True)


def open_cache_file(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open`: whatever the umask is, nobody else may write to the file."""
    return os.open(path, flags, 0o644)


def _check_choice(name: str, words: Sequence[str]) -> None:
    value = os.environ.get(name)
    if value and value not in words:
        raise UserError(f"{name} must be one of {', '.join(words)}, not {value!r}; unset it or correct it")


def _chosen() -> str:
    return os.environ.get(CACHE, "").strip()


def _home() -> Path | None:
    """The home folder; None where neither ``HOME`` nor the system's list of users has one."""
    try:
        return Path.home().absolute()
    except RuntimeError:
        return None


def _temporary_cache() -> Path:
    try:
        folder = Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(
            f"this user has no home folder, and no temporary file can be made ({error.strerror}); set {CACHE}"
        ) from error
    if found.st_uid != os.getuid() or folder.is_symlink():
        raise UserError(
            f"this user has no home folder, and {folder} belongs to another; set {CACHE} to a folder for the "
            "cache"
        )
    return folder
