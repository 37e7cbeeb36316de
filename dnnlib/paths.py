"""Paths as people type them."""

import os

from dnnlib.errors import UserError

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
        raise UserError(
            f"there is no home folder for '{first}'; write ./{first} for a name that begins with ~"
        )
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise UserError(f"{text[:100]!a} can't be a path: it has a character that no file name can have")
    if len(encoded) > MAX_PATH or max(map(len, encoded.split(b"/"))) > MAX_NAME:
        raise UserError(
            f"'{text[:50]}...' can't be a path: names have at most {MAX_NAME} bytes, and paths {MAX_PATH}"
        )
    return path
