"""What the command lines share: option spelling, error output, seed ranges."""

import functools
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from dnnlib import torchrun
from dnnlib.environment import CHOICES, check_environment
from dnnlib.errors import UserError, out_of_memory
from dnnlib.streams import lost_output, steady_streams

F = TypeVar("F", bound=Callable[..., Any])

MAX_LIST = 1_000_000  # numbers in one range; more is a mistake that would fill the memory


def environment_option(*names: str, variable: str, **attrs: Any) -> Callable[[F], F]:
    """An option that sets an environment variable, for what a whole process and those that it starts share."""

    def set_variable(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            os.environ[variable] = value

    return click.option(*names, expose_value=False, callback=set_variable, **attrs)


#: Which implementation of upfirdn2d and bias_act runs (docs/ops.md).
ops_option = environment_option(
    "--ops",
    variable="GGDR_OPS",
    type=click.Choice(CHOICES["GGDR_OPS"]),
    help="Compiled ops or plain PyTorch  [default: GGDR_OPS, else auto]",
)

#: Whether freed memory is kept for reuse on a CPU (:mod:`torch_utils.host_memory`).
host_memory_option = environment_option(
    "--host-memory",
    variable="GGDR_HOST_MEMORY",
    type=click.Choice(CHOICES["GGDR_HOST_MEMORY"]),
    help="On a CPU: keep freed memory for reuse, or leave it to the system  [default: GGDR_HOST_MEMORY, else keep]",
)


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}{'s' * (number != 1)}"


class Command(click.Command):
    """A click command whose options may be typed with ``-`` or ``_`` (``--reg_type`` = ``--reg-type``).

    It starts with standard streams that can be used (:func:`dnnlib.streams.steady_streams`) and an environment that was
    checked (:func:`dnnlib.environment.check_environment`). Where standard output could not be written, it ends with a line
    that says so and status 1.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        steady_streams()
        try:
            result = super().main(*args, **kwargs)
        except SystemExit as end:
            if end.code in (None, 0):
                _check_output()
            raise
        _check_output()
        return result

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        declared = {name.replace("_", "-"): name for param in self.params for name in param.opts if name.startswith("--")}
        spelled = []
        for arg in args:
            name, equals, value = arg.partition("=")
            spelled.append(declared.get(name.replace("_", "-"), name) + equals + value)
        with _one_line():
            try:
                rest = super().parse_args(ctx, spelled)
            except click.UsageError:
                if torchrun.rank() > 0:  # every process has the same command line; one complains
                    raise SystemExit(2) from None
                raise
            check_environment()
        return rest


def _check_output() -> None:
    """Raises SystemExit, after a line, where standard output lost something."""
    sys.stdout.flush()
    failure = lost_output()
    if failure is not None:
        click.echo(f"Error: standard output cannot be written ({failure.strerror}); make room, or send it elsewhere", err=True)
        raise SystemExit(1)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise click.ClickException(" ".join(str(error).split("\n"))) from error
    except Exception as error:
        if (full := out_of_memory(error)) is None:
            raise
        raise click.ClickException(str(full)) from error


def friendly_errors(function: F) -> F:
    """Turn :class:`UserError`, and memory that does not suffice, into click's one-line error with exit status 1."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _one_line():
            return function(*args, **kwargs)

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
        if last - first >= MAX_LIST:
            raise UserError(f"the range '{part.strip()}' in '{text}' has more than {MAX_LIST} numbers")
        numbers.extend(range(first, last + 1))
    return numbers


def parse_float_list(text: str) -> list[float]:
    """``"0,0.5,1"`` to ``[0.0, 0.5, 1.0]``. Raises :class:`UserError` on anything but finite numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"'{text}' is not a list of numbers such as 0,0.5,1")
    return numbers


class FiniteFloat(click.ParamType):
    """A number that is neither infinite nor "not a number"."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number", param, ctx)
        return number


class Seconds(FiniteFloat):
    """A time to wait, from a second to some years."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not 1 <= number <= 1e8:
            self.fail(f"{number:g} is not between 1 and 100000000 seconds", param, ctx)
        return number


class IntOrList(click.ParamType):
    """``"16"`` to 16, and ``"32,16"`` to ``(16, 32)``: one number, or different ones in ascending order."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, ...]:
        if isinstance(value, int | tuple):
            return value
        try:
            numbers = sorted(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"'{value}' is not a valid integer, or several by comma such as 16,32", param, ctx)
        if len(set(numbers)) < len(numbers):
            self.fail(f"'{value}' has a number twice", param, ctx)
        return numbers[0] if len(numbers) == 1 else tuple(numbers)


class GridSize(click.ParamType):
    """``"5x4"`` to ``(5, 4)``: columns and rows, at least one of each."""

    name = "grid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)[x×](\d+)", value.strip().lower())
        if match is None or not (int(match[1]) and int(match[2])):
            self.fail(f"'{value}' is not a size in columns and rows such as 5x4", param, ctx)
        return int(match[1]), int(match[2])


def output_folder(path: str | Path, option: str = "--outdir") -> Path:
    """Make a folder unless it is there, and see that files can be written to it. Raises :class:`UserError` naming ``option``."""
    try:
        return _writable_folder(Path(path))
    except OSError as error:
        raise UserError(f"cannot write to the folder {option}={path}: {error.strerror}") from error


def output_file(path: str | Path, option: str = "--out") -> Path:
    """The path of a file to write, after the same for its folder. Raises :class:`UserError` naming ``option``."""
    try:
        return _writable_folder(Path(path).parent) / Path(path).name
    except OSError as error:
        raise UserError(f"cannot write {option}={path}: {error.strerror}") from error


def _writable_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    return folder
