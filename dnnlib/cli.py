"""What the command lines share: option spelling, error output, seed ranges."""

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dnnlib.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


class Command(click.Command):
    """A click command whose options may be typed with ``-`` or ``_`` (``--reg_type`` = ``--reg-type``)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        declared = {name.replace("_", "-"): name for param in self.params for name in param.opts if name.startswith("--")}
        spelled = []
        for arg in args:
            name, equals, value = arg.partition("=")
            spelled.append(declared.get(name.replace("_", "-"), name) + equals + value)
        return super().parse_args(ctx, spelled)


def friendly_errors(function: F) -> F:
    """Turn :class:`UserError` into click's one-line error with exit status 1."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise click.ClickException(" ".join(str(error).split("\n"))) from error

    return wrapper  # type: ignore[return-value]


def parse_int_list(text: str) -> list[int]:
    """``"1,2,5-10"`` to ``[1, 2, 5, 6, 7, 8, 9, 10]``. Raises :class:`UserError` on anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise UserError(f"'{text}' is not a list of numbers and ranges such as 1,2,5-10")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"the range '{part.strip()}' in '{text}' runs backwards")
        numbers.extend(range(first, last + 1))
    return numbers
