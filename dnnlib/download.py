"""Files by address, kept in a cache that holds whole files only."""

import hashlib
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from dnnlib.errors import UserError
from dnnlib.files import atomic_write

CACHE_VARIABLE = "GGDR_CACHE_DIR"
TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
BLOCK = 1 << 20


class _Transient(Exception):
    """A failure that another attempt may cure."""


def cache_root() -> Path:
    """The folder for everything that is cached: ``$GGDR_CACHE_DIR``, or ``~/.cache/stylegan2-ada-ggdr``."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "stylegan2-ada-ggdr").expanduser()


def cached_path(url: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where :func:`fetch` keeps the file of ``url``: the file's own name, with a few digits that stand for the address."""
    name = Path(urlsplit(url).path).name or "file"
    digits = hashlib.sha256(url.encode()).hexdigest()[:8]
    folder = Path(cache_dir) if cache_dir is not None else cache_root() / "downloads"
    return folder / f"{digits}-{name}"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises :class:`OSError` as :func:`open` does."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(
    url: str,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """The local path of the file at ``url``, downloaded unless the cache has it.

    The bytes go to a temporary name and are renamed when the length that the server announced, and ``sha256``
    when given, have been checked. Failures that may pass (connection, server error, short answer) are tried
    again; an answer such as 404 is not.

    Args: ``cache_dir`` replaces ``<cache_root()>/downloads``; ``sha256`` in hexadecimal, held against a cached file too.
    Raises :class:`UserError` that names address, cache path and the way to put the file there by hand.
    """
    target = cached_path(url, cache_dir)
    if target.is_file() and target.stat().st_size > 0 and (sha256 is None or file_sha256(target) == sha256.lower()):
        return target
    reason = "no attempt was made"
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _download(url, target, sha256, progress)
            return target
        except requests.Timeout:
            reason = "the server does not answer"
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            reason = "there is no connection to the server, or it broke"
        except _Transient as error:
            reason = str(error)
        except (requests.RequestException, OSError) as error:
            reason = str(error)
            break
    raise UserError(f"cannot download {url} ({_brief(reason)}); fetch it some other way and put the file at {target}")


def _download(url: str, target: Path, sha256: str | None, progress: bool) -> None:
    # Without an encoding, the length announced is that of the file.
    with requests.get(url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as response:
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise _Transient(f"the server answers {response.status_code} {response.reason}")
        response.raise_for_status()
        announced = response.headers.get("Content-Length")
        expected = int(announced) if announced is not None else None
        received, digest = 0, hashlib.sha256()
        title, hidden = f"download {target.name}", None if progress else True  # None: shown on a terminal only
        bar = tqdm(total=expected, unit="B", unit_scale=True, desc=title, leave=False, disable=hidden)
        with bar, atomic_write(target) as stream:
            for block in response.iter_content(BLOCK):
                stream.write(block)
                digest.update(block)
                received += len(block)
                bar.update(len(block))
            if received == 0 or (expected is not None and received != expected):
                raise _Transient(f"{received} bytes came, {expected} were announced")
            if sha256 is not None and digest.hexdigest() != sha256.lower():
                raise _Transient(f"the file's SHA-256 is {digest.hexdigest()}, expected {sha256.lower()}")


def _brief(reason: str, limit: int = 200) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= limit else line[:limit] + "…"
