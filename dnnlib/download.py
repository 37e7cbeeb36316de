"""Files by path or by address; those by address are kept in a cache that holds whole files only."""

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urldefrag, urlsplit

from dnnlib.environment import OFFLINE, cache_root, make_cache_folder
from dnnlib.errors import Unavailable, UserError
from dnnlib.files import atomic_write, file_sha256
from dnnlib.http_download import DownloadError, Expected, claimed_part, download, part_path


def cached_path(url: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where :func:`fetch` keeps the file of ``url``: the file's own name, with a few digits that stand for the address."""
    address = urldefrag(url).url
    name = Path(urlsplit(address).path).name[-100:] or "file"
    folder = Path(cache_dir) if cache_dir is not None else cache_root() / "downloads"
    return folder / f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{name}"


def is_address(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` is an http(s) address rather than a path."""
    return re.match(r"https?://", os.fspath(source), re.IGNORECASE) is not None


def forbid_downloads() -> None:
    """From now on nothing is downloaded, by this process and those that it starts: what ``--offline`` does."""
    os.environ[OFFLINE] = "1"


def downloads_forbidden() -> bool:
    """Whether ``$GGDR_OFFLINE`` is set, to anything but 0, false, no or off."""
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


def local_file(
    source: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    size: int | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """The local path of a file that is given by its path or by an http(s) address. Arguments as for :func:`fetch`.

    Raises :class:`UserError` when there is no such file, when it is not the expected one, and as :func:`fetch` does.
    """
    text = os.fspath(source)
    if is_address(text):
        return fetch(text, cache_dir, sha256=sha256, size=size, offline=offline, progress=progress)
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise UserError(f"'{text}' can't be read: {scheme[0]} is not supported; give a path or an address with http:// or https://")
    path = Path(text)
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"'{text}' {problem}; give the path of a file or an http(s) address")
    if wrong := Expected(sha256 and sha256.lower(), size).mismatch(path):
        raise UserError(f"'{text}' is not the expected file: {wrong}")
    return path


def fetch(
    url: str,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    size: int | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """The local path of the file at ``url``, downloaded unless the cache has it.

    The bytes go to ``<name>.part``, which is renamed when the length that the server announced, and what is known of
    the file, have been checked. What came before a connection broke or the process ended is continued if the server
    can do that and the file is still the same there. Of several processes that ask for one address, one downloads
    and the others wait. ``<name>.json`` beside the file records where it came from and its SHA-256, so that a later
    change of the cached file is noticed; a file put there by hand needs none.

    Args:
        url: http(s); may end in ``#sha256=<hexadecimal>``, as in Python package indices.
        cache_dir: in place of ``<cache_root()>/downloads``.
        sha256, size: what the file has to have (hexadecimal; bytes). A cached file that differs is replaced.
        offline: raise instead of downloading, as with ``$GGDR_OFFLINE``.
        progress: a bar on a terminal.

    Raises :class:`Unavailable` that names address, cache path and the way to put the file there by hand, and :class:`UserError` for
    an address or a digest that is none.
    """
    address, expected = _parse(url, sha256, size)
    target = cached_path(address, cache_dir)
    if _is_cached(target, address, expected):
        return target
    by_hand = f"fetch it some other way and put the file at {target}"
    if offline or downloads_forbidden():
        raise Unavailable(f"cannot download {address} (downloads are switched off by --offline or {OFFLINE}); {by_hand}")
    try:
        make_cache_folder(target.parent)
        with claimed_part(target) as part:
            if not _is_cached(target, address, expected):  # another process may have been faster
                download(address, part, expected, target.name, progress)
                record = _record(address, part.path)
                _record_path(target).unlink(missing_ok=True)
                part.rename(target)
                with atomic_write(_record_path(target), "w", encoding="utf-8") as stream:
                    stream.write(record)
    except (DownloadError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kept = "; the part that has come is kept and continued next time" if part_path(target).is_file() else ""
        raise Unavailable(f"cannot download {address} ({reason}); {by_hand}{kept}") from error
    return target


def _parse(url: str, sha256: str | None, size: int | None) -> tuple[str, Expected]:
    """Address without its fragment, and what is expected of its file."""
    address, fragment = urldefrag(url)
    digest = sha256 or parse_qs(fragment).get("sha256", [None])[0]
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UserError(f"'{digest}', given as the SHA-256 of {address}, is not 64 hexadecimal digits")
    return address, Expected(digest and digest.lower(), size)


def _is_cached(target: Path, address: str, expected: Expected) -> bool:
    """Whether the file is there, as expected. Raises :class:`UserError` when it has changed since it was downloaded."""
    if not target.is_file() or target.stat().st_size == 0:
        return False
    if expected.mismatch(target) is not None:
        return False
    record = _record_path(target)
    if expected.sha256 is None and record.is_file():
        recorded = json.loads(record.read_text(encoding="utf-8"))["sha256"]
        if wrong := Expected(recorded).mismatch(target):
            raise UserError(
                f"{target} is not what was downloaded from {address} ({wrong}); delete it to download it again, "
                f"or delete {record} to use it as it is"
            )
    return True


def _record_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _record(address: str, path: Path) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"address": address, "sha256": file_sha256(path), "size": path.stat().st_size, "downloaded": now}, indent=1) + "\n"
