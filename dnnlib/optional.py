"""Packages that only some tools need, installed as extras."""

import importlib
from types import ModuleType

from dnnlib.errors import UserError


def optional_import(name: str, *, extra: str, purpose: str) -> ModuleType:
    """Import the module ``name``. Raises :class:`UserError` that names the use and the extra to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{purpose} needs the package {name}: pip install -e '.[{extra}]'") from error
