"""Addresses of files: what of one may be kept and shown, and the whole of it for the download.

User name, password and query of an address may be credentials (``https://me:word@host/a.pkl``,
``?token=...``, signed addresses). Command lines therefore replace an address by its public form as soon as
they read it (:func:`conceal`). Options, records, messages and files never see more. The whole address stays
in this process, for the download alone (:func:`reveal`).
"""

import os
import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dnnlib.errors import UserError

#: Stands for a query in a public address.
ELIDED = "?..."

_PARTS = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[^\[\]@]*\]|[^:\[\]@]*)(:\d*)?")
_DIGEST = re.compile(r"#sha256=[0-9a-f]*", re.IGNORECASE)
_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>,;:)\]]", re.IGNORECASE)

#: Whole addresses by their public forms.
_whole: dict[str, str] = {}


def is_address(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` is an http(s) address rather than a path."""
    return re.match(r"https?://", os.fspath(source), re.IGNORECASE) is not None


def has_scheme(text: str) -> bool:
    """Whether text begins as an address of any kind: ``ftp://``, ``s3://``."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def check_address(text: str) -> None:
    """Raise :class:`UserError` for an http(s) address that no request can be made of."""
    try:
        text.encode()
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:  # UnicodeError is one
        host, port = "", None
    if port == 0 or not all(0 < len(label) < 64 for label in host.split(".")) or not text.isprintable():
        shown = ascii(public_address(text)[:100])[1:-1]
        raise UserError(f"'{shown}' is no valid address; it has the form https://host/path")


def public_address(text: str) -> str:
    """An address as it may be kept and shown: without user name, password, query and path parameters.

    :data:`ELIDED` stands in place of a query. Of a fragment only ``#sha256=`` stays. An address whose host
    can't be made out keeps its scheme alone. Other text, a path, comes back as it is. A public address is its
    own public form.
    """
    found = _PARTS.fullmatch(text)
    if found is None:
        return text
    scheme, authority, path, query, fragment = found.groups(default="")
    host = authority.rpartition("@")[2]
    if _HOST.fullmatch(host) is None:
        return f"{scheme}..."
    path = re.sub(r";[^/]*", "", path)
    return (
        scheme
        + host
        + path
        + (ELIDED if len(query) > 1 else "")
        + (fragment if _DIGEST.fullmatch(fragment) else "")
    )


def public_text(text: str) -> str:
    """``text`` with each address in it replaced by its public form."""
    return _IN_TEXT.sub(lambda found: public_address(found[0]), text)


def public_values(values: Any) -> Any:
    """Replace the addresses in nested dictionaries and lists by their public forms.

    Earlier versions recorded whole addresses.
    """
    if isinstance(values, dict):
        return {key: public_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [public_values(value) for value in values]
    return public_address(values) if isinstance(values, str) else values


def conceal(text: str) -> str:
    """Return the public form of an address, and remember the whole one for :func:`reveal` in this process.

    Raises:
        UserError: the address is not valid, or has the public form of another one that was concealed before.
    """
    if not is_address(text):
        return public_address(text)
    check_address(text)
    public = public_address(text)
    if public != text:
        if without_user(_whole.get(public, text)) != without_user(text):
            raise UserError(
                f"two addresses differ only in their queries, which are not kept: {public}; download one, "
                "and give its path"
            )
        _whole[public] = text
    return public


def reveal(public: str) -> str:
    """The whole address that :func:`conceal` took, or ``public`` itself."""
    return _whole.get(public, public)


def forget() -> None:
    """Forget all that was concealed: a new command line begins."""
    _whole.clear()


def without_user(text: str) -> str:
    """An address without user name and password: what names the file at the server."""
    found = _PARTS.fullmatch(text)
    if found is None:
        return text
    scheme, authority, *rest = found.groups(default="")
    return "".join([scheme, authority.rpartition("@")[2], *rest])


def suffix_of(address: str) -> str:
    """The ending of an address's path, such as ``.pkl``. Raises :class:`UserError` for an invalid one."""
    check_address(reveal(address))
    return PurePosixPath(urlsplit(public_address(address)).path).suffix


def with_suffix(address: str, suffix: str) -> str:
    """The concealed address of a neighbour that differs in its ending alone.

    The query stays, the fragment does not.
    """
    parts = urlsplit(reveal(address))
    return conceal(
        urlunsplit(parts._replace(path=str(PurePosixPath(parts.path).with_suffix(suffix)), fragment=""))
    )
