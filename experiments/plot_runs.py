"""Draw curves of runs over training, with mean and spread over runs of one label.

Usage:

    python experiments/plot_runs.py --run=none='runs/none-seed*/*' --run=ggdr='runs/ggdr-seed*/*'
        --curve=fid2k_full --out=fid.png

Lee et al. 2022 (GGDR), figure 7a, is such a plot: FID in early training on LSUN Cat, several runs each.
"""

import glob
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    LABELLED_PATH,
    PATH,
    Command,
    FiniteFloat,
    friendly_errors,
    output_file,
    overwrite_option,
)
from dnnlib.errors import UserError
from experiments.plotting import COLOURS, panels, save_figure
from metrics.results import snapshot_values
from training.inference.outputs import has_mark, mark_of
from training.run.records import tick_means

#: Values of a run over its progress: ``{kimg: value}``.
Curve = dict[float, float]

LARGEST = 1e30  # larger values overflow in a drawing
MOST_PANELS = 60


def read_run(run_dir: Path, max_kimg: float = float("inf")) -> dict[str, Curve]:
    """Read all curves of a run by name, from ``metric-*.jsonl`` and ``stats.jsonl``.

    The last of several lines for one kimg counts. Lines beyond ``max_kimg`` and incomplete lines are left
    out. A value that is not finite, or too large to draw, is a gap.

    Raises:
        UserError: the run has no values.
    """
    curves: dict[str, Curve] = {}
    for kimg, values in [
        *snapshot_values(run_dir),
        *((tick.pop("Progress/kimg"), tick) for tick in tick_means(run_dir)),
    ]:
        for name, value in values.items():
            curves.setdefault(name, {})[kimg] = value if abs(value) <= LARGEST else math.nan
    last = min(max_kimg, LARGEST)
    shown = {
        name: {at: value for at, value in sorted(curve.items()) if 0 <= at <= last}
        for name, curve in curves.items()
    }
    if not any(shown.values()):
        raise UserError(
            f"'{run_dir}' has no value in metric-*.jsonl or stats.jsonl up to {max_kimg:g} kimg; give a run "
            "directory"
        )
    return {name: curve for name, curve in shown.items() if curve}


def mean_and_spread(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over runs, at each kimg at which all runs have a value.

    Returns:
        kimg, mean and deviation, ``[K]`` each. The deviation of a single run is 0.

    Raises:
        UserError: the runs have no kimg in common.
    """
    kimg = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not kimg:
        raise UserError(
            "the runs of one label have no kimg in common; runs of one label need equal --tick and --snap"
        )
    values = np.array([[curve[at] for at in kimg] for curve in curves], dtype=np.float64)
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(kimg))
    return np.array(kimg), values.mean(axis=0), deviation


def parse_runs(texts: Sequence[str]) -> dict[str, list[Path]]:
    """``["none=runs/a*", …]`` to ``{"none": run directories}``; a label may come several times.

    Raises:
        UserError: a text has another form, or no directory matches.
    """
    groups: dict[str, list[Path]] = {}
    for text in texts:
        label, equals, pattern = text.partition("=")
        if not (label and equals and pattern):
            raise UserError(
                f"--run={text} is not of the form LABEL=DIR, such as ggdr=runs/ggdr-seed0/00000-*"
            )
        found = [Path(name) for name in sorted(glob.glob(pattern)) if Path(name).is_dir()]
        if not found:
            raise UserError(f"--run={text}: no directory matches '{pattern}'")
        groups.setdefault(label, []).extend(found)
    return groups


def choose_curves(runs: Mapping[str, Sequence[Mapping[str, Curve]]], wanted: Sequence[str]) -> list[str]:
    """The curves to draw: ``wanted``, or all metrics.

    Raises:
        UserError: no run has such a curve, or there are too many.
    """
    known = {name for members in runs.values() for curves in members for name in curves}
    for name in wanted:
        if name not in known:
            raise UserError(f"--curve={name} is in none of the runs; they have {', '.join(sorted(known))}")
    chosen = list(wanted) or sorted(name for name in known if "/" not in name)
    if not chosen:
        raise UserError(f"the runs have no metrics; name what to draw with --curve, such as {min(known)}")
    if len(chosen) > MOST_PANELS:
        raise UserError(
            f"the runs have {len(chosen)} curves of metrics, too many for one picture; name those to draw "
            "with --curve"
        )
    return chosen


def draw(axis: Any, name: str, runs: Mapping[str, Sequence[Mapping[str, Curve]]]) -> None:
    """Draw one panel: runs as thin lines, means as thick lines in bands of ± one standard deviation."""
    for number, (label, members) in enumerate(runs.items()):
        curves = [curves[name] for curves in members if name in curves]
        if not curves:
            continue
        colour = COLOURS[number % len(COLOURS)]
        kimg, mean, deviation = mean_and_spread(curves)
        if len(curves) > 1:
            for curve in curves:
                axis.plot(list(curve), list(curve.values()), color=colour, linewidth=0.6, alpha=0.5)
            axis.fill_between(kimg, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        marker = "o" if len(kimg) <= 30 else None
        axis.plot(
            kimg,
            mean,
            color=colour,
            linewidth=1.8,
            marker=marker,
            markersize=3,
            label=f"{label} ({_runs(len(curves))})",
        )
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("kimg")
    for text in axis.legend(fontsize=8).get_texts():
        text.set_parse_math(False)  # a label may have a dollar sign


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs, mean ± s.d."


@click.command(cls=Command)
@click.option(
    "--run",
    "runs",
    multiple=True,
    required=True,
    type=LABELLED_PATH,
    metavar="LABEL=DIR",
    help="Run directory or pattern; equal labels are seeds",
)
@click.option(
    "--curve",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="fid2k_full, Loss/D/loss, …; repeat for more  [default: all metrics]",
)
@click.option("--out", required=True, type=PATH, metavar="PNG", help="Picture to write")
@overwrite_option
@click.option("--max-kimg", type=FiniteFloat(), metavar="KIMG", help="Leave out what comes later")
@click.option("--log", is_flag=True, help="Logarithmic values")
@friendly_errors
def main(runs: tuple[str, ...], wanted: tuple[str, ...], out: str, max_kimg: float | None, log: bool) -> None:
    """Draw metrics and statistics of runs over kimg, a panel for each, with mean and spread of each label.

    \b
    python experiments/plot_runs.py --run=none='runs/none-*/0*' --run=ggdr='runs/ggdr-*/0*' --out=fid.png
    """
    limit = float("inf") if max_kimg is None else max_kimg
    found = parse_runs(runs)
    folders = {label: sorted(str(path.resolve()) for path in paths) for label, paths in found.items()}
    mark = mark_of("plot_runs.py", runs=folders, curves=wanted, max_kimg=max_kimg, log=log)
    output_file(out, same=has_mark(out, mark))
    read = {label: [read_run(folder, limit) for folder in paths] for label, paths in found.items()}
    names = choose_curves(read, wanted)
    figure, axes = panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        draw(axis, name, read)
        if log:
            axis.set_yscale("log")
    save_figure(figure, out, mark)
    print(
        f"{out}: {', '.join(names)} of "
        f"{', '.join(f'{len(members)} x {label}' for label, members in read.items())}"
    )


if __name__ == "__main__":
    main()
