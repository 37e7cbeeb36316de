"""Print the metrics of runs over training as a Markdown table.

Usage:

    python tools/metrics_table.py RUN_DIR [RUN_DIR ...]
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import PATH, Command, friendly_errors
from dnnlib.errors import UserError
from metrics.results import snapshot_values


@click.command(cls=Command)
@click.argument("run_dirs", nargs=-1, required=True, type=PATH, metavar="RUN_DIR...")
@friendly_errors
def main(run_dirs: tuple[str, ...]) -> None:
    """Print the metrics of runs as a Markdown table, a row for each snapshot."""
    runs = {name: read_run(Path(name)) for name in run_dirs}
    columns = [
        (run, value)
        for run, rows in runs.items()
        for value in dict.fromkeys(key for row in rows.values() for key in row)
    ]
    names = short_names(list(runs))
    titles = [value if len(runs) == 1 else f"{names[run]}: {value}" for run, value in columns]
    print("| kimg | " + " | ".join(titles) + " |")
    print("|---:|" + "---:|" * len(columns))
    for kimg in sorted({kimg for rows in runs.values() for kimg in rows}):
        cells = [runs[run].get(kimg, {}).get(value) for run, value in columns]
        print(f"| {kimg:g} | " + " | ".join("" if cell is None else f"{cell:.4g}" for cell in cells) + " |")


def short_names(runs: list[str]) -> dict[str, str]:
    """Names of runs: the folder that each lies in, or its own folder where runs share one."""
    outer = [Path(run).resolve().parent.name for run in runs]
    return dict(
        zip(
            runs,
            outer if len(set(outer)) == len(runs) else [Path(run).resolve().name for run in runs],
            strict=True,
        )
    )


def read_run(run_dir: Path) -> dict[float, dict[str, float]]:
    """``{kimg: {name: value}}`` of a run's snapshots; later values replace earlier ones.

    Raises:
        UserError: the run has no values.
    """
    rows: dict[float, dict[str, float]] = {}
    for kimg, values in snapshot_values(run_dir):
        rows.setdefault(kimg, {}).update(values)
    if not rows:
        raise UserError(
            f"{run_dir} has no metric-*.jsonl with values of a snapshot; give the directory of a run with "
            "metrics"
        )
    return rows


if __name__ == "__main__":
    main()
