"""The metrics of one or more runs over training, as a Markdown table.

    python -m tools.metrics_table RUN_DIR [RUN_DIR ...]
"""

import json
import re
from pathlib import Path

import click

from dnnlib.cli import Command, friendly_errors
from dnnlib.errors import UserError


@click.command(cls=Command)
@click.argument("run_dirs", nargs=-1, required=True, metavar="RUN_DIR...")
@friendly_errors
def main(run_dirs: tuple[str, ...]) -> None:
    """Print the metrics of runs as a Markdown table: a row for each snapshot, a column for each run and value."""
    runs = {name: read_run(Path(name)) for name in run_dirs}
    columns = [(run, value) for run, rows in runs.items() for value in dict.fromkeys(key for row in rows.values() for key in row)]
    titles = [value if len(runs) == 1 else f"{Path(run).resolve().parent.name}: {value}" for run, value in columns]
    print("| kimg | " + " | ".join(titles) + " |")
    print("|---:|" + "---:|" * len(columns))
    for kimg in sorted({kimg for rows in runs.values() for kimg in rows}):
        cells = [runs[run].get(kimg, {}).get(value) for run, value in columns]
        print(f"| {kimg} | " + " | ".join("" if cell is None else f"{cell:.4g}" for cell in cells) + " |")


def read_run(run_dir: Path) -> dict[int, dict[str, float]]:
    """``{kimg: {name: value}}`` from a run's ``metric-*.jsonl``. Raises :class:`UserError` if there are none or one is damaged."""
    rows: dict[int, dict[str, float]] = {}
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
                (kimg,) = re.findall(r"network-snapshot-(\d+)", record["snapshot_pkl"])
                rows.setdefault(int(kimg), {}).update(record["results"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"line {number} of {path} is no result of a snapshot ({error})") from error
    if not rows:
        raise UserError(f"{run_dir} has no metric-*.jsonl; give the directory of a run with metrics")
    return rows


if __name__ == "__main__":
    main()
