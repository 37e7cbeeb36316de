"""Files by path or by address; those by address are kept in a cache that holds whole files only."""

import hashlib
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urldefrag, urlsplit

from dnnlib.addresses import ELIDED, check_address, is_address, public_address, reveal, without_user
from dnnlib.environment import OFFLINE, cache_root, make_cache_folder
from dnnlib.errors import Unavailable, UserError
from dnnlib.files import atomic_write, file_sha256, writing
from dnnlib.http_download import DownloadError, Expected, claimed_part, download, part_path
from dnnlib.untrusted import read_json

__all__ = ["cache_root", "cached_path", "fetch", "is_address", "local_file"]


def cached_path(url: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where :func:`fetch` keeps the file of ``url``: its name, after a few digits that identify the address.

    User name and password have no part in it. Raises :class:`UserError` for an address that is not valid.
    """
    whole = reveal(url)
    check_address(whole)
    address = without_user(urldefrag(whole).url)
    name = Path(urlsplit(public_address(address)).path).name.encode()[-100:].decode(errors="ignore") or "file"
    return _downloads(cache_dir) / f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{name}"


def _downloads(cache_dir: str | os.PathLike[str] | None) -> Path:
    return Path(cache_dir) if cache_dir is not None else cache_root() / "downloads"


def forbid_downloads() -> None:
    """Forbid downloads in this process and its children from now on, as ``--offline`` does."""
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
    progress: bool = True,
) -> Path:
    """The local path of a file given by path or http(s) address. Arguments as for :func:`fetch`.

    Raises :class:`UserError` when there is no such file, when it is not the expected one, and as
    :func:`fetch` does.
    """
    text = os.fspath(source)
    if is_address(text):
        return fetch(text, cache_dir, sha256=sha256, size=size, progress=progress)
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise UserError(
            f"'{public_address(text)}' can't be read: {scheme[0]} is not supported; give a path or an "
            "address with http:// or https://"
        )
    path = Path(text)
    if not path.is_file():
        problem = (
            "is a folder, not a file"
            if path.is_dir()
            else "is no ordinary file"
            if path.exists()
            else "does not exist"
        )
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
    progress: bool = True,
) -> Path:
    """The local path of the file at ``url``, downloaded unless the cache has it.

    The bytes go to ``<name>.part``, which is renamed once it has been checked. A download that broke off is
    continued, if the server still has the same file. Of several processes that fetch one address, one
    downloads and the others wait. ``<name>.json`` beside the file records its origin and its SHA-256, so that
    a later change is noticed; a file put there by hand needs none.

    User name, password and query of an address may be credentials, so messages and the record have its public
    form (:mod:`dnnlib.addresses`). If ``url`` is such a form, as an earlier run recorded it, it stands for
    the cached file that came from the address.

    Args:
        url: http(s), whole or as :func:`dnnlib.addresses.conceal` gave it; may end in
            ``#sha256=<hexadecimal>``, as in Python package indices.
        cache_dir: in place of ``<cache_root()>/downloads``.
        sha256: of the file, in hexadecimal. A cached file that differs is replaced.
        size: of the file, in bytes; likewise.
        progress: show a bar on a terminal.

    Raises:
        Unavailable: the file can't be downloaded; names address, cache path, and how to put the file there.
        UserError: the address or the digest is invalid.
    """
    address, expected = _parse(reveal(url), sha256, size)
    public = public_address(address)
    if public.endswith(ELIDED) and public == address:
        return _of_public_address(public, _downloads(cache_dir), expected)
    target = cached_path(address, cache_dir)
    if _is_cached(target, public, expected):
        return target
    by_hand = f"fetch it some other way and put the file at {target}"
    if downloads_forbidden():
        raise Unavailable(
            f"cannot download {public} (downloads are switched off by --offline or {OFFLINE}); {by_hand}"
        )
    try:
        make_cache_folder(target.parent)
        with claimed_part(target) as part:
            if not _is_cached(target, public, expected):  # another process may have been faster
                download(address, part, expected, target.name, progress=progress)
                record = _record(public, part.path)
                _record_path(target).unlink(missing_ok=True)
                part.rename(target)
                with atomic_write(_record_path(target), "w", encoding="utf-8") as stream:
                    stream.write(record)
    except (DownloadError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kept = "; the part that has come is kept and continued next time" * part_path(target).is_file()
        raise Unavailable(f"cannot download {public} ({reason}); {by_hand}{kept}") from error
    return target


def _parse(url: str, sha256: str | None, size: int | None) -> tuple[str, Expected]:
    """Address without its fragment, and what is expected of its file."""
    check_address(url)
    address, fragment = urldefrag(url)
    digest = sha256 or parse_qs(fragment).get("sha256", [None])[0]
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UserError(
            f"'{digest[:80]}', given as the SHA-256 of {public_address(address)}, is not 64 hexadecimal "
            "digits"
        )
    return address, Expected(digest and digest.lower(), size)


def _of_public_address(public: str, folder: Path, expected: Expected) -> Path:
    """The one cached file of an address in its public form. Raises :class:`Unavailable` if there is none."""
    records = sorted(folder.glob("*.json")) if folder.is_dir() else []
    files = [path.with_name(path.name.removesuffix(".json")) for path in records]
    found = [
        path for path in files if _recorded(path, "address") == public and _is_cached(path, public, expected)
    ]
    if len(found) == 1:
        return found[0]
    state = (
        f"{len(found)} files in {folder} came from such addresses"
        if found
        else f"no file in {folder} came from it"
    )
    raise Unavailable(
        f"the address {public} was kept without its query, and {state}; give the whole address again, or a "
        "path"
    )


def _is_cached(target: Path, public: str, expected: Expected) -> bool:
    """Whether the file is there, as expected. Raises :class:`UserError` if it changed after its download.

    A damaged record says nothing of the file: it is written anew, with a warning.

    A record that is damaged says nothing of the file: it is written anew from it, with a warning.
    """
    if not target.is_file() or target.stat().st_size == 0:
        return False
    if expected.mismatch(target) is not None:
        return False
    record = _record_path(target)
    if expected.sha256 is None and record.is_file():
        recorded = _recorded(target, "sha256")
        if recorded is None or not re.fullmatch(r"[0-9a-f]{64}", recorded):
            print(
                f"Warning: {record} is damaged; it is written anew for the file as it is now", file=sys.stderr
            )
            with writing(target.parent), atomic_write(record, "w", encoding="utf-8") as stream:
                stream.write(_record(public, target))
        elif wrong := Expected(recorded).mismatch(target):
            raise UserError(
                f"{target} is not what was downloaded from {public} ({wrong}); delete it to download it "
                "again, "
                f"or delete {record} to use it as it is"
            )
    return True


def _recorded(target: Path, key: str) -> str | None:
    """A value of the record beside a cached file; None where the record can't be read or has none."""
    try:
        record = read_json(_record_path(target), limit=1 << 16)
    except UserError:
        return None
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, str) else None


def _record_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _record(public: str, path: Path) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return (
        json.dumps(
            {"address": public, "sha256": file_sha256(path), "size": path.stat().st_size, "downloaded": now},
            indent=1,
        )
        + "\n"
    )
