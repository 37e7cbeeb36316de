"""Line plots as PNG files, with matplotlib."""

from pathlib import Path
from typing import Any

from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.optional import optional_import
from training.data.pictures import MARK

#: Colours of lines: the Okabe-Ito palette without its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def panels(count: int) -> tuple[Any, list[Any]]:
    """A matplotlib figure and ``count`` axes in rows of at most three.

    Raises:
        UserError: matplotlib is missing.
    """
    figures = optional_import("matplotlib.figure", extra="plots", purpose="drawing plots")
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = figures.Figure(figsize=(4.6 * columns, 3.4 * rows), dpi=100, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Any, out: str | Path, mark: str | None = None) -> None:
    """Write a PNG file; it appears complete or not at all.

    Args:
        figure: of matplotlib.
        out: the path.
        mark: see :func:`training.inference.outputs.mark_of`.

    Raises:
        UserError: the file can't be written.
    """
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            figure.savefig(
                stream, format="png", metadata={"Software": None, **({} if mark is None else {MARK: mark})}
            )
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
