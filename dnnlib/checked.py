"""Frozen dataclasses that are checked when they are constructed, to and from JSON."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeVar

from dnnlib.errors import UserError

C = TypeVar("C", bound="Checked")


class Checked:
    """Base of frozen dataclasses that are parts of a configuration.

    The types of the fields are checked at construction, then :meth:`_validate`; :meth:`from_dict` is as strict. Types may be
    int, float, bool, str, ``Literal`` of strings, tuples of strings or of whole numbers, another part, and unions of these with each
    other or None.
    """

    #: The name under which messages speak of this part.
    _part: ClassVar[str] = "config"

    #: Command-line options behind the fields, for messages: ``{"part.field": "--option"}``.
    _options: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            if name.startswith("_"):
                continue
            value = getattr(self, name)
            if not _matches(value, hint):
                raise UserError(f"{self._where(name)} must be {_describe(hint)}, not {value!r}")
        self._validate()

    def _validate(self) -> None:
        """Refuse values that have the right type and yet make no sense. Raises :class:`UserError`."""

    def _where(self, name: str) -> str:
        """The field's name, led by the option that sets it."""
        path = f"{self._part}.{name}"
        return f"{self._options[path]} ({path})" if path in self._options else path

    def _at_least(self, low: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"{self._where(name)} must be at least {low:g}, not {value:g}")

    def _above_zero(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{self._where(name)} must be greater than 0, not {value:g}")

    def _fraction(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{self._where(name)} must lie between 0 and 1, not at {value:g}")

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, lists, numbers and strings: what :func:`json.dump` takes."""
        return {field.name: _to_plain(getattr(self, field.name)) for field in dataclasses.fields(typing.cast(Any, self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Unknown and missing keys raise :class:`UserError`, as wrong values do."""
        return _from_dict(cls, values)


def _matches(value: Any, hint: Any) -> bool:
    """Is ``value`` of the annotated type? Stricter than ``isinstance``: a bool is no number, and numbers are finite."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_matches(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """The annotated type in words, for a message."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if origin is Literal:
        return "one of " + " ".join(typing.get_args(hint))
    if origin is tuple:
        return {str: "a list of strings", int: "a list of whole numbers"}[typing.get_args(hint)[0]]
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string", type(None): "null"}
    return names.get(hint, "a section of its own")


def _to_plain(value: Any) -> Any:
    if isinstance(value, Checked):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    if not isinstance(values, Mapping):
        raise UserError(f"the section '{cls._part}' of the configuration must be a dictionary, not {values!r}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(str(key) for key in values if key not in fields)
    if unknown:
        raise UserError(f"the section '{cls._part}' of the configuration has unknown keys ({', '.join(unknown)}); remove them")
    missing = [name for name, field in fields.items() if name not in values and field.default is dataclasses.MISSING]
    if missing:
        raise UserError(f"the section '{cls._part}' of the configuration lacks {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _from_plain(value, hints[name]) for name, value in values.items()})


def _from_plain(value: Any, hint: Any) -> Any:
    for option in typing.get_args(hint) or (hint,):
        if isinstance(option, type) and issubclass(option, Checked) and value is not None:
            return _from_dict(option, value)
    if isinstance(value, list) and any(typing.get_origin(option) is tuple for option in (hint, *typing.get_args(hint))):
        return tuple(value)
    return value
