r"""Checks values from outside for type, range and form, by annotations.

:func:`check` is the project's validator. What comes out of a file passes it once, where the file is read.
:class:`Checked` uses it for the fields of frozen dataclasses::

    class Counters(TypedDict):
        steps: Count
        snapshots: list[Annotated[str, form(r"network-snapshot-[0-9]+\.pkl", "the name of a snapshot")]]

    counters = check(values, Counters, f"{path}:")
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Required, Self, TypeVar, cast

from dnnlib.errors import UserError
from dnnlib.untrusted import one_line

C = TypeVar("C", bound="Checked")
T = TypeVar("T")

#: Whole numbers fit in 64 bits. Larger ones have no use, and overflow as a float or in an array.
LARGEST = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition beyond the type, for ``Annotated[type, Rule(...)]``.

    Attributes:
        accepts: whether a value of the type is good.
        meaning: what a good value is, for messages: "... must be {meaning}".
    """

    accepts: Callable[[Any], bool]
    meaning: str


def between(low: float, high: float = math.inf) -> Rule:
    """A number from ``low`` to ``high``, both included."""
    return Rule(
        lambda value: low <= value <= high,
        f"a number from {low:g}" + (f" to {high:g}" if high < math.inf else ""),
    )


def form(pattern: str, meaning: str) -> Rule:
    """A string that a regular expression matches as a whole."""
    return Rule(lambda value: re.fullmatch(pattern, value) is not None, meaning)


def _is_real(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, float) or abs(value) <= LARGEST)
    )


#: Halves of characters, except those that stand for bytes in a name that is not UTF-8.
_NO_TEXT = r"\ud800-\udc7f\udd00-\udfff"

#: A whole number from 0.
Count = Annotated[int, between(0)]

#: A number that may be infinite or "not a number", as what a diverged run reports.
Real = Annotated[object, Rule(_is_real, "a number")]

#: The name of a file in a known folder: no path, nothing hidden, no control characters.
FileName = Annotated[
    str, form(rf"(?![.])[^/\\\x00-\x1f\x7f-\x9f{_NO_TEXT}]{{1,255}}", "the plain name of a file")
]

#: A path that the operating system takes.
PathText = Annotated[str, form(rf"[^\x00{_NO_TEXT}]{{1,4096}}", "a path")]


def check(value: object, hint: type[T] | Any, where: str) -> T:
    """Return ``value`` unchanged if it fits the annotation.

    An annotation is a class, a ``Literal``, a union, ``list[...]``, ``tuple[..., ...]``, ``dict[str, ...]``,
    a :class:`~typing.TypedDict` (which may have other keys) or ``Annotated`` with a :class:`Rule`. A bool is
    no number, a ``float`` is finite, an ``int`` has at most 64 bits.

    Args:
        value: from a file.
        hint: the annotation.
        where: the value's name at the start of messages, such as ``"state.pt:"``.

    Raises:
        UserError: it does not fit; the line names the innermost wrong value.
    """
    _check(value, hint, where)
    return cast(T, value)


def accepted(value: object, hint: Any) -> bool:
    """Whether :func:`check` accepts a value."""
    try:
        _check(value, hint, "")
    except UserError:
        return False
    return True


def shown(value: object, limit: int = 80) -> str:
    """A value from outside in one short printable line, for messages."""
    try:
        return one_line(repr(value), limit)
    except Exception:  # noqa: BLE001 - huge numbers have no text, and other classes may raise anything
        return f"a value of type {type(value).__name__} that cannot be shown"


class Checked:
    """Base of frozen dataclasses that are parts of a configuration.

    The types of the fields are checked at construction, then :meth:`_validate`; :meth:`from_dict` is as
    strict. Types may be int, float, bool, str, ``Literal`` of strings, tuples of strings or of whole numbers,
    another part, unions of these with each other or None, and dictionaries of these by name.
    """

    #: The name of this part in messages.
    _part: ClassVar[str] = "config"

    #: Command-line options behind the fields, for messages: ``{"part.field": "--option"}``.
    _options: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            if name.startswith("_"):
                continue
            _check(getattr(self, name), hint, self._where(name))
        self._validate()

    def _validate(self) -> None:
        """Refuse values of the right type that make no sense. Raises :class:`UserError`."""

    def _where(self, name: str) -> str:
        """The field's name, led by the option that sets it."""
        path = f"{self._part}.{name}"
        return f"{self._options[path]} ({path})" if path in self._options else path

    def _at_least(self, low: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"{self._where(name)} must be at least {low:g}, not {value:g}")

    def _at_most(self, high: float, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value > high:
                raise UserError(f"{self._where(name)} must be at most {high:g}, not {value:g}")

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
        return {
            field.name: _to_plain(getattr(self, field.name))
            for field in dataclasses.fields(typing.cast(Any, self))
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Raises :class:`UserError` for wrong keys or values."""
        return _from_dict(cls, values)


def _check(value: object, hint: Any, where: str) -> None:
    """See :func:`check`. Looks into containers, so that a message names the wrong item."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (NotRequired, Required, Annotated):
        _check(value, parts[0], where)
        if not all(rule.accepts(value) for rule in parts[1:] if isinstance(rule, Rule)):
            raise UserError(f"{where} must be {_describe(hint)}, not {shown(value)}")
    elif typing.is_typeddict(hint) and isinstance(value, dict):
        _check_typed_dict(value, hint, where)
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            _check(key, parts[0], f"{where}: the key {shown(key)}")
            _check(item, parts[1], _inside(where, one_line(str(key), 80)))
    elif origin is list and isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, parts[0], f"{where}[{index}]")
    elif not _matches(value, hint):
        raise UserError(f"{where} must be {_describe(hint)}, not {shown(value)}")


def _check_typed_dict(value: dict[Any, Any], hint: Any, where: str) -> None:
    missing = sorted(hint.__required_keys__ - value.keys())
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(hint, include_extras=True)
    for name in hints.keys() & value.keys():
        _check(value[name], hints[name], _inside(where, name))


def _inside(where: str, name: str) -> str:
    return f"{where} {name}" if where.endswith(":") else f"{where}.{name}"


def _matches(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type. A bool is no number, and numbers are finite."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(accepted(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in typing.get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return _is_real(value) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    if origin is not None or typing.is_typeddict(hint):  # a container: _check looked into those that fit
        return False
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """The annotated type in words, for a message."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        rules = [rule.meaning for rule in parts[1:] if isinstance(rule, Rule)]
        whole = parts[0] is int and rules and rules[0].startswith("a number")
        return (
            rules[0].replace("a number", "a whole number", 1)
            if whole
            else " and ".join(rules) or _describe(parts[0])
        )
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in parts)
    if origin is Literal:
        return "one of " + " ".join(map(str, parts))
    if origin is tuple:
        return {str: "a list of strings", int: "a list of whole numbers"}[parts[0]]
    if origin is list:
        return "a list"
    if origin is dict or typing.is_typeddict(hint) or hint is dict:
        return "a dictionary"
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "a string",
        type(None): "null",
    }
    section = isinstance(hint, type) and issubclass(hint, Checked)
    return names.get(hint) or ("a section of its own" if section else f"a {getattr(hint, '__name__', hint)}")


def _to_plain(value: Any) -> Any:
    if isinstance(value, Checked):
        return value.to_dict()
    if isinstance(value, dict):
        return {name: _to_plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    if not isinstance(values, Mapping):
        raise UserError(
            f"the section '{cls._part}' of the configuration must be a dictionary, not {shown(values)}"
        )
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(
        one_line(key, 80) if isinstance(key, str) else shown(key) for key in values if key not in fields
    )
    if unknown:
        raise UserError(
            f"the section '{cls._part}' of the configuration has unknown keys "
            f"({one_line(', '.join(unknown), 200)}); remove them"
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"the section '{cls._part}' of the configuration lacks {', '.join(missing)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    return cls(**{name: _from_plain(value, hints[name]) for name, value in values.items()})


def _from_plain(value: Any, hint: Any) -> Any:
    for option in typing.get_args(hint) or (hint,):
        if isinstance(option, type) and issubclass(option, Checked) and value is not None:
            return _from_dict(option, value)
    if isinstance(value, list) and any(
        typing.get_origin(option) is tuple for option in (hint, *typing.get_args(hint))
    ):
        return tuple(value)
    return value
