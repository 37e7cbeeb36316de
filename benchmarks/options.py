"""What the benchmarks share: options that choose networks and step, ``--json``, and writing the result.

Defaults: docs/performance.md.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dnnlib.cli import PATH, FiniteFloat, output_file, overwrite_option
from dnnlib.errors import UserError
from dnnlib.files import atomic_write

F = TypeVar("F", bound=Callable[..., Any])


def _writable(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            output_file(value, "--json")
        except UserError as error:
            raise click.BadParameter(str(error)) from error
    return value


def json_option(command: F) -> F:
    """``json_file``, and ``--overwrite``."""
    option = click.option(
        "--json", "json_file", type=PATH, metavar="FILE", callback=_writable, help="write everything measured"
    )
    return option(overwrite_option(command))


def write_json(path: str | None, result: dict[str, Any]) -> None:
    """Write what was measured to the file of :func:`json_option`, if there is one."""
    if path is not None:
        with atomic_write(path, "w", encoding="utf-8") as stream:
            json.dump(result, stream, indent=1)


def data_option(command: F) -> F:
    """``data``, the bundled images by default."""
    bundled = Path(__file__).resolve().parent.parent / "data" / "emoji32.zip"
    return click.option(
        "--data", default=str(bundled), type=PATH, metavar="PATH", help="images  [default: the bundled ones]"
    )(command)


_NETWORKS = (
    click.option("--resolution", type=int, default=64, show_default=True),
    click.option("--cbase", type=int, default=8192, show_default=True),
    click.option("--cmax", type=int, default=512, show_default=True),
    click.option("--map-depth", type=int, default=2, show_default=True),
    click.option("--batch", type=int, default=8, show_default=True),
)
_STEP = (
    *_NETWORKS,
    click.option("--augpipe", default="bgc", show_default=True),
    click.option(
        "--p",
        type=FiniteFloat(min=0, max=1),
        default=0.3,
        show_default=True,
        help="probability of augmentation",
    ),
    click.option("--ggdr_res", type=int, default=16, show_default=True),
)


def network_options(command: F) -> F:
    """``resolution cbase cmax map_depth batch``."""
    return functools.reduce(lambda function, option: option(function), reversed(_NETWORKS), command)


def step_options(command: F) -> F:
    """:func:`network_options`, and ``augpipe p ggdr_res``."""
    return functools.reduce(lambda function, option: option(function), reversed(_STEP), command)
