"""What the command lines share: option spelling, error output, seed ranges."""

import functools
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from dnnlib import addresses, torchrun
from dnnlib.environment import CHOICES, check_environment
from dnnlib.errors import UserError, out_of_memory
from dnnlib.paths import expand_path
from dnnlib.streams import lost_output, steady_streams
from dnnlib.untrusted import one_line

F = TypeVar("F", bound=Callable[..., Any])

MAX_LIST = 1_000_000  # numbers in one list; more is a mistake that would fill the memory
MAX_FLOAT = 3.4e38  # what float32 holds
MAX_USAGE = 500  # characters of click's own messages, which repeat what was typed
MAX_MESSAGE = 2000  # characters of any other message
DIGITS = (
    r"[0-9]{1,18}"  # a whole number in a regular expression: Python refuses to convert thousands of digits
)


def environment_option(*names: str, variable: str, **attrs: Any) -> Callable[[F], F]:
    """An option that sets an environment variable, for what this process and its children share."""

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
    help=(
        "On a CPU: keep freed memory for reuse, or leave it to the system  "
        "[default: GGDR_HOST_MEMORY, else keep]"
    ),
)


def picture_options(function: F) -> F:
    """Add ``--max-pixels`` and ``--range`` (``value_range``): how pictures are decoded.

    See :class:`training.data.decode.DecodeOptions`.
    """
    range_help = "Values of images with more than 8 bits that become black and white  [default: full]"
    function = click.option(
        "--range", "value_range", type=ValueRange(), metavar="LOW-HIGH|auto|full", help=range_help
    )(function)
    size = click.IntRange(1, 2**40)
    pixels_help = "Refuse images of more pixels; each takes 4 bytes"
    return click.option(
        "--max-pixels", type=size, default=500_000_000, show_default=True, metavar="N", help=pixels_help
    )(function)


def plural(number: int, noun: str) -> str:
    """A number and its noun: ``1 image``, ``2 images``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def print_notes(notes: Iterable[str]) -> None:
    """Print one line to standard error for each note, on rank 0 only."""
    for note in notes:
        if torchrun.rank() == 0:
            click.echo(f"Note: {note}", err=True)


class Command(click.Command):
    """A click command whose options may be typed with ``-`` or ``_`` (``--reg_type`` = ``--reg-type``).

    It starts with usable standard streams (:func:`dnnlib.streams.steady_streams`) and a checked environment
    (:func:`dnnlib.environment.check_environment`). If standard output could not be written, it ends with a
    line that says so and status 1.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line. Raises SystemExit, with status 1 if standard output could not be written."""
        steady_streams()
        try:
            result = super().main(*args, **kwargs)
        except SystemExit as end:
            if end.code in (None, 0):
                _check_output()
            raise
        _check_output()
        return result

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As of any command; names are compared with ``-`` in place of ``_``."""
        return super().make_context(*args, token_normalize_func=_with_dashes, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As of any command, with errors in one line from one process."""
        addresses.forget()
        with _one_line():
            try:
                rest = super().parse_args(ctx, args)
            except click.UsageError as error:
                if torchrun.rank() > 0:  # every process has the same command line; one complains
                    raise SystemExit(2) from None
                raise click.UsageError(_message(error.format_message(), MAX_USAGE), error.ctx) from error
            check_environment()
        return rest


def _with_dashes(name: str) -> str:
    return name.replace("_", "-")


def _check_output() -> None:
    """Raises SystemExit, after a line, where standard output lost something."""
    sys.stdout.flush()
    failure = lost_output()
    if failure is not None:
        click.echo(
            f"Error: standard output cannot be written ({failure.strerror}); make room, or send it elsewhere",
            err=True,
        )
        raise SystemExit(1)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise click.ClickException(_message(str(error), MAX_MESSAGE)) from error
    except Exception as error:
        if (full := out_of_memory(error)) is None:
            raise
        raise click.ClickException(str(full)) from error


def friendly_errors(function: F) -> F:
    """Turn :class:`UserError` and a lack of memory into click's one-line error with exit status 1.

    Addresses in the line have their public form (:mod:`dnnlib.addresses`).
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _one_line():
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def _message(text: str, limit: int) -> str:
    """A message on one line: public addresses, and escapes for control characters and broken Unicode."""
    line = addresses.public_text(" ".join(text.split("\n")))
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line[: limit + 1])
    return line if len(line) <= limit else line[:limit] + "..."


def distinct(numbers: Sequence[int], option: str) -> list[int]:
    """The numbers without repetitions, since each stands for one file. A note names the repeated ones."""
    counts = Counter(numbers)
    repeated = [str(number) for number, count in counts.items() if count > 1]
    if repeated:
        click.echo(
            f"Note: {option} names {', '.join(repeated[:5])}{'…' * (len(repeated) > 5)} more than once; each "
            "is made once",
            err=True,
        )
    return list(counts)


def parse_int_list(text: str) -> list[int]:
    """``"1,2,5-10"`` to ``[1, 2, 5, 6, 7, 8, 9, 10]``. Raises :class:`UserError` on anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(rf"\s*({DIGITS})(?:-({DIGITS}))?\s*", part)
        if match is None:
            raise UserError(f"'{one_line(text, 60)}' is not a list of numbers and ranges such as 1,2,5-10")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"the range '{part.strip()}' in '{one_line(text, 60)}' runs backwards")
        if len(numbers) + last - first >= MAX_LIST:
            raise UserError(
                f"the range '{part.strip()}' in '{one_line(text, 60)}' has more than {MAX_LIST} numbers"
            )
        numbers.extend(range(first, last + 1))
    return numbers


def parse_float_list(text: str) -> list[float]:
    """``"0,0.5,1"`` to ``[0.0, 0.5, 1.0]``. Raises :class:`UserError` on anything but finite numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(abs(number) <= MAX_FLOAT for number in numbers):
        raise UserError(f"'{one_line(text, 60)}' is not a list of numbers such as 0,0.5,1")
    return numbers


class PathType(click.ParamType):
    """A path. Every option that takes a path has this type.

    A leading ``~`` is expanded here: behind ``=`` a shell leaves it.

    ``addresses``: an http(s) address too, of which the public form comes back; :mod:`dnnlib.addresses` knows
    the whole.
    """

    name = "path"

    def __init__(self, *, addresses: bool = False) -> None:
        self.addresses = addresses

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Expand the path, or conceal the address."""
        try:
            if not addresses.has_scheme(value):
                return expand_path(value)
            if not self.addresses:
                raise UserError(f"{addresses.public_address(value)} is an address, and this takes a path")
            return addresses.conceal(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


class LabelledPath(PathType):
    """``LABEL=PATH``, the path as for :class:`PathType`. Other forms come back as they are."""

    name = "label=path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Convert the part behind ``=``."""
        if addresses.has_scheme(value):
            self.fail(f"{addresses.public_address(value)} has no label; the form is LABEL=PATH", param, ctx)
        label, equals, path = value.partition("=")
        return f"{label}={super().convert(path, param, ctx)}" if equals and path else str(value)


#: A path, and a path or an address; names that stand for something may come in place of both.
PATH, PATH_OR_URL = PathType(), PathType(addresses=True)

#: The same with a label in front.
LABELLED_PATH, LABELLED_PATH_OR_URL = LabelledPath(), LabelledPath(addresses=True)


class FiniteFloat(click.ParamType):
    """A finite number that 32 bits can hold, within limits if there are any."""

    name = "float"

    def __init__(
        self, *, min: float | None = None, above: float | None = None, max: float | None = None
    ) -> None:
        self.min, self.above, self.max = min, above, max

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number and check its limits."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"'{one_line(str(value), 60)}' is not a finite number", param, ctx)
        if abs(number) > MAX_FLOAT:
            self.fail(f"{number:g} is too large a number", param, ctx)
        for fine, limit in (
            (self.min is None or number >= self.min, f"at least {self.min}"),
            (self.above is None or number > self.above, f"greater than {self.above}"),
            (self.max is None or number <= self.max, f"at most {self.max}"),
        ):
            if not fine:
                self.fail(f"{number:g} must be {limit}", param, ctx)
        return number


class ClassNumber(click.ParamType):
    """A class by its number."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number."""
        try:
            return int(value)
        except ValueError:
            self.fail(
                f"'{value}' is not a class number such as 0. Labels that are lists of numbers cannot be "
                "given here;"
                " in Python, G(z, c) takes them",
                param,
                ctx,
            )


class Seconds(FiniteFloat):
    """A time to wait, from a second to some years."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number and check its range."""
        number = super().convert(value, param, ctx)
        if not 1 <= number <= 1e8:
            self.fail(f"{number:g} is not between 1 and 100000000 seconds", param, ctx)
        return number


class IntOrList(click.ParamType):
    """``"16"`` to 16, and ``"32,16"`` to ``(16, 32)``: one number, or different ones in ascending order."""

    name = "integer"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, ...]:
        """Parse and sort the numbers."""
        if isinstance(value, int | tuple):
            return value
        try:
            numbers = sorted(int(part) for part in value.split(","))
        except ValueError:
            self.fail(
                f"'{one_line(value, 60)}' is not a valid integer, or several by comma such as 16,32",
                param,
                ctx,
            )
        if len(set(numbers)) < len(numbers):
            self.fail(f"'{one_line(value, 60)}' has a number twice", param, ctx)
        return numbers[0] if len(numbers) == 1 else tuple(numbers)


class ValueRange(click.ParamType):
    """``"0-4095"`` to ``(0.0, 4095.0)``: two finite numbers in ascending order.

    ``auto`` and ``full`` stay as they are.
    """

    name = "range"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float] | str:
        """Parse the two numbers."""
        if isinstance(value, tuple) or value in ("auto", "full"):
            return value
        number = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
        match = re.fullmatch(rf"\s*{number}\s*-\s*{number}\s*", value, re.ASCII)
        if match is None:
            self.fail(f"'{value}' is not of the form LOW-HIGH, such as 0-4095, nor auto or full", param, ctx)
        low, high = float(match[1]), float(match[2])
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            self.fail(
                f"'{value}': the first number must be less than the second, and both finite", param, ctx
            )
        return low, high


class GridSize(click.ParamType):
    """``"5x4"`` to ``(5, 4)``: columns and rows, at least one of each."""

    name = "grid"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse columns and rows."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(rf"({DIGITS})[x×]({DIGITS})", value.strip().lower())
        if match is None or not (int(match[1]) and int(match[2])):
            self.fail(f"'{one_line(value, 60)}' is not a size in columns and rows such as 5x4", param, ctx)
        return int(match[1]), int(match[2])


def output_folder(path: str | Path, option: str = "--outdir") -> Path:
    """Make a folder unless it exists, and try to write in it. Raises :class:`UserError` naming ``option``."""
    try:
        return _writable_folder(Path(path))
    except OSError as error:
        raise UserError(f"cannot write to the folder {option}={path}: {error.strerror}") from error


def output_file(path: str | Path, option: str = "--out", *, same: bool = False) -> Path:
    """The path of a file to write, checked with its folder. Raises :class:`UserError`.

    Checks as :func:`output_folder` and :func:`refuse_existing` do.
    """
    refuse_existing(path, option, same=same)
    try:
        return _writable_folder(Path(path).parent) / Path(path).name
    except OSError as error:
        raise UserError(f"cannot write {option}={path}: {error.strerror}") from error


def _set_overwrite(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    context.meta[_OVERWRITE] = value


_OVERWRITE = "dnnlib.cli.overwrite"

#: Of every command that writes files under names that its options give.
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    is_eager=True,  # other options' checks ask for it
    expose_value=False,
    callback=_set_overwrite,
    help="Replace files that are there and that other options made  [default: refuse]",
)


def may_overwrite() -> bool:
    """Whether ``--overwrite`` was given."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_OVERWRITE))


def refuse_existing(path: str | Path, option: str = "--out", *, same: bool = False) -> None:
    """Raise :class:`UserError` when a file is there that would be replaced, unless ``--overwrite`` was given.

    ``same``: the file is an earlier result of the same options, and may be replaced.
    """
    if not same and not may_overwrite() and os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{option}={path} is there already; give another name, or --overwrite to replace it")


def _writable_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    return folder
