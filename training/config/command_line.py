"""The command line of ``train.py``, from the table of options."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from training.config.options import OPTIONS, Option

F = TypeVar("F", bound=Callable[..., Any])

_METAVARS = {bool: "BOOL", int: "INT", float: "FLOAT"}


def train_options(command: F) -> F:
    """Decorate a click command with every option of :data:`training.config.options.OPTIONS`."""
    for option in reversed(OPTIONS):
        command = _declare(option)(command)
    return command


def _declare(option: Option) -> Callable[[F], F]:
    names = [*([option.short] if option.short else []), option.flag, option.parameter]
    help_text = option.help if option.default is None else f"{option.help}  [default: {option.default}]"
    if option.type is None:
        return click.option(*names, is_flag=True, help=help_text)
    metavar = option.metavar or _METAVARS.get(option.type)
    return click.option(*names, type=option.type, metavar=metavar, help=help_text)
