"""What the constructor of a stored network may be given.

A file may claim any argument, so each is checked by name, type and range before the constructor sees it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Union

MAX_WIDTH = 1 << 20  # channels or features
MAX_LAYERS = 64  # of a mapping network
MAX_TAPS = 64

Check = Callable[[Any], bool]
#: What each argument may be: a test, or the arguments of a part that has its own.
Arguments = Mapping[str, Union[Check, "Arguments"]]


def check_arguments(values: Mapping[str, Any], allowed: Arguments, owner: str) -> None:
    """Check the arguments of ``owner``. Raises :class:`ValueError` that names the first wrong one."""
    for name, value in values.items():
        if name not in allowed:
            raise ValueError(f"{owner} has no argument {name!r:.100}; known are {', '.join(allowed)}")
        check = allowed[name]
        if isinstance(check, Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"argument '{name}' of {owner} is no dictionary")
            check_arguments(value, check, f"{owner} ({name})")
        elif not check(value):
            raise ValueError(f"argument '{name}' of {owner} is {value!r:.100}, which it cannot be")


def integer(low: int, high: int) -> Check:
    """A whole number from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def number(value: Any) -> bool:
    """A finite number of a sensible size."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= 1e9


def at_least_zero(value: Any) -> bool:
    """A number that is not negative."""
    return number(value) and value >= 0


def odd_size(value: Any) -> bool:
    """The size of a kernel. With an even one, padding would shift a feature map and change its size."""
    return type(value) is int and 1 <= value <= MAX_TAPS and value % 2 == 1


def boolean(value: Any) -> bool:
    """True or False."""
    return type(value) is bool


def optional(check: Check) -> Check:
    """None, or what ``check`` allows."""
    return lambda value: value is None or check(value)


def one_of(*values: str) -> Check:
    """One of these words."""
    return lambda value: type(value) is str and value in values


def taps(value: Any) -> bool:
    """The taps of a filter: one row of numbers, or several."""
    rows = (
        value if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple) else [value]
    )
    return len(rows) <= MAX_TAPS and all(
        isinstance(row, list | tuple) and 1 <= len(row) <= MAX_TAPS and all(map(number, row)) for row in rows
    )
