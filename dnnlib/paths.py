"""Paths as people type them, and the folder of the caches."""

import os
from pathlib import Path

from dnnlib.errors import UserError

CACHE_VARIABLE = "GGDR_CACHE_DIR"

MAX_NAME = 255  # bytes of one name, the limit of the usual file systems
MAX_PATH = 4095  # bytes of a whole path


def expand_path(text: str) -> str:
    """A path with ``~`` and ``~name`` at its start replaced by the home folder.

    A shell does so only for a word that begins with ``~``: not behind the ``=`` of an option, nor in quotes.

    Raises:
        UserError: the text can't be a path, or there is no such home folder.
    """
    if not text:
        raise UserError("the path is empty")
    path = os.path.expanduser(text) if "\0" not in text else text
    first = text.split("/")[0]
    if text.startswith("~") and path == text:
        raise UserError(f"there is no home folder for '{first}'; write ./{first} for a name that begins with ~")
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise UserError(f"{text[:100]!a} can't be a path: it has a character that no file name can have")
    if len(encoded) > MAX_PATH or max(map(len, encoded.split(b"/"))) > MAX_NAME:
        raise UserError(f"'{text[:50]}...' can't be a path: names have at most {MAX_NAME} bytes, and paths {MAX_PATH}")
    return path


def cache_root() -> Path:
    """The folder for everything that is cached: ``$GGDR_CACHE_DIR``, or ``~/.cache/stylegan2-ada-ggdr``.

    Raises :class:`UserError` where the variable holds no path, or is not set and there is no home folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(expand_path(chosen or "~/.cache/stylegan2-ada-ggdr"))
    except UserError as error:
        advice = f"{CACHE_VARIABLE}={ascii(chosen[:100])[1:-1]}: {error}" if chosen else "no home folder for the cache"
        raise UserError(f"{advice}; set {CACHE_VARIABLE} to a folder that can be written") from error
